"""How a normalised kernel is walked: which loop becomes vector lanes, in what order, and in which tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ullage.codegen.cpp.blocks import Numbering
from ullage.codegen.loops.ir import (
    FLOATS,
    Apply,
    Cast,
    Const,
    Expr,
    Load,
    Loop,
    LoopKernel,
    Reduce,
    Ref,
    Scan,
    Sort,
    Stage,
    Store,
    Var,
)
from ullage.codegen.loops.normal import has_scan, reduces, scatters, sorts
from ullage.codegen.loops.poly import free_vars, linear_in, to_poly, unique
from ullage.codegen.loops.traverse import expressions, values
from ullage.target import Target

_UNKNOWN_EXTENT = 128
_FOLD_VECTORS = 4
_HEAVY = 12
_LIGHT_COLUMNS = 24
TILE = 16
"""Iterations of a tile loop inside of one lane vector."""
_SORT_CYCLES = 40
"""Cycles of a sort for each element, roughly."""
_WIDE = frozenset({"int64", "float64"})
_COMPARE = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_WEIGHTS = {
    "div": 4, "reciprocal": 4, "sqrt": 6, "rsqrt": 9, "exp": 14, "exp2": 14, "expm1": 18, "log": 24, "log2": 24,
    "log1p": 32, "sin": 30, "cos": 30, "tan": 32, "asin": 24, "acos": 24, "atan": 24, "sinh": 30, "cosh": 24,
    "tanh": 26, "sigmoid": 22, "erf": 36, "pow": 300, "atan2": 300, "fmod": 200, "floordiv": 40, "mod": 40,
    "truncdiv": 40,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Loops in the order of emission; with `lanes` > 1 the last one is vectorised.

    Reductions over lanes use `copies` vectors; `heavy` bodies are emitted once and not unrolled. `moves` are buffers,
    read and written, of which the stage is a plain copy: where they are one memory there is nothing to do.
    """

    stage: Stage
    loops: tuple[Loop, ...]
    lanes: int = 1
    copies: int = 1
    heavy: bool = False
    moves: tuple[str, str] | None = None

    @property
    def folds(self) -> bool:
        """Whether reductions run over lanes."""
        return self.lanes > 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """`lane` is the outer loop that became vector lanes (None: the stages vectorise on their own).

    `unroll` vectors of outer points are worked on together; `tile` is a row loop walked inside of a lane vector, in
    blocks, because other accesses are contiguous along it.
    """

    rows: tuple[Loop, ...]
    lane: Loop | None
    lanes: int
    unroll: int
    tile: Loop | None
    stages: tuple[StagePlan, ...]


def extent_estimate(loop: Loop) -> int:
    """The extent, with a guess for dimensions; never 0, which nothing is compared by."""
    value = to_poly(loop.extent).value
    return _UNKNOWN_EXTENT if value is None else max(1, value)


def schedule(kernel: LoopKernel, target: Target) -> Schedule:
    """The cheapest of: vectorise inside the stages, or along one of the outer loops.

    What decides the order of a sum is a property of its stage alone: see `folds_lanes`.
    """
    found = _cheapest(kernel, target)
    moves = _moves(kernel)
    return found if moves is None else replace(found, stages=(replace(found.stages[0], moves=moves), *found.stages[1:]))


def _moves(kernel: LoopKernel) -> tuple[str, str] | None:
    """What the first stage copies unchanged, for the second to write to at places that are data."""
    if len(kernel.stages) != 2 or not scatters(kernel.stages[1]):
        return None
    match kernel.stages[0].body:
        case (Store(written, index, Load(read, place, _, None), None),) if index == place:
            return read, written
        case _:
            return None


def _cheapest(kernel: LoopKernel, target: Target) -> Schedule:
    best = _inside(kernel, target)
    best_cost = sum(_stage_cost(p) for p in best.stages)
    if any(folds_lanes(s, target) for s in kernel.stages):
        return best
    for loop in kernel.outer:
        if not _locals_stay(kernel, loop.var) or _scatters_along(kernel, loop.var):
            continue
        candidate = _along(kernel, loop, target)
        cost = _along_cost(kernel, loop, candidate.lanes)
        if cost <= best_cost:
            best, best_cost = candidate, cost
    return best


def folds_lanes(stage: Stage, target: Target) -> bool:
    """Whether sums of floats of this stage run over vector lanes (a tree), else one element after the other.

    They do if the stage has a long enough loop along which its loads are contiguous.
    """
    ordered = any(r.value.dtype in FLOATS and r.op not in ("argmax", "argmin") for r in reduces(stage))
    return ordered and not _is_serial(stage) and _foldable(stage, target)


def _foldable(stage: Stage, target: Target) -> bool:
    last = _order(stage, target)[-1]
    extent = to_poly(last.extent).value
    if extent is not None and extent < target.lanes:
        return False
    loads = [e for e in _stage_nodes(stage) if isinstance(e, Load) and last.var in free_vars(e.index)]
    steps = [linear_in(to_poly(e.index), last.var) for e in loads]
    return sum(step is not None and step[0].value == 1 for step in steps) * 2 >= len(steps)


def _is_serial(stage: Stage) -> bool:
    return not stage.loops or has_scan(stage) or _chained(stage) or scatters(stage)


# ---- along an outer loop --------------------------------------------------------------------------------------
def _along(kernel: LoopKernel, loop: Loop, target: Target) -> Schedule:
    varying = frozenset(r.name for s in kernel.stages for r in s.body if isinstance(r, Reduce | Scan))
    varying |= _locals(kernel)
    wide = any(_needs_wide(s, loop.var, varying) for s in kernel.stages)
    lanes = target.lanes // 2 if wide else target.lanes
    rows = tuple(x for x in kernel.outer if x is not loop)
    stages = tuple(StagePlan(s, s.loops) for s in kernel.stages)
    light = sum(stage_weight(s) for s in kernel.stages) < _LIGHT_COLUMNS
    looped = any(s.loops for s in kernel.stages)
    tile = _tile(kernel, loop.var, rows)
    rows = tuple(x for x in rows if x is not tile)
    return Schedule(rows, loop, lanes, 4 if looped and light and tile is None else 1, tile, stages)


def _locals(kernel: LoopKernel) -> frozenset[str]:
    return frozenset(b.name for b in kernel.buffers if b.access == "local")


def _locals_stay(kernel: LoopKernel, lane: str) -> bool:
    """Whether local buffers are indexed the same way for all lanes (a sort has one row of them)."""
    if any(map(sorts, kernel.stages)):
        return False
    names = _locals(kernel)
    refs = frozenset(r.name for s in kernel.stages for r in s.body if isinstance(r, Reduce | Scan))

    def same(index: Expr) -> bool:
        return not any((isinstance(e, Var | Ref) and e.name in refs | {lane}) for e in unique(index))

    loads = (e for stage in kernel.stages for e in _stage_nodes(stage) if isinstance(e, Load) and e.buffer in names)
    stores = (s for stage in kernel.stages for s in stage.body if isinstance(s, Store) and s.buffer in names)
    return all(same(x.index) for x in loads) and all(same(x.index) for x in stores)


def _scatters_along(kernel: LoopKernel, lane: str) -> bool:
    """Whether lanes would store each to a place of its own data: one element at a time is as fast, and short."""
    stores = (s for stage in kernel.stages if scatters(stage) for s in stage.body if isinstance(s, Store))
    return any(linear_in(to_poly(s.index), lane) is None for s in stores)


def _tile(kernel: LoopKernel, lane: str, rows: tuple[Loop, ...]) -> Loop | None:
    """The row loop along which accesses that stride over the lanes are contiguous."""
    indices = [i for stage in kernel.stages for i in _indices(stage) if _step(i, lane) not in (0, 1)]
    for loop in rows:
        if any(_step(i, loop.var) == 1 for i in indices):
            return loop
    return None


def _indices(stage: Stage) -> list[Expr]:
    loads = [e.index for e in _stage_nodes(stage) if isinstance(e, Load)]
    return loads + [s.index for s in stage.body if isinstance(s, Store)]


def _step(index: Expr, var: str) -> int | None:
    split = linear_in(to_poly(index), var)
    return None if split is None else split[0].value


def _along_cost(kernel: LoopKernel, loop: Loop, lanes: int) -> float:
    """Cycles per outer point, roughly."""
    extent = extent_estimate(loop)
    used = extent / (-(-extent // lanes) * lanes)
    names = _locals(kernel)
    return sum(_iterations(s.loops) * _vector_cost(s, loop.var, lanes, names) for s in kernel.stages) / (lanes * used)


# ---- inside the stages ----------------------------------------------------------------------------------------
def _inside(kernel: LoopKernel, target: Target) -> Schedule:
    return Schedule(kernel.outer, None, 1, 1, None, tuple(_stage_inside(s, target) for s in kernel.stages))


def _stage_inside(stage: Stage, target: Target) -> StagePlan:
    ordered = any(r.op in ("sum", "prod") and r.value.dtype in FLOATS for r in reduces(stage))
    if _is_serial(stage) or (ordered and not folds_lanes(stage, target)):
        return StagePlan(stage, stage.loops)
    loops = _order(stage, target)
    lanes = target.lanes // 2 if _needs_wide(stage, loops[-1].var, frozenset()) else target.lanes
    copies = _FOLD_VECTORS * target.lanes // lanes if reduces(stage) else 1
    return StagePlan(stage, loops, lanes, copies, stage_weight(stage) >= _HEAVY)


def _order(stage: Stage, target: Target) -> tuple[Loop, ...]:
    """The stage's loops with the one that vectorises best last (a fixed order where positions count)."""
    if any(r.op in ("argmax", "argmin") for r in reduces(stage)):
        return stage.loops

    def cost(loop: Loop) -> float:
        blocks = -(-extent_estimate(loop) // target.lanes)
        return blocks * _vector_cost(stage, loop.var, target.lanes, frozenset()) / extent_estimate(loop)

    last = min(reversed(stage.loops), key=cost)
    return (*(x for x in stage.loops if x is not last), last)


def _chained(stage: Stage) -> bool:
    """Whether an iteration may read what another iteration of the stage stored."""
    stored = {s.buffer: s.index for s in stage.body if isinstance(s, Store)}
    loads = (e for e in _stage_nodes(stage) if isinstance(e, Load))
    return any(e.buffer in stored and e.index != stored[e.buffer] for e in loads)


def _stage_cost(plan: StagePlan) -> float:
    if plan.lanes == 1:
        return _iterations(plan.loops) * (2 * stage_weight(plan.stage) + 1)
    blocks = _iterations(plan.loops[:-1]) * -(-extent_estimate(plan.loops[-1]) // plan.lanes)
    cost = _vector_cost(plan.stage, plan.loops[-1].var, plan.lanes, frozenset())
    return blocks * cost + 15 * len(reduces(plan.stage)) + 4


# ---- costs ----------------------------------------------------------------------------------------------------
def _iterations(loops: tuple[Loop, ...]) -> int:
    return math.prod(extent_estimate(x) for x in loops)


def _stage_nodes(stage: Stage) -> list[Expr]:
    seen = {id(e): e for s in stage.body for root in expressions(s) for e in unique(root)}
    return list(seen.values())


def stage_weight(stage: Stage) -> int:
    """Cycles of one vector (or one scalar) iteration, loads and stores included, if all vectorises well."""
    sorting = _SORT_CYCLES * any(isinstance(s, Sort) for s in stage.body)
    return sum(_weight(e) for e in _stage_nodes(stage)) + len(stage.body) + sorting


def _weight(expr: Expr) -> int:
    match expr:
        case Load():
            return 1
        case Apply(op, _, dtype) if dtype != "int64" or op not in ("add", "sub", "mul"):
            return _WEIGHTS.get(op, 1)
        case Cast():
            return 1
        case _:
            return 0


def _vector_cost(stage: Stage, lane: str, lanes: int, interleaved: frozenset[str]) -> float:
    """Cycles of one vector iteration along `lane`: strided accesses cost one cycle per lane and more."""
    numbering = Numbering()
    refs = {e.name for e in _stage_nodes(stage) if isinstance(e, Ref)}
    total = 1.0
    for e in _stage_nodes(stage):
        if isinstance(e, Load):
            total += 1 if e.buffer in interleaved else _access_cost(e.index, lane, lanes)
        elif not numbering.names[numbering(e)].isdisjoint({lane, *refs}):
            total += _weight(e)
    total += sum(_access_cost(s.index, lane, lanes) for s in stage.body if isinstance(s, Store))
    return total + sum(isinstance(s, Reduce) for s in stage.body)


def _access_cost(index: Expr, lane: str, lanes: int) -> float:
    split = linear_in(to_poly(index), lane)
    if split is None:
        return 2.0 * lanes
    step = split[0].value
    return 0.2 if step == 0 else 1.0 if step == 1 else 1.3 * lanes


def _needs_wide(stage: Stage, lane: str, varying: frozenset[str]) -> bool:
    """Whether lanes hold 64-bit values (index differences inside comparisons do not count)."""
    numbering = Numbering()

    def varies(e: Expr) -> bool:
        number = numbering(e)
        names = numbering.names[number] | numbering.loads[number]
        return lane in names or bool(names & varying)

    def opaque(e: Expr) -> bool:
        """Whether nothing below needs lanes of its own."""
        index = isinstance(e, Apply) and e.op in _COMPARE and e.args[0].dtype == "int64" and not _reads(e)
        return index or not varies(e)

    stack, seen = [e for s in stage.body for e in values(s)], set[int]()
    while stack:
        e = stack.pop()
        if id(e) in seen or opaque(e):
            continue
        if e.dtype in _WIDE and not isinstance(e, Const):
            return True
        seen.add(id(e))
        stack += _value_parts(e)
    return False


def _reads(e: Expr) -> bool:
    return any(isinstance(x, Load | Ref) for x in unique(e))


def _value_parts(e: Expr) -> tuple[Expr, ...]:
    match e:
        case Load(_, _, _, mask, _):
            return () if mask is None else (mask,)
        case Apply(_, args, _):
            return args
        case Cast(arg, _):
            return (arg,)
        case _:
            return ()
