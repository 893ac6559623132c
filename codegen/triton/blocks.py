"""How many outer points and stage points one Triton program holds at a time."""

from __future__ import annotations

from dataclasses import dataclass

from ullage.codegen.loops.ir import Expr, Load, Loop, LoopKernel, Scan, Stage, Store
from ullage.codegen.loops.poly import linear_in, to_poly, unique
from ullage.codegen.loops.traverse import expressions

_FLAT = 1024
_TILE = 4096
_LONGEST_ROW = 2048
_UNKNOWN = 1024


@dataclass(frozen=True, slots=True)
class Blocks:
    """`x` outer points per program, and for each stage with loops how many of its points at a time (powers of two)."""

    x: int
    r: tuple[int, ...]
    warps: int


def power_of_two(count: int) -> int:
    """The least power of two that is not below `count`."""
    return 1 << max(0, count - 1).bit_length()


def points(loops: tuple[Loop, ...]) -> int | None:
    """Points of a loop nest if constant."""
    total = 1
    for loop in loops:
        extent = to_poly(loop.extent).value
        if extent is None:
            return None
        total *= extent
    return total


def block_loops(stage: Stage) -> tuple[Loop, ...]:
    """The loops that a block runs along: of a scan only the last."""
    return stage.loops[-1:] if any(isinstance(s, Scan) for s in stage.body) else stage.loops


def choose_blocks(kernel: LoopKernel) -> Blocks:
    """Blocks whose lanes walk contiguous memory where possible, 4096 points at most."""
    outer = power_of_two(min(points(kernel.outer) or _UNKNOWN, _FLAT))
    if not any(s.loops for s in kernel.stages):
        return Blocks(outer, (), 4)
    lengths = [power_of_two(points(block_loops(s)) or _UNKNOWN) for s in kernel.stages if s.loops]
    longest = _LONGEST_ROW if _walks_rows(kernel) else 32
    r = tuple(min(n, longest) for n in lengths)
    x = max(1, min(outer, 64, _TILE // max(r)))
    return Blocks(x, r, 8 if x * max(r) >= _TILE else 4)


def _walks_rows(kernel: LoopKernel) -> bool:
    """Whether more accesses are contiguous along the stages' loops than along the last outer loop."""
    inner = sum(_unit_steps(s, s.loops[-1].var) for s in kernel.stages if s.loops)
    across = sum(_unit_steps(s, kernel.outer[-1].var) for s in kernel.stages) if kernel.outer else 0
    return inner >= across


def _unit_steps(stage: Stage, var: str) -> int:
    return sum(_unit_step(index, var) for index in _indices(stage))


def _indices(stage: Stage) -> list[Expr]:
    loads = {id(e): e for s in stage.body for root in expressions(s) for e in unique(root) if isinstance(e, Load)}
    return [e.index for e in loads.values()] + [s.index for s in stage.body if isinstance(s, Store)]


def _unit_step(index: Expr, var: str) -> bool:
    split = linear_in(to_poly(index), var)
    return split is not None and split[0].value == 1
