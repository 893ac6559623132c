"""Cutting the outer space of a kernel into tasks."""

from __future__ import annotations

from dataclasses import dataclass

from ullage.codegen.cpp.schedule import TILE, Schedule, stage_weight
from ullage.codegen.loops.ir import Apply, Const, Expr
from ullage.codegen.loops.poly import to_expr, to_poly

GRAIN = 16384
"""Elements of simple arithmetic in one task."""
_LINE = 64


@dataclass(frozen=True, slots=True)
class Tasks:
    """Index expressions: rows per task, lane elements per task (None: all), blocks per row group, tasks in all."""

    rows: Expr
    rows_per_task: Expr
    block: Expr | None
    blocks: Expr
    count: Expr


def tasks(plan: Schedule) -> Tasks:
    """Cut the outer space: first the lane loop if it is long, then whole rows."""
    rows = _product(
        [*(x.extent for x in plan.rows), *([_ceil_div(plan.tile.extent, Const(TILE))] if plan.tile else [])]
    )
    cost = _point_cost(plan)
    if plan.lane is None:
        per_task = _at_least_one(_quotient(Const(GRAIN), cost))
        return Tasks(rows, per_task, None, Const(1), _ceil_div(rows, per_task))
    block = _block(cost)
    extent = plan.lane.extent
    if isinstance(extent, Const) and isinstance(block, Const) and extent.value <= 2 * block.value:
        per_task = Const(max(1, int(block.value) // max(1, int(extent.value))))
        return Tasks(rows, per_task, None, Const(1), _ceil_div(rows, per_task))
    blocks = _ceil_div(extent, block)
    per_task = Const(1) if isinstance(rows, Const) and rows.value == 1 else _at_least_one(_quotient(block, extent))
    return Tasks(rows, per_task, block, blocks, _fold("mul", _ceil_div(rows, per_task), blocks))


def _point_cost(plan: Schedule) -> Expr:
    """Simple element operations of one outer point."""
    total: Expr = Const(0)
    for p in plan.stages:
        weight = Const(max(1, stage_weight(p.stage) // 4))
        total = _fold("add", total, _fold("mul", _product([x.extent for x in p.loops]), weight))
    return total


def _block(cost: Expr) -> Expr:
    """Lane elements of one task, a multiple of a cache line's."""
    lines = _quotient(Const(GRAIN // _LINE), cost)
    return _fold("mul", _at_least_one(lines), Const(_LINE))


def _product(values: list[Expr]) -> Expr:
    total: Expr = Const(1)
    for value in values:
        total = _fold("mul", total, value)
    return total


def _quotient(a: Expr, b: Expr) -> Expr:
    """How often b fits into a; for b = 0, work over nothing, as for 1."""
    return a if isinstance(b, Const) and b.value == 0 else _fold("truncdiv", a, b)


def _ceil_div(a: Expr, b: Expr) -> Expr:
    if isinstance(b, Const) and b.value == 1:
        return a
    return _quotient(_fold("add", a, _fold("sub", b, Const(1))), b)


def _at_least_one(a: Expr) -> Expr:
    return _fold("max", a, Const(1))


def _fold(op: str, a: Expr, b: Expr) -> Expr:
    if isinstance(a, Const) and isinstance(b, Const):
        x, y = int(a.value), int(b.value)
        return Const({"add": x + y, "sub": x - y, "mul": x * y, "max": max(x, y)}[op] if op != "truncdiv" else x // y)
    if op in ("add", "sub", "mul"):
        return to_expr(to_poly(Apply(op, (a, b), "int64")))
    return Apply(op, (a, b), "int64")
