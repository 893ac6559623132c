"""The standard's backend tests, compiled and run, beside ONNX Runtime on the same cases.

`python -m tests.frontends.onnx.conformance [--only TEXT] [--known FILE] [--page FILE] [--jobs N]` prints how many cases
pass, and the others by reason. Cases run in other processes with a time limit each; one that dies is a failure.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from ctypes import memmove, string_at
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.frontends.onnx.standard import Case, array_of, cases, check, value_of

_FORMAT = 10
"""The version of the file format that cases have for ONNX Runtime; that of operators stays as it is."""
SECONDS = 300
"""Most time for one case, which compiles C++."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case: why it failed (empty if it passed), compiled by us and run by ONNX Runtime."""

    name: str
    ours: str
    onnxruntime: str


def compiled(case: Case) -> None:
    """Compile a case for each of its data sets and compare; raises whatever is wrong."""
    import ullage

    for inputs, expected in case.data:
        tensors = tuple(value_of(x) for x in inputs)
        model = ullage.compile(case.model, example_inputs=tensors)
        found = model(*tensors)
        model.close()
        for got, wanted in zip(_results(found), expected, strict=True):
            check(case, got, wanted)


def _results(found: Any) -> Sequence[Any]:
    return found if isinstance(found, tuple) else (found,)


def by_onnxruntime(case: Case) -> None:
    """The same by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = min(model.ir_version, _FORMAT)  # newer ones are refused unread
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    for inputs, expected in case.data:
        names = [value.name for value in session.get_inputs()]
        arrays, wanted = [array_of(x) for x in inputs], [array_of(x) for x in expected]
        run = _run_values if any(map(_is_extended, (*arrays, *wanted))) else _run_arrays
        for got, truth in zip(run(session, dict(zip(names, arrays, strict=False))), expected, strict=True):
            check(case, got, truth)


def _run_arrays(session: Any, given: dict[str, Any]) -> list[Any]:
    return [_value(found) for found in session.run(None, given)]


def _value(found: Any) -> Any:
    if isinstance(found, list):
        return [_value(item) for item in found]
    return None if found is None else value_of(found.astype(found.dtype.str))


def _is_extended(array: Any) -> bool:
    """Whether an array has a type that numpy itself lacks, such as bfloat16."""
    return isinstance(array, np.ndarray) and array.dtype.isbuiltin != 1


def _run_values(session: Any, given: dict[str, Any]) -> list[Any]:
    """The same for types that numpy lacks: by their bits."""
    outputs = [value.name for value in session.get_outputs()]
    found = session.run_with_ort_values(outputs, {name: _from_array(x) for name, x in given.items()})
    return [value_of(_to_array(value)) for value in found]


def _from_array(array: np.ndarray) -> Any:
    import onnxruntime

    stored = numpy_helper.from_array(array)
    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(array.shape), stored.data_type)
    memmove(value.data_ptr(), stored.raw_data, len(stored.raw_data))
    return value


def _to_array(value: Any) -> np.ndarray:
    data = string_at(value.data_ptr(), value.tensor_size_in_bytes())
    stored = onnx.TensorProto(dims=value.shape(), data_type=value.element_type(), raw_data=data)
    return numpy_helper.to_array(stored)


def reason(run: Any, case: Case) -> str:
    """Why a run fails; empty if it does not."""
    try:
        run(case)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        return f"{type(error).__name__}: {lines[0][:160]}"
    return ""


def _work(pipe: Connection, kind: str) -> None:
    """Run the cases whose names come in, and send what became of them."""
    known = {case.name: case for case in cases()}
    run = compiled if kind == "ours" else by_onnxruntime
    os.environ["ALLOW_RELEASED_ONNX_OPSET_ONLY"] = "0"  # ONNX Runtime tries operator sets that are new to it, too
    np.seterr(all="ignore")
    pipe.send("ready")
    while (name := pipe.recv()) is not None:
        pipe.send(reason(run, known[name]))


class Worker:
    """A process that runs cases one after another; it is started again when it dies or takes too long."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._start()

    def _start(self) -> None:
        context = mp.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, self.kind), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()

    def outcome(self, name: str) -> str:
        """Why a case fails."""
        self.pipe.send(name)
        try:
            if self.pipe.poll(SECONDS):
                return str(self.pipe.recv())
            why = f"no result after {SECONDS} s"
        except EOFError:
            why = "the process died"
        self.stop()
        self._start()
        return why

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def outcomes(names: Sequence[str], jobs: int) -> Iterator[Outcome]:
    """What becomes of each case, as they are done."""
    waiting: Queue[str] = Queue()
    done: Queue[Outcome] = Queue()
    for name in names:
        waiting.put(name)
    threads = [Thread(target=_drain, args=(waiting, done), daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for _ in names:
        yield done.get()


def _drain(waiting: Queue[str], done: Queue[Outcome]) -> None:
    ours, other = Worker("ours"), Worker("onnxruntime")
    while True:
        try:
            name = waiting.get_nowait()
        except Empty:
            break
        done.put(Outcome(name, ours.outcome(name), other.outcome(name)))
    ours.stop()
    other.stop()


def page(found: Sequence[Outcome]) -> str:
    """The page of the manual: figures, and each failure with its reason and what ONNX Runtime makes of it."""
    failed = sorted((o for o in found if o.ours), key=lambda o: (o.ours, o.name))
    lines = [
        "# The ONNX standard's backend tests",
        "",
        f"Written by `make conformance` with onnx {onnx.__version__} and onnxruntime {_runtime_version()}: the cases",
        "of the default domain without training and strings, each compiled for its inputs, run, and compared within",
        "its own tolerances. ONNX Runtime ran the same cases in the same run, those of operator sets too that are",
        "newer than what it is released for.",
        "",
        "| | pass | of | share |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {count} | {len(found)} | {count / len(found):.1%} |" for name, count in _figures(found)),
        "",
        "## Cases that fail",
        "",
        "| case | why | ONNX Runtime |",
        "| --- | --- | --- |",
        *(f"| {o.name} | {_cell(_why(o))} | {'fails' if o.onnxruntime else 'passes'} |" for o in failed),
    ]
    return "\n".join(lines) + "\n"


REASONS = {
    "NonMaxSuppression": "how many results there are follows from data",
    "NonZero": "how many results there are follows from data",
    "Unique": "how many results there are follows from data",
    "ImageDecoder": "it decodes image files",
    "Dropout": "in training mode it draws random numbers",
    "Bernoulli": "it draws random numbers; what is expected are those of one generator",
    "RandomUniformLike": "it draws random numbers; what is expected are those of one generator",
    "test_dft_inverse": "1.9e-7 is expected where the exact result is 0, within 1e-7",
}
"""What stands behind failures that are known, by a part of the message or the name."""


def _why(outcome: Outcome) -> str:
    known = next((text for part, text in REASONS.items() if part in f"{outcome.ours} {outcome.name}"), "")
    return f"{known} ({outcome.ours})" if known else outcome.ours


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _runtime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _figures(found: Sequence[Outcome]) -> list[tuple[str, int]]:
    kinds = (("Ullage", "ours"), ("ONNX Runtime", "onnxruntime"))
    return [(name, sum(not getattr(o, kind) for o in found)) for name, kind in kinds]


def main() -> int:
    """Print the figures and the failures by reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases with this text in their name")
    parser.add_argument("--known", type=Path, help="outcomes of earlier runs (JSON lines), to which new ones are added")
    parser.add_argument("--page", type=Path, help="write the page of the manual")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    options = parser.parse_args()
    names = [case.name for case in cases() if options.only in case.name]
    known = _read(options.known)
    found = [known[name] for name in names if name in known]
    for outcome in outcomes([name for name in names if name not in known], options.jobs):
        found.append(outcome)
        _record(outcome, options.known)
    _print(found)
    if options.page is not None:
        options.page.write_text(page(found))
    return 0


def _print(found: Sequence[Outcome]) -> None:
    failures: dict[str, list[str]] = defaultdict(list)
    for outcome in found:
        if outcome.ours:
            failures[outcome.ours].append(outcome.name)
    for why, those in sorted(failures.items(), key=lambda item: -len(item[1])):
        print(f"{len(those):4} {why}  {' '.join(those[:4])}")
    for name, count in _figures(found):
        print(f"{name}: {count} of {len(found)} ({count / len(found):.1%})")


def _read(path: Path | None) -> dict[str, Outcome]:
    if path is None or not path.exists():
        return {}
    return {(found := Outcome(**json.loads(line))).name: found for line in path.read_text().splitlines()}


def _record(outcome: Outcome, path: Path | None) -> None:
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
