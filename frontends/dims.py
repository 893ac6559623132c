"""Dynamic dimensions: declared bounds on the way in, symbols with bounds on the way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.utils._sympy.numbers import IntInfinity

from ullage.errors import CaptureError
from ullage.graph.captured import DimBounds, TensorSpec

Ranges = Mapping[str, Mapping[int, tuple[int, int]]]


def dynamic_shapes_from_ranges(ranges: Ranges, names: Iterable[str]) -> dict[str, Any]:
    """`dynamic_shapes` for torch.export from {input: {axis: (minimum, maximum)}}; other `names` are static.

    Dimensions that the model forces to be equal (a sequence length shared by two inputs) become one symbol.
    """
    shapes: dict[str, Any] = {name: None for name in names}
    for name, axes in ranges.items():
        dims = {axis: torch.export.Dim.DYNAMIC(min=low, max=high) for axis, (low, high) in axes.items()}
        shapes[name] = dims
    return shapes


def dim_bounds(inputs: Sequence[TensorSpec], constraints: Mapping[sympy.Symbol, Any]) -> tuple[DimBounds, ...]:
    """The bounds of every symbol in the inputs' shapes; raises CaptureError for one without an upper bound."""
    bounds: dict[str, DimBounds] = {}
    for spec in inputs:
        for axis, size in enumerate(spec.shape):
            for symbol in _symbols(size):
                bounds.setdefault(str(symbol), _bounds(symbol, constraints, f"axis {axis} of input {spec.name!r}"))
    return tuple(bounds.values())


def _symbols(size: int | torch.SymInt) -> list[sympy.Symbol]:
    if isinstance(size, int):
        return []
    return sorted(size.node.expr.free_symbols, key=str)


def _bounds(symbol: sympy.Symbol, constraints: Mapping[sympy.Symbol, Any], place: str) -> DimBounds:
    found = constraints.get(symbol)
    if found is None or isinstance(found.upper, IntInfinity) or int(found.upper) >= 2**48:
        raise CaptureError(
            f"the dynamic dimension {symbol} ({place}) has no upper bound, and a plan needs one; "
            "declare it, for example torch.export.Dim('n', min=1, max=512)."
        )
    return DimBounds(str(symbol), max(1, int(found.lower)), int(found.upper))
