"""The manifest: everything that `ullage inspect` prints, and where the plans of the file lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from ullage.plan.plan import Plan, TensorInfo
from ullage.plan.sizes import Size


class Rewrite(msgspec.Struct, frozen=True):
    """One change that a pass made: `what` was done `where`, and the relative error that it was measured to cause."""

    by: str = msgspec.field(name="pass")
    what: str
    where: str
    error: float | None = None


class TunedKernel(msgspec.Struct, frozen=True):
    """A kernel that was tuned: the choice, its time over that of the template's own, and how many others were tried."""

    kernel: str
    where: str
    launches: int
    choice: str
    ratio: float
    tried: int


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver knows about an artifact beside its plans."""

    ullage_version: str
    target: str
    cpu_features: tuple[str, ...]
    accuracy: str | float
    entry_points: tuple[str, ...] = ("forward",)
    rewrites: tuple[Rewrite, ...] = ()
    requires: tuple[str, ...] = ()
    runtime_overhead_bytes: int = 0
    tuning: tuple[TunedKernel, ...] = ()


class PlanEntry(msgspec.Struct, frozen=True):
    """One plan of the file: its figures, and its place in the section of plans."""

    budget_bytes: int
    peak_bytes: int
    minimum_bytes: int
    resident_bytes: int
    streamed_bytes_per_run: int
    predicted_seconds: float
    offset: int
    length: int
    crc: int


class Manifest(msgspec.Struct, frozen=True):
    """All that is told without decoding a plan; `plans` ascend by peak, `default` is the one asked for."""

    about: About
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    kernels: tuple[str, ...]
    weight_bytes: int
    plans: tuple[PlanEntry, ...]
    default: int


def plan_entry(plan: Plan, offset: int, length: int, crc: int) -> PlanEntry:
    """The entry of a plan that lies at `offset` of the section of plans."""
    return PlanEntry(
        budget_bytes=plan.budget_bytes,
        peak_bytes=plan.peak_bytes,
        minimum_bytes=plan.minimum_bytes,
        resident_bytes=plan.resident_bytes,
        streamed_bytes_per_run=plan.streamed_bytes_per_run,
        predicted_seconds=plan.prediction.seconds,
        offset=offset,
        length=length,
        crc=crc,
    )


def describe(manifest: Manifest, format_version: int, file_bytes: int) -> dict[str, Any]:
    """The document of `ullage inspect --json`."""
    about, plan = manifest.about, manifest.plans[manifest.default]
    return {
        "format_version": format_version,
        "ullage_version": about.ullage_version,
        "target": about.target,
        "accuracy": about.accuracy,
        "inputs": _tensors(manifest.inputs),
        "outputs": _tensors(manifest.outputs),
        "entry_points": list(about.entry_points),
        "budget_bytes": plan.budget_bytes,
        "peak_bytes": {"ram": plan.peak_bytes},
        "minimum_bytes": {"ram": plan.minimum_bytes},
        "resident_bytes": plan.resident_bytes,
        "streamed_bytes_per_run": plan.streamed_bytes_per_run,
        "weight_bytes": manifest.weight_bytes,
        "file_bytes": file_bytes,
        "runtime_overhead_bytes": about.runtime_overhead_bytes,
        "predicted_seconds": plan.predicted_seconds,
        "kernels": list(manifest.kernels),
        "rewrites": [msgspec.to_builtins(rewrite) for rewrite in about.rewrites],
        "tuning": [msgspec.to_builtins(kernel) for kernel in about.tuning],
        "requires": list(about.requires),
        "budgets": [{"budget_bytes": p.budget_bytes, "peak_bytes": p.peak_bytes} for p in manifest.plans],
    }


def _tensors(tensors: Sequence[TensorInfo]) -> list[dict[str, Any]]:
    return [_tensor(tensor) for tensor in tensors]


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    shape = [_extent(Size(program)) for program in tensor.shape]
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": shape} | fixed_json(tensor)


def fixed_json(tensor: TensorInfo) -> dict[str, Any]:
    """The values of an input that may have no others, for JSON."""
    if tensor.fixed is None:
        return {}
    return {"fixed": np.frombuffer(tensor.fixed, tensor.dtype).tolist()}


def _extent(size: Size) -> int | str:
    value = size.constant
    return str(size) if value is None else value
