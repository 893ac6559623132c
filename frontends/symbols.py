"""Dynamo's symbols: what is known of a size, and the bound that a plan takes where nothing is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_LEAST_GROWN = 16
_MOST = 1 << 31


@dataclass(frozen=True, slots=True)
class Extent:
    """The least value of a size, and the largest one if it was declared (by `mark_dynamic`, or by the code)."""

    minimum: int
    maximum: int | None


def extent_of(size: torch.SymInt) -> Extent:
    """What Dynamo knows of a symbolic size."""
    found = size.node.shape_env.bound_sympy(size.node.expr)
    lower = int(found.lower) if found.lower.is_Integer else -1
    upper = int(found.upper) if found.upper.is_Integer else _MOST
    return Extent(lower, upper if upper < _MOST else None)


def grown(size: int) -> int:
    """The next power of two, at least 16: sizes that keep growing are planned for anew only so many times."""
    return max(_LEAST_GROWN, 1 << max(0, size - 1).bit_length())
