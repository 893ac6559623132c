"""Damaged ONNX files, many of them: whatever a file holds, it is read or refused in one line, soon and in little space.

`python -m tests.frontends.onnx.fuzz [--files 1000] [--seed 0]` changes fields of small models at random (sizes, names,
types, attributes, the order of nodes) and reads the result. `python -m tests.frontends.onnx.fuzz --bytes FOLDER
[atheris options]` lets atheris change bytes, guided by coverage, from a corpus in FOLDER that is made if it is empty.
Findings are printed with the file that causes them.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from ullage.errors import UllageError

SECONDS = 20
"""Most time for one file."""
BYTES = 1 << 30
"""Most memory beyond what the process has when it starts."""
_NUMBERS = (0, 1, -1, 2, 3, 7, 64, 255, 4096, 1 << 16, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63))
_TEXTS = ("", "x", "y", "w", "é", "a/b", "../x", "\n", "x" * 300, "Add", "Conv", "Shape", "ai.onnx", "com.microsoft")


class Slow(Exception):
    """A file took too long."""


def read(data: bytes) -> str:
    """The one line that refuses a file, empty if it is read; other exceptions are findings."""
    from ullage.frontends.load import load_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        try:
            load_model(path)
        except UllageError as error:
            assert "\n" not in str(error), f"more than one line: {error}"
            return str(error)
    return ""


def timed(run: Callable[[], str]) -> str:
    """Run with an alarm after SECONDS."""

    def ring(*_: Any) -> None:
        raise Slow

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        return run()
    finally:
        signal.alarm(0)


def mutated(model: onnx.ModelProto, rng: random.Random) -> bytes:
    """The model with one to four fields changed."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for _ in range(rng.randint(1, 4)):
        _mutate(changed, rng)
    data = changed.SerializeToString()
    if rng.random() < 0.1:
        place = rng.randrange(len(data))
        data = data[:place] + bytes([rng.randrange(256)]) + data[place + rng.randint(0, 2) :]
    return data


def _mutate(message: Any, rng: random.Random) -> None:
    """Change one field of a message or of those inside it."""
    chosen = rng.choice(list(_messages(message)))
    field = rng.choice(list(chosen.DESCRIPTOR.fields))
    if field.is_repeated:
        _mutate_list(getattr(chosen, field.name), field, rng)
    elif field.message_type is not None:
        if rng.random() < 0.3:
            chosen.ClearField(field.name)
    elif rng.random() < 0.2:
        chosen.ClearField(field.name)
    else:
        _set(chosen, field, rng)


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from _messages(part)


def _mutate_list(values: Any, field: Any, rng: random.Random) -> None:
    kind = rng.randrange(4)
    if kind == 0 and len(values):
        del values[rng.randrange(len(values))]
    elif kind == 1 and len(values) and field.message_type is not None:
        values.add().CopyFrom(rng.choice(list(values)))
    elif field.message_type is None and kind >= 2:
        value = _value(field, rng)
        if len(values) and kind == 3:
            values[rng.randrange(len(values))] = value
        else:
            values.append(value)
    elif len(values) > 1:
        order = list(values)
        rng.shuffle(order)
        copies = [type(part)() for part in order] if field.message_type is not None else order
        if field.message_type is not None:
            for copy, part in zip(copies, order, strict=True):
                copy.CopyFrom(part)
        del values[:]
        values.extend(copies)


def _set(message: Any, field: Any, rng: random.Random) -> None:
    try:
        setattr(message, field.name, _value(field, rng))
    except ValueError:
        message.ClearField(field.name)


def _value(field: Any, rng: random.Random) -> Any:
    if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        return rng.choice([0.0, 1.0, -1.0, 1e30, float("inf"), float("nan"), rng.uniform(-5, 5)])
    if field.cpp_type == field.CPPTYPE_STRING:
        text = rng.choice(_TEXTS)
        return text.encode() if field.type == field.TYPE_BYTES else text
    number = rng.choice((*_NUMBERS, rng.randrange(-3, 30)))
    if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_ENUM):
        return number if -(1 << 31) <= number < 1 << 31 else rng.randrange(-3, 30)
    return max(0, number) if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) else number


def seeds() -> list[onnx.ModelProto]:
    """Models to start from: small cases of the standard, of every operator."""
    from tests.frontends.onnx.standard import cases

    known: dict[str, onnx.ModelProto] = {}
    for case in cases():
        size = case.model.ByteSize()
        kinds = "+".join(sorted({node.op_type for node in case.model.graph.node}))
        if size < 4000 and (kinds not in known or known[kinds].ByteSize() > size):
            known[kinds] = case.model
    return [known[kinds] for kinds in sorted(known)]


def findings(models: list[onnx.ModelProto], rng: random.Random, files: int) -> Iterator[tuple[bytes, Exception]]:
    """Files that are neither read nor refused, among so many."""
    for _ in range(files):
        data = mutated(rng.choice(models), rng)
        try:
            timed(partial(read, data))
        except Exception as error:
            yield data, error


def limit_memory() -> None:
    """No more than BYTES beyond what is mapped now."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + BYTES, mapped + BYTES))


def by_bytes(folder: Path, options: list[str]) -> None:
    """Hand over to atheris."""
    import atheris  # type: ignore[import-not-found,unused-ignore]

    folder.mkdir(exist_ok=True)
    if not any(folder.iterdir()):
        for i, model in enumerate(seeds()):
            (folder / f"{i:03}").write_bytes(model.SerializeToString())
    atheris.Setup(["fuzz", str(folder), f"-timeout={SECONDS}", "-rss_limit_mb=2048", *options], lambda data: read(data))
    atheris.Fuzz()


def main() -> int:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bytes", type=Path, help="fuzz bytes with atheris, with a corpus in this folder")
    parser.add_argument("--trace", action="store_true", help="print where each finding comes from")
    options, rest = parser.parse_known_args()
    if options.bytes is not None:
        by_bytes(options.bytes, rest)
        return 0
    models, found = seeds(), 0
    read(models[0].SerializeToString())
    limit_memory()
    for data, error in findings(models, random.Random(options.seed), options.files):
        found += 1
        path = Path(tempfile.gettempdir()) / f"finding-{options.seed}-{found}.onnx"
        path.write_bytes(data)
        if options.trace:
            traceback.print_exception(error, limit=-8)
        print(f"{type(error).__name__}: {str(error)[:200]!r} {path}", flush=True)
    print(f"{found} findings")
    return found > 0


if __name__ == "__main__":
    sys.exit(main())
