"""A toy machine that runs schedules and plans by moving real bytes.

Its kernels hash what they read: every byte of every operand decides every byte that is written, so any byte in the
wrong place, too late or overwritten changes the outputs.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

from ullage.plan.plan import Gather as GatherCommand
from ullage.plan.plan import Launch, Plan, Pointer, Read, Wait
from ullage.plan.sizes import evaluate
from ullage.plan.steps import Constant, Gather, Schedule, Step

Delivery = Literal["early", "late"]
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
            ids = _ids(memory[step.ids.target], constants[step.table])
            rows = [table[i * row_bytes : (i + 1) * row_bytes] for i in ids]
            memory[step.out.target][:] = b"".join(rows)
            continue
        bytes_of = [memory[o.target] if o.target in memory else bytearray(weights[o.target]) for o in step.operands]
        spots = [_Spot(data, 0) for data in bytes_of]
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
        if isinstance(command, Read if self.delivery == "early" else Wait):
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
        offset = evaluate(pointer.offset, dims)
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
                low, size = constant.file_offset + tile * constant.tile_stride, constant.tile_bytes
                data[low : low + size] = packed[tile * size : (tile + 1) * size]
        return data
