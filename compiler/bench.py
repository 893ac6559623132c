"""`ullage bench`: several systems on one model, each in a process of its own, in interleaved rounds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from ullage.arrays import read_arrays, write_arrays
from ullage.artifact.reader import Artifact, read_manifest
from ullage.bench_worker import SYSTEMS, Job
from ullage.budget import format_bytes
from ullage.checking import compare, tolerance_of
from ullage.checking import input_specs as input_specs_of
from ullage.errors import InputError
from ullage.facts import seconds_text
from ullage.flow import convert
from ullage.options import CompileOptions, InputSpecs
from ullage.reference import Reference, Tensors, as_tensor, open_reference, relative_error
from ullage.runtime.executor import choose_threads
from ullage.runtime.load import load
from ullage.runtime.tensors import numpy_dtype
from ullage.scratch import Scratch

_SETTLE_SECONDS = 0.25
"""Thread pools go on spinning after a run: OpenMP's of LLVM for 0.2 s."""


@dataclass(frozen=True)
class Row:
    """One system: `status` is "ok" or says why there are no figures; `peak_bytes` leaves its libraries out."""

    system: str
    status: str
    seconds_median: float | None = None
    seconds_iqr: float | None = None
    peak_bytes: int | None = None
    bytes_read: int | None = None
    max_rel_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of the command line's JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Table:
    """All systems, Ullage first; `passed` says whether Ullage's results were right."""

    rows: tuple[Row, ...]
    passed: bool

    def text(self) -> str:
        """The rows as a table in plain text."""
        header = ("system", "median", "IQR", "peak", "read", "max rel. error", "status")
        rows = [header, *(_cells(row) for row in self.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header) - 1)]
        return "\n".join(
            "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:-1], widths[1:], strict=True)), row[-1]]
            )
            for row in rows
        )


def _cells(row: Row) -> tuple[str, ...]:
    def shown(value: Any, form: Any) -> str:
        return "–" if value is None else str(form(value))

    return (
        row.system,
        shown(row.seconds_median, seconds_text),
        shown(row.seconds_iqr, seconds_text),
        shown(row.peak_bytes, format_bytes),
        shown(row.bytes_read, format_bytes),
        shown(row.max_rel_error, lambda error: f"{error:.2e}"),
        row.status,
    )


class _Worker:
    """A process that runs one system on demand."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.seconds: list[float] = []
        command = [sys.executable, "-m", "ullage.bench_worker", job.to_text()]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def measure(self) -> None:
        """One turn, once the threads of the others have stopped spinning."""
        time.sleep(_SETTLE_SECONDS)
        self.seconds.append(self.ask("run").get("seconds", float("nan")))

    def answer(self) -> dict[str, Any]:
        """The next line from the worker; a dead worker answers with a status that says so."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        return {"status": f"failed: the process ended with code {self._process.wait()}"}

    def ask(self, order: str) -> dict[str, Any]:
        """Send an order, return the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        return self.answer()


def bench(
    subject: str,
    against: Sequence[str],
    reference: str | None,
    budget: str | None,
    input_specs: InputSpecs | None,
    rounds: int,
    threads: int | None = None,
    accuracy: str | float = "exact",
    tune: float | None = None,
    quantize: str | None = None,
) -> Table:
    """Compile `subject` if it is a model, then run it beside the other systems in `rounds` interleaved rounds.

    All run on `threads`; without it, on as many as are available and as the artifact was made for. With an `accuracy`
    that is a number, or the scheme bfloat16, OpenVINO may use bfloat16, too; with the scheme int8 it and ONNX Runtime
    run what ONNX Runtime's quantizer makes of the model; llama.cpp runs what its own makes of it for each scheme.
    Ullage's outputs are judged as `check` judges them.
    """
    names = [name.strip() for name in against if name.strip()]
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise InputError(f"--against {', '.join(unknown)}: unknown; there are {', '.join(SYSTEMS)}.")
    scratch = Scratch()
    is_artifact, model = Path(subject).suffix == ".ullage", reference or subject
    if is_artifact and tune is not None:
        raise InputError(f"--tune is for models, {subject} is compiled already.")
    if is_artifact and reference is None:
        return _alone(Path(subject), budget, names, scratch.path, rounds, threads)
    options = CompileOptions(
        budget=budget,
        accuracy=accuracy,
        quantize=quantize,
        input_specs=input_specs,
        progress=True,
        threads=threads,
        tune=tune,
    )
    artifact = Path(subject) if is_artifact else scratch.path / "model.ullage"
    if not is_artifact:
        convert(subject, options, artifact)
    count = _threads(artifact, threads)
    truth = open_reference(model, options)
    inputs = truth.inputs()
    write_arrays(scratch.path / "inputs.npz", {name: as_array(tensor) for name, tensor in inputs.items()})
    outputs = tuple(spec.name for spec in truth.captured.outputs)
    fixed = (model, str(artifact), budget, input_specs, outputs, str(scratch.path), count)
    systems = dict.fromkeys(["ullage", *names])
    jobs = [Job(name, *fixed, _precision(options), quantize) for name in systems]
    tolerance = tolerance_of(read_manifest(artifact).about)
    return _judge(run_rounds(jobs, rounds), truth, inputs, scratch.path, tolerance)


def _precision(options: CompileOptions) -> str:
    """What other systems may compute in."""
    if options.quantize == "int8":
        return "int8"
    return "bfloat16" if options.is_lossy else "float32"


def _threads(artifact: Path, asked: int | None) -> int:
    """Threads for all systems; InputError for more than the artifact was made for."""
    with Artifact(artifact) as opened:
        return choose_threads(opened.plan(opened.manifest.default).threads, asked)


def _alone(
    artifact: Path, budget: str | None, others: Sequence[str], folder: Path, rounds: int, threads: int | None
) -> Table:
    """Only the artifact, on inputs of ones: without its model there is nothing for other systems to run."""
    with load(artifact, budget, threads) as runner:
        plan = runner.plan.raw
    specs = input_specs_of(plan, None)
    write_arrays(folder / "inputs.npz", {name: np.ones(shape, numpy_dtype(t)) for name, (t, shape) in specs.items()})
    count = choose_threads(plan.threads, threads)
    job = Job("ullage", "", str(artifact), budget, None, (), str(folder), count)
    rows = run_rounds([job], rounds)
    skipped = [Row(name, "skipped: --reference MODEL names the model to run") for name in dict.fromkeys(others)]
    return Table((*rows, *skipped), all(row.status == "ok" for row in rows))


def as_array(tensor: torch.Tensor) -> Any:
    """A tensor for a file; bfloat16 as its bits."""
    dense = tensor.detach().contiguous()
    return dense.view(torch.uint16).numpy() if dense.dtype == torch.bfloat16 else dense.numpy()


def run_rounds(jobs: Sequence[Job], rounds: int) -> list[Row]:
    """Start all systems one after another, then give each a turn per round; outputs are left in the job's folder."""
    with ExitStack() as stack:
        rows: list[Row] = []
        ready: list[_Worker] = []
        for job in jobs:
            worker = stack.enter_context(_Worker(job))
            status = worker.answer()["status"]
            ready += [worker] if status == "ok" else []
            rows.append(Row(job.system, status))
        for _ in range(rounds):
            for worker in ready:
                worker.measure()
        finished = {worker.job.system: _finish(worker) for worker in ready}
    return [finished.get(row.system, row) for row in rows]


def _finish(worker: _Worker) -> Row:
    answer = worker.ask("end")
    if answer["status"] != "ok":
        return Row(worker.job.system, answer["status"])
    return Row(
        worker.job.system,
        "ok",
        statistics.median(worker.seconds),
        interquartile_range(worker.seconds),
        answer["peak_bytes"],
        answer["bytes_read"],
    )


def interquartile_range(values: Sequence[float]) -> float:
    """Third quartile minus first; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


def _judge(rows: Sequence[Row], truth: Reference, inputs: Tensors, folder: Path, tolerance: float | None) -> Table:
    exact, framework = truth.run(inputs, torch.float64), truth.run(inputs)
    results = {row.system: _outputs(folder, row.system, truth) for row in rows if row.status == "ok"}
    judged = tuple(_with_error(row, results.get(row.system), exact) for row in rows)
    ours = results.get("ullage")
    return Table(judged, ours is not None and compare(ours, framework, exact, tolerance).passed)


def _outputs(folder: Path, system: str, truth: Reference) -> Tensors:
    names = [spec.name for spec in truth.captured.outputs]
    arrays = read_arrays(folder / f"{system}.npz", names)
    return {spec.name: as_tensor(arrays[spec.name], spec.dtype) for spec in truth.captured.outputs}


def _with_error(row: Row, results: Tensors | None, exact: Mapping[str, torch.Tensor]) -> Row:
    if results is None:
        return row
    worst = max(relative_error(results[name], value) for name, value in exact.items())
    return Row(**{**asdict(row), "max_rel_error": worst})
