"""From kernel specifications to launches: emitted kernels, their operands, and which may share memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ullage.codegen.emit import Spec, emit_kernel
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import DTYPE_BYTES, Load, LoopKernel, Stage, walk
from ullage.codegen.loops.sizes import to_size
from ullage.codegen.loops.traverse import values
from ullage.codegen.lower.region import inplace_pairs
from ullage.codegen.schedule.cost import step_cost
from ullage.codegen.schedule.lowered import Lowered
from ullage.codegen.schedule.tilings import with_tiling
from ullage.codegen.templates import Attention, Conv2d, Gemm
from ullage.plan.sizes import ZERO_SIZE, Size
from ullage.plan.steps import Gather, Operand, Step, Storage
from ullage.target import Target


@dataclass
class Launches:
    """Makes steps of lowered kernels, and collects the kernels that they launch."""

    target: Target
    dim_max: Mapping[str, int]
    kernels: dict[str, Kernel] = field(default_factory=dict)
    specs: dict[str, Spec] = field(default_factory=dict)
    emitted: dict[Spec, tuple[Spec, Kernel]] = field(default_factory=dict)

    def steps(self, lowered: Iterable[Lowered | Gather], storages: Iterable[Storage]) -> tuple[Step | Gather, ...]:
        """The plan's steps in the same order; gathers are steps already."""
        temps = frozenset(s.name for s in storages if s.kind == "temp")
        return tuple(item if isinstance(item, Gather) else self._step(item, temps) for item in lowered)

    def _step(self, lowered: Lowered, temps: frozenset[str]) -> Step:
        spec, kernel = self._emitted(lowered.spec)
        self.kernels.setdefault(kernel.symbol, kernel)
        self.specs.setdefault(kernel.symbol, spec)
        operands = _operands(kernel, lowered)
        flops, moved = step_cost(spec, self.dim_max, self.target)
        return Step(
            lowered.name, kernel.symbol, operands, tuple(Size.of(d) for d in kernel.dims), kernel.tasks,
            kernel.shared_bytes, kernel.thread_bytes, _inplace(spec, kernel, operands, temps), flops, moved,
        )  # fmt: skip

    def _emitted(self, spec: Spec) -> tuple[Spec, Kernel]:
        """The specification with its tiling, and its kernel; equal layers have equal ones, made once for them all."""
        if spec not in self.emitted:
            tiled = with_tiling(spec, self.dim_max)
            self.emitted[spec] = (tiled, emit_kernel(tiled, self.target))
        return self.emitted[spec]


def _operands(kernel: Kernel, lowered: Lowered) -> tuple[Operand, ...]:
    buffers = {b.name: b for b in lowered.spec.buffers}
    found = []
    for name in kernel.buffers:
        operand = lowered.operands[name]
        offset = to_size(operand.offset) * DTYPE_BYTES[operand.dtype]
        found.append(Operand(operand.storage, _access(buffers[name].access), offset, kernel.tiled and name == "w"))
    return tuple(found)


def _access(access: Literal["r", "w", "rw", "local"]) -> Literal["r", "w", "rw"]:
    assert access != "local", "locals are no operands"
    return access


def _inplace(
    spec: Spec, kernel: Kernel, operands: tuple[Operand, ...], temps: frozenset[str]
) -> tuple[tuple[int, int], ...]:
    """Positions (read, written) that may be one memory: whole temporary storages only."""
    pairs = inplace_pairs(spec) if isinstance(spec, LoopKernel) else _epilogue_pairs(spec)
    positions = [(kernel.buffers.index(r), kernel.buffers.index(w)) for r, w in pairs]
    return tuple(
        (r, w) for r, w in positions
        if operands[r].target in temps and operands[r].offset == ZERO_SIZE and operands[w].offset == ZERO_SIZE
    )  # fmt: skip


def _epilogue_pairs(spec: Gemm | Conv2d | Attention) -> tuple[tuple[str, str], ...]:
    """A residual that an epilogue reads exactly where it writes may share memory with the (first) output.

    A second store may read there only what the first has read already: a kernel loads each element once.
    """
    if isinstance(spec, Attention):
        return ()
    first, *rest = spec.epilogue
    known = {e for e in walk(first.value) if isinstance(e, Load)}
    if any(isinstance(e, Load) and e not in known for s in rest for e in walk(s.value)):
        return ()
    body = LoopKernel(spec.buffers, (), (), (Stage((), (first,)),))
    taken = {spec.a_buffer, spec.b_buffer, "w"} if isinstance(spec, Gemm) else {spec.x_buffer, "w"}
    taken |= {name for kernel in spec.later for name in _read_by(kernel)}
    taken |= {b.name for b in spec.buffers if b.access == "local"}
    return tuple((r, w) for r, w in inplace_pairs(body) if r not in taken and w not in taken)


def _read_by(later: LoopKernel) -> set[str]:
    """Buffers that a loop kernel reads after the product has been stored."""
    roots = [value for stage in later.stages for statement in stage.body for value in values(statement)]
    return {e.buffer for root in roots for e in walk(root) if isinstance(e, Load)}
