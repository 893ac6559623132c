"""Walking two outer loops in tiles, so that accesses along either of them use whole cache lines."""

from __future__ import annotations

from collections.abc import Sequence

from ullage.codegen.cpp import ops
from ullage.codegen.cpp.blocks import Lane
from ullage.codegen.cpp.schedule import TILE, StagePlan
from ullage.codegen.cpp.scope import Scope
from ullage.codegen.cpp.stages import stages_along
from ullage.codegen.loops.ir import Load, Loop, Ref, Stage, Var
from ullage.codegen.loops.poly import Poly, free_vars, linear_in, to_poly, unique
from ullage.codegen.loops.traverse import expressions

TILE_HEADER = "transpose.h"


def walk_tile(scope: Scope, plans: Sequence[StagePlan], tile: Loop, span: tuple[str, str], lane: Lane) -> None:
    """One vector of lanes over a block of the tile loop; strided loads are transposed through the stack first."""
    scope.open("", lane=lane)
    scope.bind(tile.var, span[0])
    found = [
        (load, _transposed(scope, load, tile, span, lane)) for load in _strided_loads(plans, tile, lane, scope.changing)
    ]
    row = scope.fresh()
    scope.open(f"for (ull_i64 {row} = {span[0]}; {row} < {span[1]}; ++{row})")
    scope.bind(tile.var, row)
    for load, name in found:
        scope.tiles[scope.numbering(load)] = f"{name} + ({row} - {span[0]}) * {lane.lanes}"
    stages_along(scope, plans, [lane])
    scope.tiles.clear()
    scope.close()
    scope.close()


def _transposed(scope: Scope, load: Load, tile: Loop, span: tuple[str, str], lane: Lane) -> str:
    """An array on the stack that holds a load for all rows of the block."""
    split = linear_in(to_poly(load.index), lane.var)
    assert split is not None
    name, kind = scope.fresh(), ops.STORAGE[load.dtype]
    first, step = scope.index(to_poly(load.index)), scope.index(split[0])
    source = scope.name("auto", f"{scope.buffers[load.buffer]} + {first}")
    scope.line(f"{kind} {name}[{TILE * lane.lanes}] __attribute__((aligned(64)));")
    valid = lane.valid or str(lane.lanes)
    scope.line(f"ull_tile<{kind}, {lane.lanes}>({source}, {step}, {name}, {span[1]} - {span[0]}, {valid});")
    return name


def _strided_loads(plans: Sequence[StagePlan], tile: Loop, lane: Lane, changing: frozenset[str]) -> list[Load]:
    """Unmasked loads that are contiguous along the tile loop and stride over the lanes, fixed otherwise."""
    loads: dict[str, Load] = {}
    for plan in plans:
        for s in plan.stage.body:
            for e in (e for root in expressions(s) for e in unique(root) if isinstance(e, Load)):
                if e.mask is None and e.buffer not in changing and _fits(e, plan.stage, tile, lane):
                    loads.setdefault(repr((e.buffer, e.index)), e)
    return list(loads.values())


def _fits(load: Load, stage: Stage, tile: Loop, lane: Lane) -> bool:
    index = to_poly(load.index)
    if any(isinstance(e, Ref | Load) for e in unique(load.index)):
        return False
    if free_vars(load.index) & {x.var for x in stage.loops}:
        return False
    along, across = linear_in(index, tile.var), linear_in(index, lane.var)
    if along is None or across is None or along[0] != Poly.constant(1):
        return False
    steps = across[0].atoms()
    return across[0].value not in (0, 1) and Var(tile.var) not in steps
