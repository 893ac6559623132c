"""Walking two outer loops in tiles, so that accesses along either of them use whole cache lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ullage.codegen.cpp import ops
from ullage.codegen.cpp.blocks import Lane
from ullage.codegen.cpp.schedule import TILE, StagePlan
from ullage.codegen.cpp.scope import Scope
from ullage.codegen.cpp.stages import stages_along
from ullage.codegen.loops.ir import Expr, Load, Loop, Ref, Stage, Store, Var
from ullage.codegen.loops.poly import Poly, free_vars, linear_in, to_poly, unique
from ullage.codegen.loops.traverse import expressions

TILE_HEADER = "transpose.h"


def walk_tile(scope: Scope, plans: Sequence[StagePlan], tile: Loop, span: tuple[str, str], lane: Lane) -> None:
    """One vector of lanes over a block of the tile loop; strided accesses are transposed through the stack."""
    scope.open("", lane=lane)
    scope.bind(tile.var, span[0])
    loads = [(x, _Tile.of(scope, x.buffer, x.index, x.dtype, lane)) for x in _strided_loads(plans, tile, lane)]
    stores = [(x, _Tile.of(scope, x.buffer, x.index, x.value.dtype, lane)) for x in _strided_stores(plans, tile, lane)]
    rows = f"{span[1]} - {span[0]}, {lane.valid or lane.lanes}"
    for _, t in loads:
        scope.line(f"ull_tile<{t.kind}>({t.place}, {t.step}, {t.name}, {rows});")
    row = scope.fresh()
    scope.open(f"for (ull_i64 {row} = {span[0]}; {row} < {span[1]}; ++{row})")
    scope.bind(tile.var, row)
    at = f"({row} - {span[0]}) * {lane.lanes}"
    scope.tiles = {scope.numbering(load): f"{t.name} + {at}" for load, t in loads}
    scope.stored_tiles = {store.buffer: f"{t.name} + {at}" for store, t in stores}
    stages_along(scope, plans, [lane])
    scope.tiles, scope.stored_tiles = {}, {}
    scope.close()
    for _, t in stores:
        scope.line(f"ull_untile<{t.kind}>({t.place}, {t.step}, {t.name}, {rows});")
    scope.close()


@dataclass(frozen=True, slots=True)
class _Tile:
    """An array on the stack for an access in all rows of the block, and where in memory the access begins.

    `kind` are the element type and the lanes; lanes are `step` elements apart in memory.
    """

    name: str
    kind: str
    place: str
    step: str

    @staticmethod
    def of(scope: Scope, buffer: str, index: Expr, dtype: str, lane: Lane) -> _Tile:
        split = linear_in(to_poly(index), lane.var)
        assert split is not None
        first, step = scope.index(to_poly(index)), scope.index(split[0])
        place = scope.name("auto", f"{scope.buffers[buffer]} + {first}")
        name, element = scope.fresh(), ops.STORAGE[dtype]
        scope.line(f"{element} {name}[{TILE * lane.lanes}] __attribute__((aligned(64)));")
        return _Tile(name, f"{element}, {lane.lanes}", place, step)


def _strided_loads(plans: Sequence[StagePlan], tile: Loop, lane: Lane) -> list[Load]:
    """Unmasked loads that are contiguous along the tile loop and stride over the lanes, fixed otherwise."""
    changing = {s.buffer for s, _ in _stores(plans)}
    loads: dict[str, Load] = {}
    for load, stage in _loads(plans):
        if load.mask is None and load.buffer not in changing and _fits(load.index, stage, tile, lane):
            loads.setdefault(repr((load.buffer, load.index)), load)
    return list(loads.values())


def _strided_stores(plans: Sequence[StagePlan], tile: Loop, lane: Lane) -> list[Store]:
    """Stores of that kind, each the only access to its buffer."""
    stores = list(_stores(plans))
    times = Counter([load.buffer for load, _ in _loads(plans)] + [store.buffer for store, _ in stores])
    return [s for s, stage in stores if times[s.buffer] == 1 and _fits(s.index, stage, tile, lane)]


def _loads(plans: Sequence[StagePlan]) -> Iterator[tuple[Load, Stage]]:
    for plan in plans:
        for s in plan.stage.body:
            yield from ((e, plan.stage) for root in expressions(s) for e in unique(root) if isinstance(e, Load))


def _stores(plans: Sequence[StagePlan]) -> Iterator[tuple[Store, Stage]]:
    for plan in plans:
        yield from ((s, plan.stage) for s in plan.stage.body if isinstance(s, Store))


def _fits(place: Expr, stage: Stage, tile: Loop, lane: Lane) -> bool:
    index = to_poly(place)
    if any(isinstance(e, Ref | Load) for e in unique(place)):
        return False
    if free_vars(place) & {x.var for x in stage.loops}:
        return False
    along, across = linear_in(index, tile.var), linear_in(index, lane.var)
    if along is None or across is None or along[0] != Poly.constant(1):
        return False
    steps = across[0].atoms()
    return across[0].value not in (0, 1) and Var(tile.var) not in steps
