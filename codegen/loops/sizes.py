"""Index expressions of dimensions as run-time sizes."""

from __future__ import annotations

from ullage.codegen.loops.ir import Apply, Const, Dim, Expr
from ullage.errors import InputError
from ullage.plan.sizes import Size

_TOKENS = {
    "add": "+", "sub": "-", "mul": "*", "floordiv": "//", "truncdiv": "//", "mod": "%", "max": "max", "min": "min",
}  # fmt: skip


def to_size(expr: Expr) -> Size:
    """The size program of an expression over `Const`, `Dim` and index operators; raises InputError for others.

    `truncdiv` is taken as `//`: sizes are not negative.
    """
    match expr:
        case Const(value):
            return Size((int(value),))
        case Dim(name):
            return Size((name,))
        case Apply("neg", (a,)):
            return Size((0,)) - to_size(a)
        case Apply(op, (a, b)) if op in _TOKENS:
            return _combine(_TOKENS[op], to_size(a), to_size(b))
        case _:
            raise InputError(f"a size may use constants, dimensions and index operators only, found {expr}.")


def _combine(token: str, left: Size, right: Size) -> Size:
    match token:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//":
            return left // right
        case "%":
            return left % right
        case "max":
            return left.maximum(right)
        case _:
            return left.minimum(right)
