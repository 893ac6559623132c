"""Epilogues whose outputs are neighbours in memory along rows, as in channels-first images: lanes run along m.

The sums of a block of rows are kept and then transposed, squares at a time, so that every output stores runs of rows.
Where rows of several images follow each other, m // P and m % P say where in which image of P pixels a row is: a run
ends with its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ullage.codegen.loops.ir import Apply, Expr, Load, Store, Var
from ullage.codegen.loops.poly import free_vars, linear_in, rewrite, to_poly, unique

IMAGE = "image"
"""The variable that stands for m // P."""
TURNED_ROWS = 64
"""Rows that are transposed at once."""

_M, _N = "m", "n"


@dataclass(frozen=True, slots=True)
class Turned:
    """Stores for lanes along m, with `image` for m // `period` if there is a period."""

    stores: tuple[Store, ...]
    period: Expr | None


def turned(stores: Sequence[Store]) -> Turned | None:
    """The stores for lanes along m, or None where at least as many accesses are contiguous along n."""
    periods = {period for e in _expressions(stores) if (period := _period(e)) is not None}
    period = periods.pop() if len(periods) == 1 else None
    within = tuple(_within_images(store) for store in stores) if period is not None else tuple(stores)
    return Turned(within, period) if _slow(within, _M) < _slow(stores, _N) else None


def _expressions(stores: Sequence[Store]) -> list[Expr]:
    return [e for store in stores for root in (store.index, store.value) for e in unique(root)]


def _period(expr: Expr) -> Expr | None:
    """P if an expression is m // P or m % P."""
    if isinstance(expr, Apply) and expr.op in ("floordiv", "mod") and expr.args[0] == Var(_M):
        return expr.args[1]
    return None


def _within_images(store: Store) -> Store:
    def place(expr: Expr) -> Expr:
        period = _period(expr)
        if period is None or not isinstance(expr, Apply):
            return expr
        if expr.op == "floordiv":
            return Var(IMAGE)
        return Apply("sub", (Var(_M), Apply("mul", (Var(IMAGE), period), "int64")), "int64")

    return replace(store, index=rewrite(store.index, place), value=rewrite(store.value, place))


def _slow(stores: Sequence[Store], lane: str) -> int:
    """Loads, and twice the stores, whose lanes are not neighbours."""
    loads = [e.index for store in stores for e in unique(store.value) if isinstance(e, Load)]
    return 2 * sum(_strided(store.index, lane) for store in stores) + sum(_strided(index, lane) for index in loads)


def _strided(index: Expr, lane: str) -> bool:
    if lane not in free_vars(index):
        return False
    split = linear_in(to_poly(index), lane)
    return split is None or split[0].value != 1
