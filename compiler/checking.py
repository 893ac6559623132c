"""`ullage check`: an artifact against its model, judged by how close both are to float64."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ullage.errors import InputError
from ullage.options import CompileOptions
from ullage.reference import Reference, Tensors, as_tensor, open_reference, relative_error

_FACTOR = 4.0
_FLOOR_ULPS = 16.0


@dataclass(frozen=True)
class OutputCheck:
    """One output: its relative error against float64, that of the framework, and what was allowed."""

    name: str
    error: float
    reference_error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; a NaN never is."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class CheckResult:
    """All outputs."""

    outputs: tuple[OutputCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every output passed."""
        return all(output.passed for output in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """The document of `ullage check --json`."""
        return {"passed": self.passed, "outputs": [{**asdict(o), "passed": o.passed} for o in self.outputs]}

    def table(self) -> str:
        """One line per output."""
        return "\n".join(
            f"{'ok  ' if o.passed else 'FAIL'} {o.name}: relative error {o.error:.3g} "
            f"(allowed {o.tolerance:.3g}; the framework's own {o.reference_error:.3g})"
            for o in self.outputs
        )


def check(artifact: Path, model: str, input_file: Path | None, tolerance: float | None) -> CheckResult:
    """Run both on the same inputs. Without a tolerance, an output passes when it is about as close to float64 as the
    framework's own result: within four times its error, or sixteen roundings of the output's type."""
    from ullage.arrays import read_arrays
    from ullage.runtime.load import load

    runner = load(artifact)
    try:
        reference = open_reference(model, CompileOptions())
        inputs = (
            reference.inputs() if input_file is None else _named(read_arrays(input_file, _names(reference)), reference)
        )
        results = dict(runner.run(inputs))
        ours = {spec.name: as_tensor(results[spec.name], spec.dtype) for spec in reference.captured.outputs}
        return compare(ours, reference.run(inputs), reference.run(inputs, torch.float64), tolerance)
    finally:
        runner.close()


def _names(reference: Reference) -> list[str]:
    return [spec.name for spec in reference.captured.inputs]


def _named(arrays: dict[str, Any], reference: Reference) -> Tensors:
    missing = [name for name in _names(reference) if name not in arrays]
    if missing:
        raise InputError(f"the input file lacks {', '.join(missing)}; it has {', '.join(arrays)}.")
    return {spec.name: as_tensor(arrays[spec.name], spec.dtype) for spec in reference.captured.inputs}


def compare(ours: Tensors, framework: Tensors, truth: Tensors, tolerance: float | None) -> CheckResult:
    """Judge every output of `ours`."""
    return CheckResult(tuple(_compare(name, ours[name], framework[name], truth[name], tolerance) for name in truth))


def _compare(
    name: str, ours: torch.Tensor, framework: torch.Tensor, truth: torch.Tensor, tolerance: float | None
) -> OutputCheck:
    if ours.shape != truth.shape:
        return OutputCheck(name, float("inf"), 0.0, 0.0)
    theirs = relative_error(framework, truth)
    rounding = torch.finfo(ours.dtype).eps if ours.dtype.is_floating_point else 0.0
    allowed = max(_FACTOR * theirs, _FLOOR_ULPS * rounding) if tolerance is None else tolerance
    return OutputCheck(name, relative_error(ours, truth), theirs, allowed)
