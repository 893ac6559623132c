"""Values while lowering: strided views of storages, and lazily evaluated tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ullage.codegen.loops.ir import Cast, Const, Expr
from ullage.codegen.lower.index import ONE, ZERO
from ullage.codegen.lower.shapes import Index, Shape, contiguous_strides, same

HALF = frozenset({"float16", "bfloat16"})


class NotFusable(Exception):
    """A group of nodes cannot be lowered as one kernel; the message says why."""


@dataclass(frozen=True, slots=True)
class View:
    """Elements of a storage (or constant) at `offset + Σ index·strides`, all counted in elements of `dtype`."""

    storage: str
    dtype: str
    shape: Shape
    strides: Shape
    offset: Expr = ZERO

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie row-major without gaps."""
        expected = contiguous_strides(self.shape)
        return all(n == ONE or same(a, b) for n, a, b in zip(self.shape, self.strides, expected, strict=True))

    def with_shape(self, shape: Shape, strides: Shape, offset: Expr | None = None) -> View:
        """Another shape over the same storage."""
        return replace(self, shape=shape, strides=strides, offset=self.offset if offset is None else offset)


@dataclass(frozen=True, slots=True)
class Lazy:
    """A tensor as a function of its index. Values of half types are computed in float32 (see `compute_dtype`)."""

    shape: Shape
    dtype: str
    at: Callable[[Index], Expr]


def compute_dtype(dtype: str) -> str:
    """The dtype that values of a tensor dtype are computed in."""
    return "float32" if dtype in HALF else dtype


def cast(expr: Expr, dtype: str) -> Expr:
    """Convert an expression; literals are converted at once."""
    if expr.dtype == dtype:
        return expr
    if isinstance(expr, Const):
        return literal(expr.value, dtype)
    return Cast(expr, dtype)


def literal(value: int | float | bool, dtype: str) -> Const:
    """A Python number as a constant of a dtype, converted by torch's rules (float → int truncates)."""
    if dtype == "bool":
        return Const(bool(value), dtype)
    if dtype.startswith("float") or dtype == "bfloat16":
        return Const(float(value), dtype)
    return Const(int(value), dtype)
