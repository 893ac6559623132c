"""`ullage check`: an artifact against its model, judged by how close both are to float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ullage.artifact.manifest import About
from ullage.errors import InputError
from ullage.options import CompileOptions
from ullage.plan.plan import Plan
from ullage.reference import Reference, Tensors, as_tensor, open_reference, relative_error

_FACTOR = 2.0
_FLOOR, _FLOOR_FLOAT64 = 1e-5, 1e-12


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
    framework's own result: within twice its error, or 1e-5 (1e-12 for float64, two roundings for 16-bit types); an
    artifact with an accuracy other than exact, within that; one with a forced scheme, within twice its own error."""
    from ullage.arrays import read_arrays
    from ullage.artifact.reader import read_manifest
    from ullage.runtime.load import load

    if tolerance is None:
        tolerance = tolerance_of(read_manifest(artifact).about)
    with load(artifact) as runner:
        plan = runner.plan.raw
        arrays = None if input_file is None else read_arrays(input_file, [info.name for info in plan.inputs])
        reference = _reference(model, input_specs(plan, arrays))
        inputs = reference.inputs() if arrays is None else _named(arrays, reference)
        results = runner.run(inputs)
        ours = {spec.name: as_tensor(results[spec.name], spec.dtype) for spec in reference.captured.outputs}
        return compare(ours, reference.run(inputs), reference.run(inputs, torch.float64), tolerance)


def tolerance_of(about: About) -> float | None:
    """What an artifact was allowed; twice the measured error of rewrites that were asked for at any error."""
    if not isinstance(about.accuracy, str):
        return about.accuracy
    error = max((rewrite.error or 0.0 for rewrite in about.rewrites), default=0.0)
    return _FACTOR * error if error > 0.0 else None


def input_specs(plan: Plan, arrays: Mapping[str, Any] | None) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of every input: as in `arrays`, else the largest that the artifact takes."""
    upper = {dim.name: dim.maximum for dim in plan.dimensions}
    return {
        info.name: (info.dtype, info.shape_at(upper) if arrays is None else tuple(arrays[info.name].shape))
        for info in plan.inputs
        if arrays is None or info.name in arrays
    }


def _reference(model: str, specs: dict[str, tuple[str, tuple[int, ...]]]) -> Reference:
    """The model captured at the artifact's shapes: a factory's own inputs where they fit, else inputs after `specs`."""
    if Path(model).is_dir():
        return open_reference(model, CompileOptions(input_specs=specs))
    reference = open_reference(model, CompileOptions())
    own = {spec.name: tuple(spec.shape) for spec in reference.captured.inputs}
    if own == {name: shape for name, (_, shape) in specs.items()} or Path(model).exists():
        return reference
    return open_reference(model, CompileOptions(input_specs=specs))


def _named(arrays: Mapping[str, Any], reference: Reference) -> Tensors:
    specs = reference.captured.inputs
    missing = [spec.name for spec in specs if spec.name not in arrays]
    if missing:
        raise InputError(f"the input file lacks {', '.join(missing)}; it has {', '.join(arrays)}.")
    return {spec.name: as_tensor(arrays[spec.name], spec.dtype) for spec in specs}


def compare(ours: Tensors, framework: Tensors, truth: Tensors, tolerance: float | None) -> CheckResult:
    """Judge every output of `ours`."""
    return CheckResult(tuple(_compare(name, ours[name], framework[name], truth[name], tolerance) for name in truth))


def floor_of(dtype: torch.dtype) -> float:
    """The relative error that is always allowed: sums in another order, and two roundings of a 16-bit type."""
    if not dtype.is_floating_point:
        return 0.0
    return _FLOOR_FLOAT64 if dtype == torch.float64 else max(_FLOOR, 2 * torch.finfo(dtype).eps)


def _compare(
    name: str, ours: torch.Tensor, framework: torch.Tensor, truth: torch.Tensor, tolerance: float | None
) -> OutputCheck:
    if ours.shape != truth.shape:
        return OutputCheck(name, float("inf"), 0.0, 0.0)
    theirs = relative_error(framework, truth)
    allowed = max(_FACTOR * theirs, floor_of(ours.dtype)) if tolerance is None else tolerance
    return OutputCheck(name, relative_error(ours, truth), theirs, allowed)
