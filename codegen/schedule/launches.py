"""From kernel specifications to launches: emitted kernels, their operands, and which may share memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ullage.codegen.emit import Spec, emit_kernel
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import DTYPE_BYTES, LoopKernel, Stage
from ullage.codegen.loops.sizes import to_size
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.region import inplace_pairs
from ullage.codegen.schedule.cost import step_cost
from ullage.codegen.templates import Attention, Conv2d, Gemm
from ullage.plan.sizes import ZERO_SIZE, Size
from ullage.plan.steps import Gather, Operand, Step, Storage
from ullage.target import Target


@dataclass
class Launches:
    """Collects the steps and the kernels that they launch."""

    target: Target
    dim_max: Mapping[str, int]
    steps: list[Step | Gather] = field(default_factory=list)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    specs: dict[str, Spec] = field(default_factory=dict)

    def add(self, name: str, spec: Spec, builder: Builder, storages: list[Storage]) -> None:
        """Append a launch of a lowered kernel; the builder says what its buffers are bound to."""
        kernel = emit_kernel(spec, self.target)
        self.kernels.setdefault(kernel.symbol, kernel)
        self.specs.setdefault(kernel.symbol, spec)
        operands = _operands(kernel, builder)
        flops, moved = step_cost(spec, self.dim_max)
        self.steps.append(Step(
            name, kernel.symbol, operands, tuple(Size.of(d) for d in kernel.dims), kernel.tasks, kernel.shared_bytes,
            kernel.thread_bytes, _inplace(spec, kernel, operands, storages), flops, moved,
        ))  # fmt: skip


def _operands(kernel: Kernel, builder: Builder) -> tuple[Operand, ...]:
    bound = {b.name: (b, o) for b, o in zip(builder.buffers, builder.operands, strict=True)}
    found = []
    for name in kernel.buffers:
        buffer, operand = bound[name]
        offset = to_size(operand.offset) * DTYPE_BYTES[operand.dtype]
        found.append(Operand(operand.storage, _access(buffer.access), offset, kernel.tiled and name == "w"))
    return tuple(found)


def _access(access: Literal["r", "w", "rw", "local"]) -> Literal["r", "w", "rw"]:
    assert access != "local", "locals are no operands"
    return access


def _inplace(
    spec: Spec, kernel: Kernel, operands: tuple[Operand, ...], storages: list[Storage]
) -> tuple[tuple[int, int], ...]:
    """Positions (read, written) that may be one memory: whole temporary storages only."""
    temps = {s.name for s in storages if s.kind == "temp"}
    pairs = inplace_pairs(spec) if isinstance(spec, LoopKernel) else _epilogue_pairs(spec)
    positions = [(kernel.buffers.index(r), kernel.buffers.index(w)) for r, w in pairs]
    return tuple(
        (r, w) for r, w in positions
        if operands[r].target in temps and operands[r].offset == ZERO_SIZE and operands[w].offset == ZERO_SIZE
    )  # fmt: skip


def _epilogue_pairs(spec: Gemm | Conv2d | Attention) -> tuple[tuple[str, str], ...]:
    """A residual that an epilogue reads exactly where it writes may share memory with the output."""
    if isinstance(spec, Attention) or len(spec.epilogue) != 1:
        return ()
    body = LoopKernel(spec.buffers, (), (), (Stage((), spec.epilogue),))
    taken = {spec.a_buffer, spec.b_buffer, "w"} if isinstance(spec, Gemm) else {spec.x_buffer, "w"}
    return tuple((r, w) for r, w in inplace_pairs(body) if r not in taken)
