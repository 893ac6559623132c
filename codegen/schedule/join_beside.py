"""Small independent kernels over equal spaces become one launch (horizontal fusion).

A launch costs about a microsecond of dispatch and of waiting for the other threads, as much as copying some tens of
kilobytes. Kernels that move more than that are left alone: their values would lie in memory for longer, at no gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from ullage.codegen.loops.ir import Expr, LoopKernel, Reduce, Ref, Scan, Stage, Statement
from ullage.codegen.loops.normal import normalise, rename_stage_loops, scatters, sorts
from ullage.codegen.loops.poly import rewrite
from ullage.codegen.loops.traverse import map_kernel, with_buffers
from ullage.codegen.lower.builder import Operand
from ullage.codegen.lower.region import dims_used
from ullage.codegen.schedule.cost import step_cost
from ullage.codegen.schedule.groups import MAX_BUFFERS
from ullage.codegen.schedule.lowered import Lowered, Pending, depends, reads, writes
from ullage.plan.steps import Storage

_SMALL_BYTES = 64 << 10
"""Moved by one kernel; about what a core copies in its caches while a launch is dispatched."""
_WRITTEN_BYTES = 32 << 10
_SHARE_OF_PEAK = 64
"""What one launch of several kernels writes: so many bytes, or this part of the largest working set of a step."""
_REACH = 16
"""Steps that a kernel may move ahead."""


@dataclass
class BesideJoiner:
    """Joins small kernels in a list of steps; `dim_max` bounds the run-time dimensions."""

    steps: list[Pending]
    storages: Sequence[Storage]
    dim_max: Mapping[str, int]

    def run(self) -> None:
        """Join each small kernel to the earliest one within reach that it can be joined to."""
        sizes = {s.name: s.bytes.evaluate(self.dim_max) for s in self.storages}
        working_sets = (_bytes(sizes, reads(step) | writes(step)) for step in self.steps)
        allowed = max(_WRITTEN_BYTES, max(working_sets, default=0) // _SHARE_OF_PEAK)
        place = 1
        while place < len(self.steps):
            place += not self._join(place, sizes, allowed)

    def _join(self, place: int, sizes: Mapping[str, int], allowed: int) -> bool:
        """Join the step at `place` to an earlier one; whether there was one."""
        second = self.steps[place]
        if not self._is_small(second):
            return False
        for earlier in range(self._earliest(place), place):
            first = self.steps[earlier]
            if not self._is_small(first) or _bytes(sizes, writes(first) | writes(second)) > allowed:
                continue
            joined = beside(first, second)
            if joined is not None:
                self.steps[earlier] = joined
                del self.steps[place]
                return True
        return False

    def _earliest(self, place: int) -> int:
        """The first place that the step may move to."""
        earliest = place
        while earliest > max(0, place - _REACH) and not depends(self.steps[place], self.steps[earliest - 1]):
            earliest -= 1
        return earliest

    def _is_small(self, step: Pending) -> TypeGuard[Lowered]:
        """Whether a step is a loop kernel of few bytes; one that writes at computed places may work in place alone."""
        if not (isinstance(step, Lowered) and isinstance(step.spec, LoopKernel)):
            return False
        if any(scatters(stage) or sorts(stage) for stage in step.spec.stages):
            return False
        return step_cost(step.spec, self.dim_max)[1] <= _SMALL_BYTES


def beside(first: Lowered, second: Lowered) -> Lowered | None:
    """One launch of two independent loop kernels; None if their spaces differ, or if it would have too many buffers."""
    assert isinstance(first.spec, LoopKernel) and isinstance(second.spec, LoopKernel)
    names = _names(first, second)
    a, b = _canonical(first.spec), _apart(_canonical(with_buffers(second.spec, names)))
    operands = {**first.operands, **{names[name]: operand for name, operand in second.operands.items()}}
    if a.outer != b.outer or not _alike(a, b) or len(operands) > MAX_BUFFERS:
        return None
    buffers = tuple({buffer.name: buffer for buffer in (*a.buffers, *b.buffers)}.values())
    stages = _stages(a, b)
    spec = LoopKernel(buffers, dims_used(a.outer, stages, buffers), a.outer, stages)
    return Lowered(f"{first.name}+{second.name}", spec, operands)


def _canonical(kernel: LoopKernel) -> LoopKernel:
    """The normal form, with loops named by their places."""
    return rename_stage_loops(normalise(kernel))


def _bytes(sizes: Mapping[str, int], names: frozenset[str]) -> int:
    return sum(sizes.get(name, 0) for name in names)


def _names(first: Lowered, second: Lowered) -> dict[str, str]:
    """Names for the second kernel's buffers: those of the first for memory that both read, else new ones."""
    assert isinstance(first.spec, LoopKernel) and isinstance(second.spec, LoopKernel)
    read: dict[Operand, str] = {first.operands[b.name]: b.name for b in first.spec.buffers if b.access == "r"}
    taken = {b.name for b in first.spec.buffers}
    names: dict[str, str] = {}
    for buffer in second.spec.buffers:
        shared = read.get(second.operands[buffer.name]) if buffer.access == "r" else None
        names[buffer.name] = shared or _fresh(buffer.name, taken)
        taken.add(names[buffer.name])
    return names


def _fresh(name: str, taken: set[str]) -> str:
    number = 0
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _apart(kernel: LoopKernel) -> LoopKernel:
    """The kernel with other names for its reductions and scans."""

    def refer(e: Expr) -> Expr:
        return replace(e, name=f"{e.name}_") if isinstance(e, Ref) else e

    def name(statement: Statement) -> Statement:
        return replace(statement, name=f"{statement.name}_") if isinstance(statement, Reduce | Scan) else statement

    named = map_kernel(kernel, lambda root: rewrite(root, refer))
    return replace(named, stages=tuple(Stage(s.loops, tuple(map(name, s.body))) for s in named.stages))


def _alike(a: LoopKernel, b: LoopKernel) -> bool:
    """Whether both run the same stages (loops, and kinds of statements), so that what suits one suits the other."""
    return [_outline(stage) for stage in a.stages] == [_outline(stage) for stage in b.stages]


def _outline(stage: Stage) -> tuple[object, ...]:
    return (tuple(loop.extent for loop in stage.loops), *dict.fromkeys(type(statement) for statement in stage.body))


def _stages(a: LoopKernel, b: LoopKernel) -> tuple[Stage, ...]:
    """The stages of both; elements of pointwise kernels are computed together."""
    if len(a.stages) == len(b.stages) == 1 and not a.stages[0].loops:
        return (Stage((), (*a.stages[0].body, *b.stages[0].body)),)
    return (*a.stages, *b.stages)
