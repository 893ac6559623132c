"""C++ text of the stages of one outer point, or of a vector of outer points."""

from __future__ import annotations

from collections.abc import Sequence

from ullage.codegen.cpp import ops
from ullage.codegen.cpp.blocks import Lane
from ullage.codegen.cpp.reductions import SERIAL_BLOCK, SUM_BLOCK, Accumulator
from ullage.codegen.cpp.schedule import StagePlan
from ullage.codegen.cpp.scope import Scope
from ullage.codegen.cpp.vector_loops import (
    folded_loop,
    known_extent,
    lane_loop,
    open_blocks,
    open_loop,
    rotating_loop,
)
from ullage.codegen.loops.ir import Apply, Const, Expr, Load, Loop, Reduce, Scan, Statement, Store, Var
from ullage.codegen.loops.normal import reduces
from ullage.codegen.loops.poly import unique
from ullage.codegen.loops.traverse import expressions

Accumulators = Sequence[Accumulator]


# ---- one outer point, vectors inside ----------------------------------------------------------------------------
def stage_inside(scope: Scope, plan: StagePlan) -> None:
    """One stage of one outer point; its reductions are bound afterwards."""
    accs = [Accumulator.declare(scope, s, plan.lanes, plan.copies) for s in reduces(plan.stage)]
    if plan.lanes == 1:
        scope.open("")
        _plain_loops(scope, plan, accs, [None], [{}])
        scope.close()
    elif accs:
        _reduce_lanes(scope, plan, accs)
    else:
        _store_lanes(scope, plan)
    for acc in accs:
        scope.bind(acc.name, acc.finish(scope, keep_lanes=False))


def _store_lanes(scope: Scope, plan: StagePlan) -> None:
    last = plan.loops[-1]
    for loop in plan.loops[:-1]:
        open_loop(scope, loop)

    def body(lanes: Sequence[Lane]) -> None:
        for lane in lanes:
            scope.open("", lane=lane)
            emit_body(scope, plan, (), {}, 0)
            scope.close()

    lane_loop(scope, last, ("0L", scope.scalar(last.extent), known_extent(last)), plan.lanes, 1, body)
    for _ in plan.loops[:-1]:
        scope.close()


def _reduce_lanes(scope: Scope, plan: StagePlan, accs: Accumulators) -> None:
    last = plan.loops[-1]
    for loop in plan.loops[:-1]:
        open_loop(scope, loop)
    extent = known_extent(last)
    if not any(a.is_float_sum for a in accs) or (extent is not None and extent <= SUM_BLOCK and len(plan.loops) == 1):
        _reduce_span(scope, plan, accs, ("0L", scope.scalar(last.extent), extent))
    else:
        first, end = open_blocks(scope, last, SUM_BLOCK)
        parts = [a.again(scope) if a.is_float_sum else a for a in accs]
        _reduce_span(scope, plan, parts, (first, end, extent if extent is not None and extent <= SUM_BLOCK else None))
        _absorb(scope, accs, parts)
        scope.close()
    for _ in plan.loops[:-1]:
        scope.close()


def _absorb(scope: Scope, accs: Accumulators, parts: Accumulators) -> None:
    for acc, part in zip(accs, parts, strict=True):
        if part is not acc:
            acc.absorb(scope, part)


def _reduce_span(scope: Scope, plan: StagePlan, accs: Accumulators, span: tuple[str, str, int | None]) -> None:
    def step(lane: Lane, used: Accumulators, copy: int) -> None:
        scope.open("", lane=lane)
        emit_body(scope, plan, used, {}, copy)
        scope.close()

    walk = rotating_loop if plan.heavy else folded_loop
    walk(scope, plan.loops[-1], span, plan.lanes, accs, step)


# ---- a vector of outer points -----------------------------------------------------------------------------------
def stages_along(scope: Scope, plans: Sequence[StagePlan], lanes: Sequence[Lane]) -> None:
    """All stages for one or more vectors of outer points."""
    refs: list[dict[str, str]] = [{} for _ in lanes]
    if len(lanes) == 1:
        scope.open("", lane=lanes[0])
    for plan in plans:
        _stage_along(scope, plan, lanes, refs)
    if len(lanes) == 1:
        scope.close()


def _stage_along(scope: Scope, plan: StagePlan, lanes: Sequence[Lane], refs: Sequence[dict[str, str]]) -> None:
    n, single = lanes[0].lanes, len(lanes) == 1
    accs = [Accumulator.declare(scope, s, n, len(lanes)) for s in reduces(plan.stage)]
    _plain_loops(scope, plan, accs, [None] if single else lanes, refs)
    for acc in accs:
        for copy in range(len(lanes)):
            refs[copy][acc.name] = acc.copy(copy).finish(scope, keep_lanes=True)
        if single:
            scope.bind(acc.name, refs[0][acc.name], n)


def _plain_loops(
    scope: Scope,
    plan: StagePlan,
    accs: Accumulators,
    lanes: Sequence[Lane | None],
    refs: Sequence[dict[str, str]],
) -> None:
    """The stage's loops without vectors of their own; the body once per lane (None: the lane is open already)."""
    for loop in plan.loops[:-1]:
        open_loop(scope, loop)
    scans = {s.name: Accumulator.declare(scope, s, _lanes(scope, lanes), len(lanes)) for s in _scans(plan)}
    parts, opened = _open_last(scope, plan, accs)
    for copy, lane in enumerate(lanes):
        if lane is not None:
            scope.open("", lane=lane)
            for name, text in refs[copy].items():
                scope.bind(name, text, lane.lanes)
        emit_body(scope, plan, parts, scans, copy)
        if lane is not None:
            scope.close()
    for _ in range(opened):
        scope.close()
    _absorb(scope, accs, parts)
    if parts is not accs and opened:
        scope.close()
    for _ in plan.loops[:-1]:
        scope.close()


def _lanes(scope: Scope, lanes: Sequence[Lane | None]) -> int:
    return scope.lanes if lanes[0] is None else lanes[0].lanes


def _scans(plan: StagePlan) -> list[Scan]:
    return [s for s in plan.stage.body if isinstance(s, Scan)]


def _open_last(scope: Scope, plan: StagePlan, accs: Accumulators) -> tuple[Accumulators, int]:
    """Open the last loop, in blocks if sums are long; gives a block's accumulators and the loops to close first."""
    if not plan.loops:
        return accs, 0
    last = plan.loops[-1]
    extent = known_extent(last)
    short = extent is not None and extent <= SERIAL_BLOCK and len(plan.loops) == 1
    if short or not any(a.is_float_sum for a in accs):
        open_loop(scope, last)
        return accs, 1
    first, end = open_blocks(scope, last, SERIAL_BLOCK)
    parts = [a.again(scope) if a.is_float_sum else a for a in accs]
    open_loop(scope, last, first, end)
    return parts, 1


# ---- bodies -----------------------------------------------------------------------------------------------------
def emit_body(scope: Scope, plan: StagePlan, accs: Accumulators, scans: dict[str, Accumulator], copy: int) -> None:
    """The statements of a stage; stores wait until the end, or until one of their buffers is read."""
    by_name = {acc.name: acc for acc in accs}
    valid = None if scope.lane is None or not plan.folds else scope.lane.valid
    pending: dict[str, list[str]] = {}
    for s in plan.stage.body:
        if pending and _reads(s, pending):
            _flush(scope, pending)
        match s:
            case Store(buffer, index, value):
                statement = scope.store(buffer, index, value)
                pending.setdefault(buffer, []).append(statement)
            case Reduce(name, _, value):
                position = _position(plan.stage.loops) if by_name[name].is_position else None
                by_name[name].update(scope, copy, value, position, valid)
            case Scan(name, _, value):
                _scan(scope, scans[name], copy, value)
    _flush(scope, pending)


def _scan(scope: Scope, acc: Accumulator, copy: int, value: Expr) -> None:
    acc.update(scope, copy, value, None, None)
    now = scope.fresh()
    scope.line(f"const {ops.register_type(acc.dtype, acc.lanes)} {now} = {acc.values[copy]};")
    scope.bind(acc.name, now, acc.lanes)


def _reads(statement: Statement, pending: dict[str, list[str]]) -> bool:
    loads = (e.buffer for root in expressions(statement) for e in unique(root) if isinstance(e, Load))
    return any(b in pending for b in loads)


def _flush(scope: Scope, pending: dict[str, list[str]]) -> None:
    for buffer, statements in pending.items():
        for statement in statements:
            scope.line(statement)
        scope.forget(buffer)
    pending.clear()


def _position(loops: Sequence[Loop]) -> Expr:
    """Row-major position over the loops of a stage."""
    position: Expr = Const(0)
    for loop in loops:
        scaled = Apply("mul", (position, loop.extent), "int64")
        position = Apply("add", (scaled, Var(loop.var)), "int64")
    return position
