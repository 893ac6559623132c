"""Bounds of dynamic dimensions in a model's metadata: written with a model, and read where no sizes are given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import onnx_ir as ir
import torch

_KEY = "ullage.range."
"""Before the name of a dynamic dimension; the value is `minimum..maximum`."""
_VALUE = re.compile(r"(\d{1,12})\.\.(\d{1,12})")


def as_metadata(ranges: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """The entries for bounds by name."""
    return {f"{_KEY}{name}": f"{low}..{high}" for name, (low, high) in ranges.items()}


def declared(model: ir.Model, inputs: Iterable[ir.Value]) -> dict[str, dict[int, Any]]:
    """Dynamic dimensions of inputs as the model's metadata bounds them, one `Dim` for each name."""
    dims = {name: _dim(name, bounds) for name, bounds in _bounds(model.metadata_props).items()}
    found: dict[str, dict[int, Any]] = {}
    for value in inputs:
        axes = {axis: dims[name] for axis, name in open_dimensions(value).items() if name in dims}
        if axes:
            found[str(value.name)] = axes
    return found


def open_dimensions(value: ir.Value) -> dict[int, str]:
    """The names of the dimensions that have no number."""
    dims = enumerate(value.shape if value.shape is not None else ())
    named = {axis: getattr(dim, "value", None) for axis, dim in dims if not isinstance(dim, int)}
    return {axis: name for axis, name in named.items() if name}


def _bounds(metadata: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    pairs = {key.removeprefix(_KEY): _VALUE.fullmatch(text) for key, text in metadata.items() if key.startswith(_KEY)}
    found = {name: (int(pair[1]), int(pair[2])) for name, pair in pairs.items() if pair is not None}
    return {name: (low, high) for name, (low, high) in found.items() if 1 <= low < high}


def _dim(name: str, bounds: tuple[int, int]) -> Any:
    text = name if name.isidentifier() else re.sub(r"\W", "_", f"d_{name}")
    return torch.export.Dim(text, min=bounds[0], max=bounds[1])
