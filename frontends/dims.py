"""Dynamic dimensions of a captured graph: its symbols and their bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch.utils._sympy.numbers import IntInfinity

from ullage.errors import CaptureError
from ullage.frontends.dynamic import Minimums
from ullage.graph.captured import DimBounds, TensorSpec

_TRACED_MINIMUM = 2
"""What torch assumes of a dynamic size while tracing; a graph has no strides, so a declared 1 holds as well."""


def dim_bounds(
    inputs: Sequence[TensorSpec], constraints: Mapping[sympy.Symbol, Any], minimums: Minimums
) -> tuple[DimBounds, ...]:
    """The bounds of every symbol in the inputs' shapes; raises CaptureError for one without an upper bound."""
    bounds: dict[str, DimBounds] = {}
    for leaf, spec in enumerate(inputs):
        for axis, size in enumerate(spec.shape):
            for symbol in _symbols(size):
                place = f"axis {axis} of input {spec.name!r}"
                bounds.setdefault(str(symbol), _bounds(symbol, constraints, minimums.get((leaf, axis)), place))
    return tuple(bounds.values())


def named(
    dims: Sequence[DimBounds], inputs: Sequence[TensorSpec], names: Mapping[tuple[int, int], str]
) -> tuple[DimBounds, ...]:
    """The dimensions with the names that axes of inputs, or what these are multiples of, were declared with."""
    found: dict[str, str] = {}
    for (leaf, axis), name in names.items():
        symbols = _symbols(inputs[leaf].shape[axis])
        if len(symbols) == 1:
            found.setdefault(str(symbols[0]), name)
    return tuple(replace(dim, name=found.get(dim.symbol, dim.name)) for dim in dims)


def _symbols(size: int | torch.SymInt) -> list[sympy.Symbol]:
    if isinstance(size, int):
        return []
    return sorted(size.node.expr.free_symbols, key=str)


def _bounds(
    symbol: sympy.Symbol, constraints: Mapping[sympy.Symbol, Any], declared: int | None, place: str
) -> DimBounds:
    found = constraints.get(symbol)
    if found is None or isinstance(found.upper, IntInfinity) or int(found.upper) >= 2**48:
        raise CaptureError(
            f"the dynamic dimension {symbol} ({place}) has no upper bound, and a plan needs one; "
            "declare it, for example torch.export.Dim('n', min=1, max=512)."
        )
    lower = int(found.lower)
    if lower == _TRACED_MINIMUM and declared is not None:
        lower = declared
    return DimBounds(str(symbol), max(1, lower), int(found.upper))
