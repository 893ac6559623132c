"""C++ text of the stages of one outer point, or of a vector of outer points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ullage.codegen.cpp import ops
from ullage.codegen.cpp.blocks import Lane
from ullage.codegen.cpp.reductions import SUM_STEPS, Accumulator, Cascade, is_float_sum, start_value
from ullage.codegen.cpp.schedule import StagePlan
from ullage.codegen.cpp.scope import Scope
from ullage.codegen.cpp.sorting import sort_stage
from ullage.codegen.cpp.vector_loops import (
    folded_loop,
    known_extent,
    lane_loop,
    open_blocks,
    open_loop,
    rotating_loop,
)
from ullage.codegen.loops.ir import Apply, Const, Expr, Load, Loop, Reduce, Scan, Statement, Store, Var
from ullage.codegen.loops.normal import has_scan, reduces, sorts
from ullage.codegen.loops.poly import unique
from ullage.codegen.loops.traverse import expressions

Accumulators = Sequence[Accumulator]
Totals = Sequence[Accumulator | Cascade]
Span = tuple[str, str, int | None]
"""Begin, end, and the extent if it is known."""
Cut = tuple[int, int]
"""The loop (by number) along which sums are cut into blocks, and a block's extent."""


# ---- long sums --------------------------------------------------------------------------------------------------
def _cut(plan: StagePlan) -> Cut | None:
    """Where to cut so that an accumulator takes about `SUM_STEPS` terms; None if it cannot take more."""
    if not any(is_float_sum(r) for r in reduces(plan.stage)) or has_scan(plan.stage):
        return None
    steps, group = 1, plan.lanes * plan.copies
    for number in reversed(range(len(plan.loops))):
        extent = known_extent(plan.loops[number])
        if extent is None or steps * -(-extent // group) > SUM_STEPS:
            return number, max(1, SUM_STEPS // steps) * group
        steps, group = max(1, steps * -(-extent // group)), 1
    return None


def _totals(scope: Scope, plan: StagePlan, lanes: int, copies: int) -> Totals:
    """The reductions of a stage at their start values."""
    cut = _cut(plan)
    return [
        Cascade.declare(scope, s, lanes, copies, plan.folds)
        if cut and is_float_sum(s)
        else Accumulator.declare(scope, s, lanes, copies)
        for s in reduces(plan.stage)
    ]


Body = Callable[[Accumulators, Span], None]
"""Emits a part of the last loop into accumulators."""


def _nested(scope: Scope, plan: StagePlan, totals: Totals, body: Body, level: int = 0) -> None:
    """The loops from number `level` on; blocks of long sums are opened and absorbed where they are cut."""
    loop, cut = plan.loops[level], _cut(plan)
    extent = known_extent(loop)
    if cut is None or cut[0] != level:
        _inside(scope, plan, totals, body, level, ("0L", scope.scalar(loop.extent), extent))
        return
    first, end = open_blocks(scope, loop, cut[1])
    blocks = [t.start(scope) if isinstance(t, Cascade) else t for t in totals]
    whole = extent is not None and extent <= cut[1]
    _inside(scope, plan, blocks, body, level, (first, end, extent if whole else None))
    for total, block in zip(totals, blocks, strict=True):
        if isinstance(total, Cascade):
            total.absorb(scope, block)
    scope.close()


def _inside(scope: Scope, plan: StagePlan, totals: Totals, body: Body, level: int, span: Span) -> None:
    if level == len(plan.loops) - 1:
        body([t for t in totals if isinstance(t, Accumulator)], span)
        return
    open_loop(scope, plan.loops[level], span[0], span[1])
    _nested(scope, plan, totals, body, level + 1)
    scope.close()


# ---- one outer point, vectors inside ----------------------------------------------------------------------------
def stage_inside(scope: Scope, plan: StagePlan) -> None:
    """One stage of one outer point; its reductions are bound afterwards."""
    if sorts(plan.stage):
        sort_stage(scope, plan.stage)
        return
    if _open_copy(scope, plan):
        stage_inside(scope, replace(plan, moves=None))
        scope.close()
        return
    totals = _totals(scope, plan, plan.lanes, plan.copies)
    if has_scan(plan.stage):
        _plain_loops(scope, plan, totals, [None], [{}])
    elif plan.lanes == 1:
        scope.open("")
        _plain_loops(scope, plan, totals, [None], [{}])
        scope.close()
    elif totals:
        _nested(scope, plan, totals, lambda accs, span: _reduce_span(scope, plan, accs, span))
    else:
        _store_lanes(scope, plan)
    for total in totals:
        scope.bind(total.name, total.finish(scope, keep_lanes=False))


def _open_copy(scope: Scope, plan: StagePlan) -> bool:
    """Open a block that is left out where what a stage copies is in place already; whether there is one."""
    if plan.moves is None:
        return False
    read, written = (f"(const void *){scope.buffers[name]}" for name in plan.moves)
    scope.open(f"if ({read} != {written})", skippable=True)
    return True


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


def _reduce_span(scope: Scope, plan: StagePlan, accs: Accumulators, span: Span) -> None:
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
    if _open_copy(scope, plan):
        _stage_along(scope, replace(plan, moves=None), lanes, refs)
        scope.close()
        return
    n, single = lanes[0].lanes, len(lanes) == 1
    totals = _totals(scope, plan, n, len(lanes))
    scans = _plain_loops(scope, plan, totals, [None] if single else lanes, refs)
    for scan in scans:
        for copy in range(len(lanes)):
            refs[copy][scan.name] = scan.values[copy]
    for total in totals:
        for copy in range(len(lanes)):
            refs[copy][total.name] = total.copy(copy).finish(scope, keep_lanes=True)
        if single:
            scope.bind(total.name, refs[0][total.name], n)


def _plain_loops(
    scope: Scope, plan: StagePlan, totals: Totals, lanes: Sequence[Lane | None], refs: Sequence[dict[str, str]]
) -> Accumulators:
    """The stage's loops without vectors of their own; the body once per lane (None: the lane is open already).

    Gives the scans of a stage of one loop, which keep their last values (bound if there is one lane).
    """
    running: list[Accumulator] = []

    def each_lane(emit: Callable[[int], None]) -> None:
        for copy, lane in enumerate(lanes):
            if lane is not None:
                scope.open("", lane=lane)
                for name, text in refs[copy].items():
                    scope.bind(name, text, lane.lanes)
            emit(copy)
            if lane is not None:
                scope.close()

    def bodies(accs: Accumulators, scans: dict[str, Accumulator]) -> None:
        each_lane(lambda copy: emit_body(scope, plan, accs, scans, copy))

    def started() -> dict[str, Accumulator]:
        scans = {s.name: Accumulator.declare(scope, s, _lanes(scope, lanes), len(lanes)) for s in _scans(plan)}
        if any(s.initial is not None for s in _scans(plan)):
            each_lane(lambda copy: _start(scope, plan, scans, copy))
        running.extend(scans.values())
        return scans

    def last_loop(accs: Accumulators, span: Span) -> None:
        scans = started()
        open_loop(scope, plan.loops[-1], span[0], span[1])
        bodies(accs, scans)
        scope.close()

    if plan.loops:
        _nested(scope, plan, totals, last_loop)
    else:
        bodies([t for t in totals if isinstance(t, Accumulator)], {})
    if len(plan.loops) > 1:
        return ()
    for scan in running if lanes[0] is None else ():
        scope.bind(scan.name, scan.values[0], scan.lanes)
    return running


def _lanes(scope: Scope, lanes: Sequence[Lane | None]) -> int:
    return scope.lanes if lanes[0] is None else lanes[0].lanes


def _scans(plan: StagePlan) -> list[Scan]:
    return [s for s in plan.stage.body if isinstance(s, Scan)]


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
            case Store(buffer, index, value, mask):
                statement = scope.store(buffer, index, value, mask)
                pending.setdefault(buffer, []).append(statement)
            case Reduce(name, _, value):
                position = _position(plan.stage.loops) if by_name[name].is_position else None
                guard, inner = _guarded(scope, s) if position is None else (None, value)
                if guard is not None:
                    scope.open(f"if ({scope.scalar(guard)})", skippable=True)
                by_name[name].update(scope, copy, inner, position, valid)
                if guard is not None:
                    scope.close()
            case Scan(name):
                _scan(scope, scans[name], copy, s)
    _flush(scope, pending)


def _guarded(scope: Scope, reduce: Reduce) -> tuple[Expr | None, Expr]:
    """The condition under which a whole vector contributes more than the neutral element (windows reach over edges)."""
    neutral = start_value(reduce.op, reduce.value.dtype)
    match reduce.value:
        case Apply("where", (condition, inner, Const(other))) if other == neutral and not scope.varies(condition):
            return condition, inner
        case _:
            return None, reduce.value


def _start(scope: Scope, plan: StagePlan, scans: dict[str, Accumulator], copy: int) -> None:
    """Set the running values that do not start from a constant."""
    for s in _scans(plan):
        if s.initial is not None:
            scope.line(f"{scans[s.name].values[copy]} = {scope.value(s.initial)};")


def _scan(scope: Scope, acc: Accumulator, copy: int, scan: Scan) -> None:
    if scan.factor is None:
        acc.update(scope, copy, scan.value, None, None)
    else:
        acc.advance(scope, copy, scan.factor, scan.value)
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
