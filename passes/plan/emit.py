"""Emit: a draft as a plan, with every offset and command written out."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from ullage.passes.plan.cut import Draft, Shot, staging_bytes
from ullage.passes.plan.model import Problem, Work
from ullage.plan.plan import (
    DIRECT_IO_BYTES,
    Block,
    Buffer,
    Command,
    ConstantInfo,
    DimensionInfo,
    Gather,
    Held,
    Launch,
    Plan,
    Pointer,
    Program,
    Read,
    Wait,
)
from ullage.plan.sizes import Size
from ullage.plan.steps import Gather as GatherStep
from ullage.plan.steps import Operand
from ullage.plan.tables import output_bytes, table_bytes


def emit(draft: Draft, offsets: tuple[int, ...], budget_bytes: int | None, minimum_bytes: int) -> Plan:
    """The plan of a draft; `offsets` are the constants' file offsets; without a budget the plan's own peak is it."""
    writer = _Writer(draft, offsets)
    writer.write()
    problem = draft.cut.space.problem
    request = problem.request
    dimensions = _dimensions(problem)
    plan = Plan(
        arena_bytes=draft.cut.arena_bytes,
        held=(*request.held, Held("outputs", output_bytes(request.outputs, dimensions))),
        threads=request.threads,
        kernels=tuple(sorted(writer.kernels, key=writer.kernels.__getitem__)),
        step_names=tuple(step.name for step in request.schedule.steps),
        buffers=writer.buffers(),
        blocks=writer.blocks,
        constants=_constants(problem, offsets),
        dimensions=dimensions,
        inputs=request.inputs,
        outputs=request.outputs,
        prologue=tuple(Read(block) for _, block in draft.ring.ahead),
        commands=tuple(writer.commands),
        budget_bytes=0,
        minimum_bytes=minimum_bytes,
        prediction=draft.prediction,
    )
    plan = msgspec.structs.replace(plan, held=(*plan.held, Held("tables", table_bytes(plan))))
    budget = plan.peak_bytes if budget_bytes is None else budget_bytes
    return msgspec.structs.replace(plan, budget_bytes=budget)


def _dimensions(problem: Problem) -> tuple[DimensionInfo, ...]:
    numbers = {t.name: i for i, t in enumerate(problem.request.inputs)}
    return tuple(
        DimensionInfo(d.name, d.minimum, d.maximum, numbers[d.input_name], d.axis, d.scale)
        for d in problem.request.schedule.dimensions
    )


def _constants(problem: Problem, offsets: tuple[int, ...]) -> tuple[ConstantInfo, ...]:
    return tuple(
        ConstantInfo(c.name, c.tiles, c.tile_bytes, w.stride, offset, c.gathered)
        for c, w, offset in zip(problem.request.schedule.constants, problem.weights, offsets, strict=True)
    )


@dataclass
class _Writer:
    draft: Draft
    offsets: tuple[int, ...]
    commands: list[Command] = field(default_factory=list)
    kernels: dict[str, int] = field(default_factory=dict)
    begins: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.space = self.draft.cut.space
        self.packing = self.space.packing
        self.problem = self.space.problem
        schedule = self.problem.request.schedule
        lives = sorted(self.packing.lives, key=lambda s: (self.packing.lives[s].first, s))
        self.numbers = {storage: number for number, storage in enumerate(lives)}
        self.temps = {name: i for i, name in enumerate(self.problem.names)}
        self.constants = {c.name: i for i, c in enumerate(schedule.constants)}
        self.outside: dict[str, tuple[str, int]] = {}
        for kind in ("input", "output"):
            stored = [s.name for s in schedule.storages if s.kind == kind]
            self.outside.update({name: (kind, i) for i, name in enumerate(stored)})
        symbols = sorted({step.kernel for step in schedule.steps if not isinstance(step, GatherStep)})
        self.kernels = {symbol: number for number, symbol in enumerate(symbols)}
        self.blocks = self._blocks()

    def write(self) -> None:
        """Write all commands of a call."""
        due: list[list[int]] = [[] for _ in range(len(self.draft.cut.shots) + 1)]
        for at, block in (*self.draft.ring.reads, *self.draft.ring.ahead):
            due[at].append(block)
        for number, shot in enumerate(self.draft.cut.shots):
            self.commands += [Read(block) for block in due[number]]
            self.commands += [Wait(block) for block in shot.fresh]
            self._note(shot.position)
            self.commands.append(self._launch(number, shot))
        self.commands += [Read(block) for block in due[-1]]

    def buffers(self) -> tuple[Buffer, ...]:
        """Storages with places, lifetimes in commands."""
        taken = self.packing.taken
        return tuple(
            Buffer(
                self.problem.names[s],
                self.packing.offsets[s],
                self.problem.sizes[s],
                self.begins[self.packing.lives[s].first],
                self.ends[self.packing.lives[s].last],
                self.numbers[taken[s]] if s in taken else -1,
            )
            for s in self.numbers
        )

    def _note(self, position: int) -> None:
        self.begins.setdefault(position, len(self.commands))
        self.ends[position] = len(self.commands)

    def _blocks(self) -> tuple[Block, ...]:
        """Blocks: streamed ones where the ring put them, resident ones behind the space, whole pages first."""
        chunks = self.draft.cut.chunks
        places = dict(self.draft.ring.offsets)
        resident = [n for n, c in enumerate(chunks) if c.resident]
        end = self.space.size
        for number in sorted(resident, key=lambda n: self._is_packed(n)):
            places[number] = end
            end += chunks[number].bytes
        return tuple(
            Block(c.weight, c.first, c.tiles, places[n], c.bytes, self._lead(n), c.resident)
            for n, c in enumerate(chunks)
        )

    def _is_packed(self, number: int) -> bool:
        chunk = self.draft.cut.chunks[number]
        return chunk.resident and self.problem.weights[chunk.weight].is_packed(chunk.tiles)

    def _lead(self, number: int) -> int:
        chunk = self.draft.cut.chunks[number]
        position = self.offsets[chunk.weight] + chunk.first * self.problem.weights[chunk.weight].stride
        return 0 if self._is_packed(number) else position % DIRECT_IO_BYTES

    def _launch(self, number: int, shot: Shot) -> Command:
        step = self.problem.request.schedule.steps[self.packing.order[shot.position]]
        work = self.problem.works[self.packing.order[shot.position]]
        reads = tuple(sorted(self.numbers[s] for s in work.reads))
        writes = tuple(sorted(self.numbers[s] for s in work.writes))
        if isinstance(step, GatherStep):
            return self._gather(number, shot, step, work, reads, writes)
        tiled = work.tiled >= 0
        shared = self.packing.workspaces.get(work.index, 0)
        extra: tuple[Program, ...] = ((shot.first,), (shot.tiles,)) if tiled else ()
        return Launch(
            kernel=self.kernels[step.kernel],
            pointers=tuple(self._pointer(o, shot) for o in step.operands),
            integers=(*(i.tokens for i in step.integers), *extra),
            tasks=(step.tasks * shot.tiles if tiled else step.tasks).tokens,
            shared=shared,
            thread=shared + work.shared_bytes,
            thread_stride=work.thread_stride,
            step=work.index,
            reads=reads,
            writes=writes,
            shared_bytes=work.shared_bytes,
            tiled=work.tiled_operand,
        )

    def _gather(
        self, number: int, shot: Shot, step: GatherStep, work: Work, reads: tuple[int, ...], writes: tuple[int, ...]
    ) -> Gather:
        staged = number in self.draft.ring.staging
        return Gather(
            constant=work.table,
            block=-1 if staged else shot.blocks[work.table],
            ids=self._pointer(step.ids, shot),
            ids_dtype=step.ids_dtype,
            out=self._pointer(step.out, shot),
            count=step.count.tokens,
            staging=self.draft.ring.staging.get(number, 0),
            staging_bytes=staging_bytes(self.space, shot.position) if staged else 0,
            step=work.index,
            reads=reads,
            writes=writes,
        )

    def _pointer(self, operand: Operand, shot: Shot) -> Pointer:
        """An operand's address; within a constant offsets count from the block's first tile."""
        if operand.target in self.temps:
            base = self.packing.offsets[self.temps[operand.target]]
            return Pointer("arena", 0, (Size.of(base) + operand.offset).tokens)
        if operand.target in self.constants:
            number = self.constants[operand.target]
            block = shot.blocks[number]
            skipped = self.draft.cut.chunks[block].first - (shot.first if operand.tiled else 0)
            offset = operand.offset - skipped * self.problem.weights[number].stride
            return Pointer("block", block, offset.tokens)
        kind, index = self.outside[operand.target]
        return Pointer("input" if kind == "input" else "output", index, operand.offset.tokens)
