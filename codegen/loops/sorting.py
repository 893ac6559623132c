"""The memory that a sort of one row needs, which is the same on all targets."""

from __future__ import annotations

from ullage.codegen.loops.ir import DTYPE_BYTES, Apply, Const, Expr
from ullage.codegen.loops.poly import to_expr, to_poly

_LEAST_ROOM = 64


def room(length: Expr, count: Expr) -> Expr:
    """Items that are held at a time to find the first `count` of `length`: all, or four times as many as are wanted."""
    if to_poly(length) == to_poly(count):
        return length
    wanted = Apply("max", (_times(count, 4), Const(_LEAST_ROOM)), "int64")
    return _folded(Apply("min", (length, wanted), "int64"))


def order_elements(dtype: str, length: Expr, count: Expr) -> Expr:
    """Elements of the int64 buffer that a sort of values of a dtype works in: two items, of a key and a position, for
    each that is held."""
    return _times(room(length, count), 4 if DTYPE_BYTES[dtype] == 8 else 2)


def _times(size: Expr, factor: int) -> Expr:
    return to_expr(to_poly(Apply("mul", (size, Const(factor)), "int64")))


def _folded(expr: Expr) -> Expr:
    """A minimum or maximum of numbers as a number."""
    if not isinstance(expr, Apply) or expr.op not in ("min", "max"):
        return expr
    args = [_folded(a) for a in expr.args]
    numbers = [int(a.value) for a in args if isinstance(a, Const)]
    if len(numbers) == len(args):
        return Const(min(numbers) if expr.op == "min" else max(numbers))
    return Apply(expr.op, tuple(args), "int64")
