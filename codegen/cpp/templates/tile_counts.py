"""How a launch is cut into tasks and chunks: index expressions that become both C++ text and plan sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ullage.codegen.loops.ir import Apply, Const, Dim, Expr
from ullage.plan.sizes import Size

CHUNK_STEPS = 384
"""Longest run of k whose partial sum starts at zero: shorter runs round less but reload the sums more often."""

_SPLIT_ROWS = 32
"""From this many rows on, the rows of one weight tile are shared by all threads."""

_FOLD: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": min,
    "max": max,
}
_TOKENS = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "min": "min", "max": "max"}


def combine(op: str, left: Expr | int, right: Expr | int) -> Expr:
    """`op` of two non-negative counts, folded when both are constant."""
    a, b = _expr(left), _expr(right)
    if isinstance(a, Const) and isinstance(b, Const):
        return Const(_FOLD[op](int(a.value), int(b.value)))
    return Apply(op, (a, b), "int64")


def _expr(value: Expr | int) -> Expr:
    return Const(value) if isinstance(value, int) else value


def ceil_div(value: Expr, divisor: Expr | int) -> Expr:
    """The quotient rounded up."""
    return combine("floordiv", combine("sub", combine("add", value, divisor), 1), divisor)


def align(value: Expr, multiple: int) -> Expr:
    """The count rounded up to a multiple."""
    return combine("mul", ceil_div(value, multiple), multiple)


def known(value: Expr) -> int | None:
    """The count if it is constant, else None."""
    folded = fold(value)
    return int(folded.value) if isinstance(folded, Const) else None


def fold(value: Expr) -> Expr:
    """The same count with constant parts folded."""
    if isinstance(value, Apply) and value.op in _FOLD and len(value.args) == 2:
        return combine(value.op, fold(value.args[0]), fold(value.args[1]))
    return value


def to_size(value: Expr) -> Size:
    """The count as a size program of the plan; raises ValueError for anything but counts of dimensions."""
    match value:
        case Const(number, _):
            return Size((int(number),))
        case Dim(name, _):
            return Size((name,))
        case Apply(op, (left, right), _) if op in _TOKENS:
            return Size((*to_size(left).tokens, *to_size(right).tokens, _TOKENS[op]))
    raise ValueError(f"a count of tasks cannot be made of {value!r}")


@dataclass(frozen=True, slots=True)
class RowBlocks:
    """`count` blocks of at most `rows` rows (a multiple of the full tile's rows) cover the rows of one weight tile."""

    rows: Expr
    count: Expr


def row_blocks(m: Expr, threads: int, tile_rows: int, most: int, others: Expr | int = 1) -> RowBlocks:
    """Even blocks of at most about `most` rows; enough for all threads from 32 rows on.

    `others` tasks exist beside the row blocks in any launch, so that fewer blocks will do.
    """
    spare = ceil_div(Const(2 * threads), others)
    shares = combine("min", combine("min", threads, spare), combine("add", 1, combine("floordiv", m, _SPLIT_ROWS)))
    wanted = combine("max", ceil_div(m, most), shares)
    rows = align(ceil_div(m, wanted), tile_rows)
    return RowBlocks(rows, ceil_div(m, rows))


def chunk_steps(k: Expr) -> Expr:
    """Steps of every chunk of k but the last: the fewest equal chunks of at most `CHUNK_STEPS`."""
    return ceil_div(k, ceil_div(k, CHUNK_STEPS))
