"""The planner's own view of a schedule: steps, storages and constants as numbers at the upper bounds of dimensions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import gcd
from typing import NamedTuple

from ullage.analysis.cost import roofline_seconds
from ullage.analysis.lifetimes import Access
from ullage.plan.plan import CHECKSUM_BYTES, DIRECT_IO_BYTES, Held, TensorInfo, row_span_bytes
from ullage.plan.simulate import Rates, task_share
from ullage.plan.steps import Constant, Gather, Operand, Schedule, Step, Storage
from ullage.plan.tables import PATCH_BYTES, WORD_BYTES

ALIGNMENT_BYTES = 64
SMALL_BYTES = 16 * 1024
"""Constants up to this size are pinned before anything else and never share the ring at generous budgets."""
_DIRECT_RESIDENT_BYTES = 256 * 1024
"""Resident blocks from this size on are aligned for direct I/O, so that loading does not go through the page cache."""
STAGED_ROWS = 16
"""Rows of a gathered table that are read from disk per batch, where memory allows."""


@dataclass(frozen=True)
class PlanRequest:
    """What is to be planned; storages of kind input and output have the names of `inputs` and `outputs`, in order."""

    schedule: Schedule
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    held: tuple[Held, ...]
    threads: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Work:
    """One step in numbers: temp storages and constants by number, bytes at the upper bounds, predicted seconds."""

    index: int
    reads: frozenset[int]
    writes: frozenset[int]
    pairs: tuple[tuple[int, int], ...]
    shared_bytes: int
    thread_stride: int
    workspace_bytes: int
    whole: tuple[int, ...]
    tiled: int
    tiled_operand: int
    table: int
    rows: int
    argument_bytes: int
    tasks: int
    seconds: float

    def launch_seconds(self, tiles: int, all_tiles: int, threads: int) -> float:
        """Seconds of a launch without its fixed cost, over `tiles` of the step's `all_tiles` tiles."""
        return self.seconds * task_share(self.tasks * tiles, self.tasks * all_tiles, threads)


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant in numbers: `stride` is the distance of tiles in the file and in memory; `uses` counts its steps."""

    tiles: int
    tile_bytes: int
    stride: int
    gathered: bool
    splittable: bool
    uses: int

    @property
    def bytes(self) -> int:
        """All tiles, as they lie in the file."""
        return self.tiles * self.stride

    def region_bytes(self, first: int, count: int) -> int:
        """Length of a region for direct I/O of tiles first .. first + count (file offset a multiple of 4096)."""
        lead = first * self.stride % DIRECT_IO_BYTES
        return max(DIRECT_IO_BYTES, align(lead + count * self.stride, DIRECT_IO_BYTES))

    def is_packed(self, count: int) -> bool:
        """Whether a resident block of that many tiles is short, and so held without the margins of direct I/O."""
        return count * self.stride < _DIRECT_RESIDENT_BYTES

    def resident_bytes(self, first: int, count: int) -> int:
        """Arena bytes of a resident block of these tiles: a direct I/O region if it is long, else the data alone."""
        if self.is_packed(count):
            return align(max(1, count * self.stride), ALIGNMENT_BYTES)
        return self.region_bytes(first, count)

    @property
    def unit_bytes(self) -> int:
        """The least region that a use of the constant needs while it is streamed."""
        if self.gathered:
            return row_span_bytes(self.tile_bytes)
        if not self.splittable:
            return self.region_bytes(0, self.tiles)
        return max(self.region_bytes(i, 1) for i in range(min(self.tiles, _lead_period(self.stride))))


class Chunk(NamedTuple):
    """A future block: tiles of a constant, its region's length, and whether it is resident."""

    weight: int
    first: int
    tiles: int
    bytes: int
    resident: bool


@dataclass(frozen=True)
class Problem:
    """A whole request in numbers; `sizes[i]` are the bytes of temp storage `names[i]`, rounded up to 64.

    Blocks and times of launches are kept once they are known: many drafts have the same ones.
    """

    request: PlanRequest
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    weights: tuple[Weight, ...]
    works: tuple[Work, ...]
    accesses: tuple[Access, ...]
    _chunks: dict[tuple[int, int, int, bool], Chunk] = field(default_factory=dict, init=False, repr=False)
    _seconds: dict[tuple[int, int, int], float] = field(default_factory=dict, init=False, repr=False)

    def chunk(self, c: int, first: int, count: int, resident: bool) -> Chunk:
        """The block of tiles first .. first + count of constant `c`."""
        key = (c, first, count, resident)
        if key not in self._chunks:
            weight = self.weights[c]
            size = weight.resident_bytes(first, count) if resident else weight.region_bytes(first, count)
            self._chunks[key] = Chunk(c, first, count, size, resident)
        return self._chunks[key]

    def launch_seconds(self, step: int, tiles: int, all_tiles: int) -> float:
        """Seconds of a launch over `tiles` of the step's `all_tiles` tiles; 1 of 1 for a step that is not tiled."""
        key = (step, tiles, all_tiles)
        if key not in self._seconds:
            seconds = self.works[step].launch_seconds(tiles, all_tiles, self.request.threads)
            self._seconds[key] = seconds + self.request.rates.launch_seconds
        return self._seconds[key]


def align(value: int, alignment: int) -> int:
    """`value` rounded up to a multiple of `alignment`."""
    return -(-value // alignment) * alignment


def understand(request: PlanRequest) -> Problem:
    """Turn a request into numbers; raises ValueError naming everything that makes the schedule illegal."""
    schedule = request.schedule
    complaints = _complaints(request)
    if complaints:
        raise ValueError(f"illegal schedule: {'; '.join(complaints)}.")
    dims = {d.name: d.maximum for d in schedule.dimensions}
    temps = [s for s in schedule.storages if s.kind == "temp"]
    weights = _weights(schedule)
    numbers = {s.name: i for i, s in enumerate(temps)}
    constants = {c.name: i for i, c in enumerate(schedule.constants)}
    reader = _Reader(dims, numbers, constants, weights, request)
    return Problem(
        request,
        tuple(s.name for s in temps),
        tuple(align(max(1, s.bytes.evaluate(dims)), ALIGNMENT_BYTES) for s in temps),
        weights,
        tuple(reader.work(i, step) for i, step in enumerate(schedule.steps)),
        tuple(_access(step, constants) for step in schedule.steps),
    )


def operands(step: Step | Gather) -> tuple[Operand, ...]:
    """The operands of a step or a gather; the table of a gather is not among them."""
    return step.operands if isinstance(step, Step) else (step.ids, step.out)


def _lead_period(stride: int) -> int:
    return DIRECT_IO_BYTES // gcd(stride, DIRECT_IO_BYTES)


def _access(step: Step | Gather, constants: dict[str, int]) -> Access:
    used = [o for o in operands(step) if o.target not in constants]
    return Access(
        frozenset(o.target for o in used if "r" in o.access), frozenset(o.target for o in used if "w" in o.access)
    )


def _weights(schedule: Schedule) -> tuple[Weight, ...]:
    uses: Counter[str] = Counter()
    untiled: set[str] = set()
    for step in schedule.steps:
        uses.update({o.target for o in operands(step)} | ({step.table} if isinstance(step, Gather) else set()))
        untiled.update(o.target for o in operands(step) if not o.tiled)
    return tuple(_weight(c, uses[c.name], c.name not in untiled) for c in schedule.constants)


def _weight(constant: Constant, uses: int, always_tiled: bool) -> Weight:
    stride = align(constant.tile_bytes + CHECKSUM_BYTES, 16) if constant.gathered else constant.tile_bytes
    splittable = constant.tiles > 1 and always_tiled and not constant.gathered
    return Weight(constant.tiles, constant.tile_bytes, stride, constant.gathered, splittable, uses)


@dataclass(frozen=True)
class _Reader:
    dims: dict[str, int]
    numbers: dict[str, int]
    constants: dict[str, int]
    weights: tuple[Weight, ...]
    request: PlanRequest

    def work(self, index: int, step: Step | Gather) -> Work:
        """One step in numbers."""
        reads = frozenset(self.numbers[o.target] for o in operands(step) if self._is_temp(o) and "r" in o.access)
        writes = frozenset(self.numbers[o.target] for o in operands(step) if self._is_temp(o) and "w" in o.access)
        if isinstance(step, Gather):
            return self._gather(index, step, reads, writes)
        shared = align(step.shared_bytes.evaluate(self.dims), ALIGNMENT_BYTES)
        stride = align(step.thread_bytes.evaluate(self.dims), ALIGNMENT_BYTES)
        used = {self.constants[o.target] for o in step.operands if o.target in self.constants}
        tiled = next((i for i, o in enumerate(step.operands) if o.tiled), -1)
        walked = self.constants[step.operands[tiled].target] if tiled >= 0 else -1
        return Work(
            index, reads, writes, self._pairs(step), shared, stride, shared + stride * self.request.threads,
            tuple(sorted(c for c in used if c != walked)), walked, tiled, -1, 0,
            self._argument_bytes(step, 2 if tiled >= 0 else 0), step.tasks.evaluate(self.dims),
            self._seconds(step.flops, step.bytes),
        )  # fmt: skip

    def _argument_bytes(self, step: Step | Gather, more: int) -> int:
        """What one launch keeps in the executor's tables beside its command."""
        used = operands(step)
        outside = sum(not self._is_temp(o) and o.target not in self.constants for o in used)
        words = len(used) + more + (len(step.integers) if isinstance(step, Step) else 0)
        return words * WORD_BYTES + outside * PATCH_BYTES

    def _gather(self, index: int, step: Gather, reads: frozenset[int], writes: frozenset[int]) -> Work:
        table, rows = self.constants[step.table], step.count.evaluate(self.dims)
        seconds = self._seconds(0, 2 * rows * self.weights[table].tile_bytes)
        arguments = self._argument_bytes(step, 0)
        return Work(index, reads, writes, (), 0, 0, 0, (), -1, -1, table, rows, arguments, 0, seconds)

    def _is_temp(self, operand: Operand) -> bool:
        return operand.target in self.numbers

    def _seconds(self, flops: int, traffic_bytes: int) -> float:
        rates = self.request.rates
        return roofline_seconds(flops, traffic_bytes, rates.flops_per_s, rates.memory_bytes_per_s)

    def _pairs(self, step: Step) -> tuple[tuple[int, int], ...]:
        """In-place pairs as storages: equal offsets, and no other operand touches either storage."""
        names = [o.target for o in step.operands]
        result = []
        for i, j in step.inplace:
            read, write = step.operands[i], step.operands[j]
            alone = names.count(read.target) == 1 and names.count(write.target) == 1
            if alone and self._is_temp(read) and self._is_temp(write) and read.offset == write.offset:
                result.append((self.numbers[read.target], self.numbers[write.target]))
        return tuple(result)


def _complaints(request: PlanRequest) -> list[str]:
    schedule = request.schedule
    names = Counter([*(s.name for s in schedule.storages), *(c.name for c in schedule.constants)])
    found = [f"the name {name!r} is used {count} times" for name, count in names.items() if count > 1]
    for kind, tensors in (("input", request.inputs), ("output", request.outputs)):
        stored, named = [s for s in schedule.storages if s.kind == kind], [t.name for t in tensors]
        if len(stored) != len(named) or not all(map(Storage.stands_for, stored, named)):
            found.append(f"{kind} storages are {[s.name for s in stored]}, {kind} tensors are {named}")
    written = {s.name for s in schedule.storages if s.kind == "input"}
    known, constants = {s.name for s in schedule.storages}, {c.name: c for c in schedule.constants}
    for step in schedule.steps:
        found += [f"step {step.name!r}: {text}" for text in _step_complaints(step, written, known, constants)]
        written |= {o.target for o in operands(step) if "w" in o.access}
    outputs = [s.name for s in schedule.storages if s.kind == "output"]
    found += [f"output {name!r} is never written" for name in outputs if name not in written]
    return found


def _step_complaints(
    step: Step | Gather, written: set[str], known: set[str], constants: dict[str, Constant]
) -> list[str]:
    found = []
    for operand in operands(step):
        target = operand.target
        if target not in known and target not in constants:
            found.append(f"{target!r} is neither a storage nor a constant")
        if target in known and "r" in operand.access and target not in written:
            found.append(f"{target!r} is read before it is written")
        if target in constants and (operand.access != "r" or constants[target].gathered):
            found.append(f"constant {target!r} is written, or is a gathered table")
        if target in known and operand.tiled:
            found.append(f"tiled operand {target!r} is not a constant")
    if isinstance(step, Step) and sum(o.tiled for o in step.operands) > 1:
        found.append("more than one operand is tiled")
    if isinstance(step, Gather) and (step.table not in constants or not constants[step.table].gathered):
        found.append(f"table {step.table!r} is not a gathered constant")
    return found
