"""Dynamic dimensions of a captured graph: its symbols and their bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.utils._sympy.numbers import IntInfinity

from ullage.errors import CaptureError
from ullage.graph.captured import DimBounds, TensorSpec


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
