"""One system of a benchmark in a process of its own: prints `ready`, then obeys `run` and `end` line by line."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from ullage.arrays import read_arrays, write_arrays
from ullage.errors import InputError
from ullage.overhead import resident_high_water_bytes

SYSTEMS = ("eager", "inductor", "onnxruntime", "openvino", "llamacpp")
Call = Callable[[], Mapping[str, Any]]
_WARM_SECONDS = 0.05
_TURN_SECONDS = 0.1
"""A turn is runs that are not counted, until threads and caches are this system's, then the median of such as are."""


@dataclass(frozen=True)
class Job:
    """What to run: the system, the model, Ullage's artifact, and the folder with `inputs.npz`."""

    system: str
    model: str
    artifact: str
    budget: str | None
    input_specs: Mapping[str, tuple[str, tuple[int, ...]]] | None
    output_names: tuple[str, ...]
    folder: str
    threads: int
    precision: str = "float32"
    """What other systems that can may compute in: float32, bfloat16 or int8."""
    scheme: str | None = None
    """The scheme that Ullage runs, for systems that have schemes like it."""

    def to_text(self) -> str:
        """One command-line argument."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_text(text: str) -> Job:
        """The inverse of `to_text`."""
        return msgspec.json.decode(text, type=Job)


@dataclass(frozen=True)
class System:
    """A loaded system: `call` runs it once and gives outputs by name, `bytes_read` those of the last run (or None)."""

    call: Call
    baseline_bytes: int
    bytes_read: Callable[[], int | None]


def main(job: Job, answers: IO[str]) -> None:
    """Load, warm up, obey; every answer is one line of JSON."""

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        system = _LOADERS[job.system](job)
        system.call()
        _forget_high_water()
        system.call()
    except ModuleNotFoundError as error:
        return say(status=f"missing: package {error.name} is not installed")
    except Exception as error:
        return say(status=f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    say(status="ok")
    for line in sys.stdin:
        if line.strip() == "end":
            break
        _seconds_of_runs(system.call, _WARM_SECONDS)
        say(status="ok", seconds=statistics.median(_seconds_of_runs(system.call, _TURN_SECONDS)))
    outputs = system.call()
    peak = resident_high_water_bytes() - system.baseline_bytes
    write_arrays(Path(job.folder) / f"{job.system}.npz", {name: _array(value) for name, value in outputs.items()})
    say(status="ok", peak_bytes=max(0, peak), bytes_read=system.bytes_read())


def _seconds_of_runs(call: Call, total_seconds: float) -> list[float]:
    """How long each of the runs takes that fill so many seconds; at least one."""
    begin = time.perf_counter()
    taken: list[float] = []
    while not taken or time.perf_counter() - begin < total_seconds:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def _forget_high_water() -> None:
    """Let the high-water mark start from the memory that is resident now, not from what loading took."""
    Path("/proc/self/clear_refs").write_text("5")


def _array(value: Any) -> Any:
    if not hasattr(value, "detach"):
        return value
    from ullage.bench import as_array

    return as_array(value)


def _inputs(job: Job) -> dict[str, Any]:
    return read_arrays(Path(job.folder) / "inputs.npz", ())


def _ullage(job: Job) -> System:
    from ullage.runtime.load import load

    baseline = resident_high_water_bytes()
    runner = load(job.artifact, job.budget, job.threads)
    inputs = _inputs(job)
    return System(lambda: runner.run(inputs), baseline, lambda: int(runner.stats()["bytes_read"]["disk"]))


@dataclass(frozen=True)
class _Torch:
    """A model in eager PyTorch: a module with its arguments, and the names of its flat outputs."""

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output_names: tuple[str, ...]
    baseline_bytes: int

    def named(self, result: Any) -> dict[str, Any]:
        """Flat tensor outputs by name."""
        import torch
        from torch.utils import _pytree as pytree

        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        return dict(zip(self.output_names, leaves, strict=True))


def _open_torch(job: Job) -> _Torch:
    """The factory's own module; for files the captured graph, which calls the same operators."""
    import torch

    from ullage.frontends.factory import call_factory, is_factory
    from ullage.options import CompileOptions
    from ullage.reference import as_tensor, open_reference

    torch.set_num_threads(job.threads)
    torch.set_grad_enabled(False)
    baseline, names = resident_high_water_bytes(), job.output_names
    if is_factory(job.model) and job.input_specs is None:
        module, args, kwargs = call_factory(job.model)
        module = module.eval() if isinstance(module, torch.nn.Module) else module
        return _Torch(module, args or (), kwargs or {}, names, baseline)
    reference = open_reference(job.model, CompileOptions(input_specs=job.input_specs))
    arrays = _inputs(job)
    inputs = [as_tensor(arrays[spec.name], spec.dtype) for spec in reference.captured.inputs]
    constants = [ref.read() for ref in reference.captured.constants.values()]
    return _Torch(reference.captured.module, (*constants, *inputs), {}, names, baseline)


def _eager(job: Job) -> System:
    model = _open_torch(job)
    return System(lambda: model.named(model.module(*model.args, **model.kwargs)), model.baseline_bytes, lambda: None)


def _inductor(job: Job) -> System:
    import torch

    model = _open_torch(job)
    compiled: Any = torch.compile(model.module, options={"freezing": True})
    return System(lambda: model.named(compiled(*model.args, **model.kwargs)), model.baseline_bytes, lambda: None)


def _exported(job: Job, model: _Torch, arrays: Mapping[str, Any]) -> Path:
    """The model as an ONNX file, in a folder of its own for the weights that lie beside it."""
    from ullage.bench_export import export_onnx

    folder = Path(job.folder) / job.system
    folder.mkdir()
    path = folder / "model.onnx"
    export_onnx(model.module, model.args, path, list(arrays), model.output_names)
    return path


def _onnxruntime(job: Job) -> System:
    import onnxruntime

    arrays = _inputs(job)
    model = _open_torch(job)
    path = _exported(job, model, arrays)
    if job.precision == "int8":
        from ullage.bench_int8 import for_onnxruntime

        path = for_onnxruntime(path, arrays)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    used = {spec.name: arrays[spec.name] for spec in session.get_inputs()}
    outputs = model.output_names
    baseline = model.baseline_bytes
    del model
    return System(lambda: dict(zip(outputs, session.run(list(outputs), used), strict=True)), baseline, lambda: None)


def _openvino(job: Job) -> System:
    import openvino

    model = _open_torch(job)
    if job.precision == "int8":
        from ullage.bench_int8 import with_static_ranges

        arrays = _inputs(job)
        converted = openvino.convert_model(str(with_static_ranges(_exported(job, model, arrays), arrays)))
    else:
        from ullage.bench_export import to_openvino

        converted = to_openvino(model.module, model.args)
    precision = "bf16" if job.precision == "bfloat16" else "f32"
    compiled = openvino.compile_model(
        converted, "CPU", {"INFERENCE_NUM_THREADS": str(job.threads), "INFERENCE_PRECISION_HINT": precision}
    )
    inputs = [value.numpy() for value in model.args]
    outputs, baseline = model.output_names, model.baseline_bytes
    del model, converted

    def call() -> dict[str, Any]:
        results = compiled(inputs)
        return {name: results[index] for index, name in enumerate(outputs)}

    return System(call, baseline, lambda: None)


def _llamacpp(job: Job) -> System:
    from ullage.bench_llama import open_decoder
    from ullage.frontends.factory import is_factory

    if not is_factory(job.model) or job.input_specs is not None:
        raise InputError("no decoder that llama.cpp knows: it is looked for in a factory's module, at its own sizes.")
    baseline = resident_high_water_bytes()
    call = open_decoder(job.model, Path(job.folder), job.threads, job.scheme or job.precision)
    return System(lambda: dict(zip(job.output_names, [call()], strict=True)), baseline, lambda: None)


_LOADERS: dict[str, Callable[[Job], System]] = {
    "ullage": _ullage,
    "eager": _eager,
    "inductor": _inductor,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "llamacpp": _llamacpp,
}

if __name__ == "__main__":
    # What libraries print, natively too, must not mix with the answers.
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(Job.from_text(sys.argv[1]), private)
