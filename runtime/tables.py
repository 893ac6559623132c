"""Filling the executor's tables from a plan (the other side is native/layout.h), and what depends on sizes anew."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ullage.errors import ArtifactError
from ullage.plan.plan import Command, Gather, Launch, Plan, Pointer, Program, Read, Wait
from ullage.plan.sizes import evaluate
from ullage.plan.tables import (
    BLOCK_BYTES,
    COMMAND_BYTES,
    CONSTANT_BYTES,
    DISK_STACK_BYTES,
    PATCH_BYTES,
    THREAD_BYTES,
    WORD_BYTES,
    WORKER_STACK_BYTES,
    Layout,
    command_pointers,
    layout,
)
from ullage.runtime.checks import MOST_TASKS, data_bytes, is_packed, position, read_bytes
from ullage.runtime.memory import Region
from ullage.runtime.placement import Placement

_ABI = 2
_LAUNCH, _GATHER, _READ, _WAIT = range(4)
_IDLE, _READY, _CHECKS_DUE = 0, 2, 1
_CONTEXT = struct.Struct("<IIqqqqQQQQQQQqqiiI")
_BLOCK = struct.Struct("<QqqqqqIIII")
_CONSTANT = struct.Struct("<qqqqQ")
_FAILURE = struct.Struct("<IIqqqI")
_STATISTICS = struct.Struct("<QQQQ")
_FAILURE_OFFSET = 152
_STATISTICS_OFFSET = 192
_TIMINGS_OFFSET = 224
_DISK_STACK_OFFSET = 128
_WORKER_STACK_OFFSET = 24
_MOST = 1 << 62
Words = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bindings:
    """What the tables point at: the memory, the kernels, the files (direct may be -1), the checksums."""

    placement: Placement
    kernels: tuple[int, ...]
    direct_file: int
    buffered_file: int
    weights_offset: int
    checksums: bytes
    threads: int


@dataclass(frozen=True, slots=True)
class Failure:
    """What the executor says of a run that failed."""

    status: int
    constant: int
    tile: int
    value: int
    error: int
    step: int


@dataclass(slots=True)
class _Slots:
    """Words that hold base + the value of one program; a value beyond `most` is refused."""

    words: list[int] = field(default_factory=list)
    bases: list[int] = field(default_factory=list)
    most: int = _MOST

    def add(self, word: int, base: int, most: int) -> None:
        self.words.append(word)
        self.bases.append(base)
        self.most = min(self.most, most)


@dataclass(frozen=True, slots=True)
class _Resized:
    program: Program
    words: Words
    bases: Words
    most: int


class Tables:
    """The executor's mapping, filled from a plan; `resize` writes what depends on the dimensions."""

    def __init__(self, plan: Plan, bindings: Bindings) -> None:
        self.layout = layout(plan)
        self.region = Region(self.layout.total, "the executor's tables")
        self.threads = bindings.threads
        self._words: Words = np.frombuffer(self.region.map, np.int64)
        start = self.layout.boundary // WORD_BYTES
        self.boundary: Words = self._words[start : start + len(plan.inputs) + len(plan.outputs)]
        self._resized = _Filler(plan, bindings, self.region, self._words, self.layout).fill()

    @property
    def address(self) -> int:
        """Where the context lies."""
        return self.region.address

    def close(self) -> None:
        """Unmap the tables; the executor must have stopped."""
        del self._words, self.boundary
        self.region.close()

    def resize(self, dims: Mapping[str, int]) -> None:
        """Write all that depends on the dimensions; ArtifactError for a value out of range."""
        for item in self._resized:
            value = evaluate(item.program, dims)
            if not 0 <= value <= item.most:
                raise ArtifactError(f"the plan is corrupt: a size becomes {value} at {dict(dims)}.")
            self._words[item.words] = item.bases + value

    def failure(self) -> Failure:
        """Why the last run failed."""
        return Failure(*_FAILURE.unpack_from(self.region.map, _FAILURE_OFFSET))

    def statistics(self) -> tuple[int, int, int, int]:
        """Of the last run: wall time and stalls in ns, bytes of blocks that arrived, bytes read for gathered rows."""
        wall, stall, blocks, gathered = _STATISTICS.unpack_from(self.region.map, _STATISTICS_OFFSET)
        return wall, stall, blocks, gathered

    def time_into(self, timings: Words | None) -> None:
        """Have the executor write the nanoseconds of each command, prologue first, or stop it with None."""
        address = 0 if timings is None else timings.ctypes.data
        self._words[_TIMINGS_OFFSET // WORD_BYTES] = address

    def stacks(self) -> list[tuple[int, int]]:
        """Address and length of every stack that the executor has mapped."""
        places = [(_DISK_STACK_OFFSET, DISK_STACK_BYTES)]
        for number in range(1, self.threads):
            places.append((self.layout.threads + number * THREAD_BYTES + _WORKER_STACK_OFFSET, WORKER_STACK_BYTES))
        return [(int(self._words[offset // WORD_BYTES]), size) for offset, size in places]


class _Filler:
    """Writes each section once, front to back."""

    def __init__(self, plan: Plan, bindings: Bindings, region: Region, words: Words, places: Layout) -> None:
        self._plan = plan
        self._bindings = bindings
        self._places_of = bindings.placement
        self._map = region.map
        self._address = region.address
        self._words = words
        self._places = places
        self._pointer = places.pointers // WORD_BYTES
        self._integer = places.integers // WORD_BYTES
        self._patch = places.patches // WORD_BYTES
        self._slots: dict[Program, _Slots] = {}

    def fill(self) -> tuple[_Resized, ...]:
        """Write everything; returns what has to be written again for other dimensions."""
        self._fill_context()
        self._fill_blocks()
        self._fill_constants()
        for number, command in enumerate((*self._plan.prologue, *self._plan.commands)):
            self._fill_command((self._places.commands + number * COMMAND_BYTES) // WORD_BYTES, command)
        return tuple(
            _Resized(program, np.array(s.words, np.int64), np.array(s.bases, np.int64), s.most)
            for program, s in self._slots.items()
        )

    def _fill_context(self) -> None:
        plan, places, at = self._plan, self._places, self._address
        starts = (
            places.commands, places.patches, places.boundary, places.blocks, places.queue, places.constants,
            places.threads,
        )  # fmt: skip
        pointers = [p for c in (*plan.prologue, *plan.commands) for p in command_pointers(c)]
        patches = sum(p.base in ("input", "output") for p in pointers)
        counts = (len(plan.prologue), len(plan.commands), patches, len(plan.blocks))
        files = (self._bindings.direct_file, self._bindings.buffered_file)
        stacks = (WORKER_STACK_BYTES, DISK_STACK_BYTES)
        addresses = (at + start for start in starts)
        _CONTEXT.pack_into(self._map, 0, _ABI, self._bindings.threads, *counts, *addresses, *stacks, *files, 1)

    def _fill_blocks(self) -> None:
        for number, block in enumerate(self._plan.blocks):
            constant = self._plan.constants[block.constant]
            packed = is_packed(constant, block)
            _BLOCK.pack_into(
                self._map,
                self._places.blocks + number * BLOCK_BYTES,
                self._places_of.blocks[number],
                self._bindings.weights_offset + position(constant, block) - block.lead,
                data_bytes(constant, block) if packed else read_bytes(constant, block),
                block.lead,
                block.first_tile,
                block.tiles,
                block.constant,
                block.resident,
                *((_READY, 0) if number in self._places_of.present else (_IDLE, _CHECKS_DUE)),
            )

    def _fill_constants(self) -> None:
        place = self._places.checksums
        self._map[place : place + len(self._bindings.checksums)] = self._bindings.checksums
        for number, c in enumerate(self._plan.constants):
            checksums = 0 if c.gathered else self._address + place
            offset = self._bindings.weights_offset + c.file_offset
            where = self._places.constants + number * CONSTANT_BYTES
            _CONSTANT.pack_into(self._map, where, c.tiles, c.tile_bytes, c.tile_stride, offset, checksums)
            place += 0 if c.gathered else 4 * c.tiles

    def _fill_command(self, word: int, command: Command) -> None:
        match command:
            case Launch():
                self._fill_launch(word, command)
            case Gather():
                self._fill_gather(word, command)
            case Read(block):
                self._words[word], self._words[word + 1] = _READ, block
            case Wait(block):
                self._words[word], self._words[word + 1] = _WAIT, block

    def _fill_launch(self, word: int, launch: Launch) -> None:
        arena = self._places_of.arena
        self._words[word] = _LAUNCH | launch.step << 32
        self._words[word + 1] = self._bindings.kernels[launch.kernel]
        self._words[word + 2] = self._add_pointers(launch.pointers)
        self._words[word + 3] = self._add_integers(launch.integers)
        self._put(word + 4, launch.tasks, 0, MOST_TASKS)
        self._words[word + 5] = arena + launch.shared
        self._words[word + 6] = arena + launch.thread
        self._words[word + 7] = launch.thread_stride | launch.shared_bytes << 32

    def _fill_gather(self, word: int, gather: Gather) -> None:
        wide = int(gather.ids_dtype == "int64")
        self._words[word] = _GATHER | gather.step << 32
        self._words[word + 1] = self._add_pointers((gather.ids, gather.out))
        self._put(word + 2, gather.count, 0, MOST_TASKS)
        self._words[word + 3] = self._block_data(gather.block) if gather.block >= 0 else 0
        self._words[word + 4] = self._places_of.arena + gather.staging
        self._words[word + 5] = gather.staging_bytes
        self._words[word + 6] = gather.constant | wide << 32

    def _add_pointers(self, pointers: tuple[Pointer, ...]) -> int:
        first = self._pointer
        for pointer in pointers:
            self._add_pointer(pointer)
        return self._address + first * WORD_BYTES

    def _add_pointer(self, pointer: Pointer) -> None:
        match pointer.base:
            case "arena":
                self._put(self._pointer, pointer.offset, self._places_of.arena, self._places_of.space_bytes)
            case "block":
                most = self._plan.blocks[pointer.index].bytes
                self._put(self._pointer, pointer.offset, self._block_data(pointer.index), most)
            case "input":
                self._add_patch(pointer.index, pointer.offset)
            case "output":
                self._add_patch(len(self._plan.inputs) + pointer.index, pointer.offset)
        self._pointer += 1

    def _add_patch(self, boundary: int, offset: Program) -> None:
        self._words[self._patch] = self._address + self._pointer * WORD_BYTES
        self._put(self._patch + 1, offset, 0, _MOST)
        self._words[self._patch + 2] = boundary
        self._patch += PATCH_BYTES // WORD_BYTES

    def _add_integers(self, programs: tuple[Program, ...]) -> int:
        first = self._integer
        for program in programs:
            self._put(self._integer, program, 0, _MOST)
            self._integer += 1
        return self._address + first * WORD_BYTES

    def _block_data(self, number: int) -> int:
        return self._places_of.blocks[number] + self._plan.blocks[number].lead

    def _put(self, word: int, program: Program, base: int, most: int) -> None:
        """Write base + the program's value if it is constant, else remember the word."""
        (first, *rest) = program
        if not rest and isinstance(first, int):
            self._words[word] = base + first
        else:
            self._slots.setdefault(program, _Slots()).add(word, base, most)
