"""Random legal schedules for hypothesis, and a toy machine that runs schedules and plans by moving real bytes.

The toy's kernels hash what they read: every byte of every operand decides every byte that is written, so any byte in
the wrong place, too late or overwritten changes the outputs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from ullage.passes.plan.planner import PlanRequest, Rates
from ullage.plan.plan import Gather as GatherCommand
from ullage.plan.plan import Held, Launch, Plan, Pointer, Program, Read, TensorInfo, Wait
from ullage.plan.sizes import Size, evaluate
from ullage.plan.steps import Constant, Dimension, Gather, Operand, Schedule, Step, Storage

Delivery = Literal["early", "late"]
_ITEM_BYTES = 4
_TILE_SIZES = (64, 960, 4096, 5000 // 64 * 64, 20480)


@st.composite
def schedules(draw: DrawFn, most_steps: int = 12) -> Schedule:
    """A legal schedule: reads after writes, several writers, in-place pairs, tiled, shared, gathered constants."""
    builder = _Builder(draw)
    for _ in range(draw(st.integers(1, 2))):
        builder.storage("input")
    for _ in range(draw(st.integers(1, most_steps))):
        builder.step()
    builder.step(kind="output")
    return builder.schedule()


@st.composite
def requests(draw: DrawFn, most_steps: int = 12) -> PlanRequest:
    """A request over a random schedule with random rates and threads."""
    schedule = draw(schedules(most_steps))
    rates = Rates(draw(st.sampled_from([1e7, 1e9, 1e11])), 1e10, draw(st.sampled_from([1e8, 2e9])), 1e-4, 5e-6)
    inputs, outputs = (_tensors(schedule, kind) for kind in ("input", "output"))
    return PlanRequest(schedule, inputs, outputs, (Held("code", 8192), Held("stacks", 12288)), draw(st.integers(1, 3)), rates)


def _tensors(schedule: Schedule, kind: str) -> tuple[TensorInfo, ...]:
    stored = [s for s in schedule.storages if s.kind == kind]
    return tuple(TensorInfo(s.name, "float32", ((s.bytes // _ITEM_BYTES).tokens,)) for s in stored)


@dataclass
class _Builder:
    draw: DrawFn
    steps: list[Step | Gather] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    written: list[Storage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dynamic = self.draw(st.booleans())

    def storage(self, kind: Literal["temp", "input", "output"]) -> Storage:
        """A new storage; inputs count as written."""
        size = Size.of(_ITEM_BYTES * self.draw(st.sampled_from([1, 7, 64, 1000, 3000])))
        if self.dynamic and (not self.storages or self.draw(st.booleans())):
            size = Size.of("n") * size
        made = Storage(f"s{len(self.storages)}", size, kind)
        self.storages.append(made)
        if kind == "input":
            self.written.append(made)
        return made

    def step(self, kind: Literal["temp", "output"] = "temp") -> None:
        """One more step; it writes something new or, at times, more of an old temp storage."""
        if self.draw(st.integers(0, 5)) == 0:
            self._gather(kind)
            return
        sources = self.draw(st.lists(st.sampled_from(self.written), min_size=1, max_size=3, unique_by=lambda s: s.name))
        operands = [Operand(s.name, "r") for s in sources]
        operands += [Operand(c.name, "r") for c in self._whole_constants()]
        if self.draw(st.booleans()):
            operands.insert(self.draw(st.integers(0, len(operands))), Operand(self._tiled().name, "r", tiled=True))
        old = [s for s in self.written if s.kind == "temp" and s not in sources]
        if kind == "temp" and old and self.draw(st.integers(0, 4)) == 0:
            again = self.draw(st.sampled_from(old))
            operands.append(Operand(again.name, self.draw(st.sampled_from(["w", "rw"]))))  # type: ignore[arg-type]
        made = self._like(sources) if kind == "temp" and self.draw(st.booleans()) else self.storage(kind)
        operands.append(Operand(made.name, "w"))
        self._add(operands, made)

    def _add(self, operands: list[Operand], made: Storage) -> None:
        by_name = {s.name: s for s in self.storages}
        pairs = tuple(
            (i, len(operands) - 1) for i, o in enumerate(operands)
            if o.access == "r" and o.target in by_name and by_name[o.target].bytes == made.bytes
        )  # fmt: skip
        self.steps.append(
            Step(
                f"step{len(self.steps)}", f"k{self.draw(st.integers(0, 3))}", tuple(operands), (Size.of(3),),
                Size.of(self.draw(st.integers(1, 5))), Size.of(self.draw(st.sampled_from([0, 0, 100, 9000]))),
                Size.of(self.draw(st.sampled_from([0, 0, 64, 5000]))), pairs,
                flops=self.draw(st.sampled_from([0, 10**4, 10**6])), bytes=self.draw(st.sampled_from([0, 10**5])),
            )
        )  # fmt: skip
        self.written.append(made)

    def _like(self, sources: Sequence[Storage]) -> Storage:
        made = Storage(f"s{len(self.storages)}", self.draw(st.sampled_from(sources)).bytes, "temp")
        self.storages.append(made)
        return made

    def _gather(self, kind: Literal["temp", "output"]) -> None:
        tables = [c for c in self.constants if c.gathered]
        if not tables or self.draw(st.booleans()):
            rows, row_bytes = self.draw(st.sampled_from([1, 9, 200])), self.draw(st.sampled_from([4, 1536, 4096, 6000]))
            self.constants.append(Constant(f"c{len(self.constants)}", rows, row_bytes, gathered=True))
            tables = [self.constants[-1]]
        table = self.draw(st.sampled_from(tables))
        count = self.draw(st.integers(1, 5))
        ids = Storage(f"s{len(self.storages)}", Size.of(8 * count), "input")
        made = Storage(f"s{len(self.storages) + 1}", Size.of(count * table.tile_bytes), kind)
        self.storages += [ids, made]
        self.written += [ids, made]
        self.steps.append(
            Gather(f"step{len(self.steps)}", table.name, Operand(ids.name, "r"), "int64", Operand(made.name, "w"), Size.of(count))
        )

    def _whole_constants(self) -> list[Constant]:
        old = [c for c in self.constants if not c.gathered]
        found = []
        for _ in range(self.draw(st.integers(0, 2))):
            if not old or self.draw(st.integers(0, 3)):
                self.constants.append(Constant(f"c{len(self.constants)}", 1, self.draw(st.sampled_from([4, 100, 1536, 4096, 9000, 40000]))))
                found.append(self.constants[-1])
            else:
                found.append(self.draw(st.sampled_from(old)))
        return list({c.name: c for c in found}.values())

    def _tiled(self) -> Constant:
        old = [c for c in self.constants if not c.gathered]
        if old and self.draw(st.integers(0, 3)) == 0:
            return self.draw(st.sampled_from(old))
        self.constants.append(Constant(f"c{len(self.constants)}", self.draw(st.integers(1, 12)), self.draw(st.sampled_from(_TILE_SIZES))))
        return self.constants[-1]

    def schedule(self) -> Schedule:
        """What was built."""
        inputs = [s.name for s in self.storages if s.kind == "input" and "n" in s.bytes.names()]
        dims = (Dimension("n", 1, 5, inputs[0], 0),) if inputs else ()
        if not dims:
            self.storages = [Storage(s.name, Size.of(s.bytes.evaluate({"n": 3})), s.kind) for s in self.storages]
        return Schedule(tuple(self.steps), tuple(self.storages), tuple(self.constants), dims)


Memory = dict[str, bytearray]


def random_weights(schedule: Schedule, seed: int = 0) -> dict[str, bytes]:
    """Random bytes for every constant, tiles (rows) without gaps."""
    source = random.Random(seed)
    return {c.name: source.randbytes(c.tiles * c.tile_bytes) for c in schedule.constants}


def random_inputs(schedule: Schedule, dims: dict[str, int], seed: int) -> Memory:
    """Random bytes for every input storage."""
    source = random.Random(seed)
    return {s.name: bytearray(source.randbytes(s.bytes.evaluate(dims))) for s in schedule.storages if s.kind == "input"}


def run_schedule(schedule: Schedule, weights: dict[str, bytes], inputs: Memory, dims: dict[str, int]) -> Memory:
    """The outputs of a schedule when every storage has memory of its own: the truth for `ToyMachine`."""
    memory: Memory = {s.name: bytearray(s.bytes.evaluate(dims)) for s in schedule.storages} | {
        name: bytearray(data) for name, data in inputs.items()
    }
    constants = {c.name: c for c in schedule.constants}
    for number, step in enumerate(schedule.steps):
        if isinstance(step, Gather):
            row_bytes = constants[step.table].tile_bytes
            table = weights[step.table]
            rows = [table[i * row_bytes : (i + 1) * row_bytes] for i in _ids(memory[step.ids.target], constants[step.table])]
            memory[step.out.target][:] = b"".join(rows)
            continue
        spots = [_Spot(memory[o.target], 0) if o.target in memory else _Spot(bytearray(weights[o.target]), 0) for o in step.operands]
        tiles = _tiles(step, constants)
        _kernel(_Call(schedule, number, step, spots, dims, (0, tiles)))
    return {s.name: memory[s.name] for s in schedule.storages if s.kind == "output"}


def _ids(data: bytearray, table: Constant) -> list[int]:
    return [int.from_bytes(data[i : i + 8], "little") % table.tiles for i in range(0, len(data), 8)]


def _tiles(step: Step, constants: dict[str, Constant]) -> int:
    return next((constants[o.target].tiles for o in step.operands if o.tiled), 1)


@dataclass(frozen=True)
class _Spot:
    data: bytearray
    base: int

    def get(self, low: int, high: int) -> bytes:
        return bytes(self.data[self.base + low : self.base + high])

    def put(self, low: int, value: bytes) -> None:
        self.data[self.base + low : self.base + low + len(value)] = value


@dataclass(frozen=True)
class _Call:
    """A launch: operands as memory, and the range of tiles (first, end); the tiled one starts at the first tile."""

    schedule: Schedule
    number: int
    step: Step
    spots: list[_Spot]
    dims: dict[str, int]
    tiles: tuple[int, int]


def _kernel(call: _Call) -> None:
    """Every written slice is a hash of: step, tile, and all that is read (of in-place operands just the same slice)."""
    constants = {c.name: c for c in call.schedule.constants}
    sizes = {s.name: s.bytes.evaluate(call.dims) for s in call.schedule.storages}
    total = _tiles(call.step, constants)
    paired = {i for i, _ in call.step.inplace}
    for tile in range(*call.tiles):
        digest = hashlib.blake2b(f"{call.number}.{tile}".encode())
        for i, (operand, spot) in enumerate(zip(call.step.operands, call.spots, strict=True)):
            if operand.tiled:
                size = constants[operand.target].tile_bytes
                digest.update(spot.get((tile - call.tiles[0]) * size, (tile - call.tiles[0] + 1) * size))
            elif operand.target in constants:
                digest.update(spot.get(0, constants[operand.target].tiles * constants[operand.target].tile_bytes))
            elif i in paired or operand.access == "rw":
                digest.update(spot.get(*_slice(sizes[operand.target], tile, total)))
            elif operand.access == "r":
                digest.update(spot.get(0, sizes[operand.target]))
        for j, (operand, spot) in enumerate(zip(call.step.operands, call.spots, strict=True)):
            if "w" in operand.access:
                low, high = _slice(sizes[operand.target], tile, total)
                spot.put(low, random.Random(digest.digest() + bytes([j])).randbytes(high - low))


def _slice(size: int, tile: int, tiles: int) -> tuple[int, int]:
    return size * tile // tiles, size * (tile + 1) // tiles


@dataclass
class ToyMachine:
    """Runs a plan in a bytearray; a `Read` delivers either at once or not before its `Wait`."""

    plan: Plan
    schedule: Schedule
    weights: dict[str, bytes]
    delivery: Delivery

    def __post_init__(self) -> None:
        self.noise = random.Random(7)
        self.arena = bytearray(self.noise.randbytes(self.plan.arena_bytes))
        self.file = self._file()
        for number, block in enumerate(self.plan.blocks):
            if block.resident:
                self._deliver(number)
        for command in self.plan.prologue:
            self._run(command, {}, {}, {})

    def call(self, inputs: Memory, dims: dict[str, int]) -> Memory:
        """One call of the plan."""
        sizes = {s.name: s.bytes.evaluate(dims) for s in self.schedule.storages}
        outputs = {t.name: bytearray(self.noise.randbytes(sizes[t.name])) for t in self.plan.outputs}
        for command in self.plan.commands:
            self._run(command, inputs, outputs, dims)
        return outputs

    def _run(self, command: object, inputs: Memory, outputs: Memory, dims: dict[str, int]) -> None:
        if isinstance(command, Read) and self.delivery == "early" or isinstance(command, Wait) and self.delivery == "late":
            self._deliver(command.block)
        elif isinstance(command, Read):
            block = self.plan.blocks[command.block]
            self._scribble(block.offset, block.bytes)
        elif isinstance(command, GatherCommand):
            self._gather(command, inputs, outputs, dims)
        elif isinstance(command, Launch):
            self._launch(command, inputs, outputs, dims)

    def _launch(self, command: Launch, inputs: Memory, outputs: Memory, dims: dict[str, int]) -> None:
        step = self.schedule.steps[command.step]
        assert isinstance(step, Step)
        assert self.plan.kernels[command.kernel] == step.kernel
        self._scribble(command.shared, command.shared_bytes)
        self._scribble(command.thread, command.thread_stride * self.plan.threads)
        tiles = (0, 1)
        if any(o.tiled for o in step.operands):
            first, count = (evaluate(p, dims) for p in command.integers[-2:])
            tiles = (first, first + count)
            assert evaluate(command.tasks, dims) == step.tasks.evaluate(dims) * count
        spots = [self._spot(p, inputs, outputs, dims) for p in command.pointers]
        _kernel(_Call(self.schedule, command.step, step, spots, dims, tiles))
        self._scribble(command.shared, command.shared_bytes)
        self._scribble(command.thread, command.thread_stride * self.plan.threads)

    def _gather(self, command: GatherCommand, inputs: Memory, outputs: Memory, dims: dict[str, int]) -> None:
        info = self.plan.constants[command.constant]
        table = self.schedule.constants[command.constant]
        count = evaluate(command.count, dims)
        ids = self._spot(command.ids, inputs, outputs, dims).get(0, 8 * count)
        out = self._spot(command.out, inputs, outputs, dims)
        for row, index in enumerate(_ids(bytearray(ids), table)):
            low = info.file_offset + index * info.tile_stride
            if command.block >= 0:
                block = self.plan.blocks[command.block]
                start = block.offset + block.lead + index * info.tile_stride
                data = bytes(self.arena[start : start + info.tile_bytes])
            else:
                page, end = low // 4096 * 4096, -(-(low + info.tile_bytes + 4) // 4096) * 4096
                assert end - page <= command.staging_bytes
                self.arena[command.staging : command.staging + end - page] = self.file[page:end]
                start = command.staging + low - page
                data = bytes(self.arena[start : start + info.tile_bytes])
            out.put(row * info.tile_bytes, data)

    def _spot(self, pointer: Pointer, inputs: Memory, outputs: Memory, dims: dict[str, int]) -> _Spot:
        offset = evaluate(_program(pointer.offset), dims)
        if pointer.base == "arena":
            return _Spot(self.arena, offset)
        if pointer.base == "block":
            block = self.plan.blocks[pointer.index]
            return _Spot(self.arena, block.offset + block.lead + offset)
        if pointer.base == "input":
            return _Spot(inputs[self.plan.inputs[pointer.index].name], offset)
        return _Spot(outputs[self.plan.outputs[pointer.index].name], offset)

    def _deliver(self, number: int) -> None:
        block = self.plan.blocks[number]
        constant = self.plan.constants[block.constant]
        position = constant.file_offset + block.first_tile * constant.tile_stride
        size = block.tiles * constant.tile_stride
        if block.resident:
            low = block.offset + block.lead
            self.arena[low : low + size] = self.file[position : position + size]
        else:
            page = position - block.lead
            self.arena[block.offset : block.offset + block.bytes] = self.file[page : page + block.bytes]

    def _scribble(self, offset: int, size: int) -> None:
        self.arena[offset : offset + size] = self.noise.randbytes(size)

    def _file(self) -> bytearray:
        end = max((c.file_offset + c.tiles * c.tile_stride for c in self.plan.constants), default=0)
        data = bytearray(self.noise.randbytes(-(-end // 4096) * 4096))
        for constant in self.plan.constants:
            packed = self.weights[constant.name]
            for tile in range(constant.tiles):
                low = constant.file_offset + tile * constant.tile_stride
                data[low : low + constant.tile_bytes] = packed[tile * constant.tile_bytes : (tile + 1) * constant.tile_bytes]
        return data


def _program(program: Program) -> Program:
    return program
