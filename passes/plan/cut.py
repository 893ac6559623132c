"""Cut: launches and blocks, once it is decided which tiles are pinned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import NamedTuple

from ullage.passes.plan.model import STAGED_ROWS, Weight, align
from ullage.passes.plan.ring import Bundle, Demand, Ring, Stop, place
from ullage.passes.plan.space import Space, resident_bytes
from ullage.plan.plan import DIRECT_IO_BYTES, Prediction
from ullage.plan.simulate import Event, play, staged_rows_seconds
from ullage.plan.tables import BLOCK_BYTES, COMMAND_BYTES, QUEUE_BYTES


class Segment(NamedTuple):
    """Tiles first .. first + tiles of a constant, pinned or streamed."""

    first: int
    tiles: int
    pinned: bool


Pins = Mapping[int, tuple[Segment, ...]]
"""For every constant its tiles in ascending order, neighbours of different kinds."""


@dataclass(frozen=True, slots=True)
class Style:
    """`block_bytes` is aimed at for streamed blocks; each takes at most one `share`-th of the space at its launch."""

    block_bytes: int
    share: int


class Chunk(NamedTuple):
    """A future block: tiles of a constant, its region's length, and whether it is resident."""

    weight: int
    first: int
    tiles: int
    bytes: int
    resident: bool


class Shot(NamedTuple):
    """A future launch: position in the order, tile range (0, 0 if nothing is tiled), and blocks by constant.

    `fresh` are the streamed blocks that must have arrived from this launch on.
    """

    position: int
    first: int
    tiles: int
    blocks: Mapping[int, int]
    fresh: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Cut:
    """All launches and blocks of a plan, before blocks have places."""

    space: Space
    chunks: tuple[Chunk, ...]
    shots: tuple[Shot, ...]

    @property
    def resident_bytes(self) -> int:
        """Arena bytes above the space; regions for direct I/O come first and are whole pages."""
        return sum(c.bytes for c in self.chunks if c.resident)

    @property
    def arena_bytes(self) -> int:
        """Length of the arena in whole pages."""
        return align(self.space.size + self.resident_bytes, DIRECT_IO_BYTES)

    @property
    def streamed_bytes(self) -> int:
        """Bytes asked of the disk per call."""
        return sum(c.bytes for c in self.chunks if not c.resident)

    def table_bytes(self) -> int:
        """The executor's tables that grow with launches and blocks (reads ahead left out)."""
        works, order = self.space.problem.works, self.space.packing.order
        arguments = sum(works[order[shot.position]].argument_bytes for shot in self.shots)
        streamed = sum(not c.resident for c in self.chunks)
        commands = len(self.shots) + 2 * streamed
        return commands * COMMAND_BYTES + arguments + len(self.chunks) * (BLOCK_BYTES + QUEUE_BYTES)


def cut(space: Space, pins: Pins, style: Style) -> Cut:
    """Cut every step into launches over pinned segments and streamed blocks."""
    cutter = _Cutter(space, pins, style, [], [], {})
    for position in range(len(space.packing.order)):
        cutter.step(position)
    return Cut(space, tuple(cutter.chunks), tuple(cutter.shots))


@dataclass
class _Cutter:
    space: Space
    pins: Pins
    style: Style
    chunks: list[Chunk]
    shots: list[Shot]
    resident: dict[tuple[int, int], int]

    def step(self, position: int) -> None:
        """Append the launches of one step."""
        problem = self.space.problem
        work = problem.works[self.space.packing.order[position]]
        blocks: dict[int, int] = {}
        fresh: list[int] = []
        for c in work.whole:
            self._whole(c, blocks, fresh)
        if work.table >= 0 and self.pins[work.table][0].pinned:
            self._whole(work.table, blocks, fresh)
        threads, launch_seconds = problem.request.threads, problem.request.rates.launch_seconds
        if work.tiled < 0:
            seconds = work.launch_seconds(1, 1, threads) + launch_seconds
            self.shots.append(Shot(position, 0, 0, blocks, tuple(fresh), seconds))
            return
        weight = problem.weights[work.tiled]
        taken = sum([self.chunks[b].bytes for b in fresh]) if fresh else 0
        limit = tiles_per_block(weight, self.space.holes[position] - taken, self.style)
        for first, count, pinned in self._parts(work.tiled, weight, limit):
            number, new = self._block(work.tiled, first, count, pinned)
            due = (*fresh, number) if new else tuple(fresh)
            seconds = work.launch_seconds(count, weight.tiles, threads) + launch_seconds
            self.shots.append(Shot(position, first, count, {**blocks, work.tiled: number}, due, seconds))
            fresh = []

    def _whole(self, c: int, blocks: dict[int, int], fresh: list[int]) -> None:
        blocks[c], new = self._block(c, 0, self.space.problem.weights[c].tiles, self.pins[c][0].pinned)
        if new:
            fresh.append(blocks[c])

    def _block(self, c: int, first: int, count: int, pinned: bool) -> tuple[int, bool]:
        """(number of the block, whether it is streamed); resident blocks are shared by all uses."""
        weight = self.space.problem.weights[c]
        if not pinned:
            self.chunks.append(Chunk(c, first, count, weight.region_bytes(first, count), False))
            return len(self.chunks) - 1, True
        if (c, first) not in self.resident:
            self.resident[c, first] = len(self.chunks)
            self.chunks.append(Chunk(c, first, count, resident_bytes(weight, first, count), True))
        return self.resident[c, first], False

    def _parts(self, c: int, weight: Weight, limit: int) -> list[Segment]:
        if not weight.splittable:
            return [self.pins[c][0]]
        parts: list[Segment] = []
        for segment in self.pins[c]:
            parts += [segment] if segment.pinned else split(segment, limit)
        return parts


def split(segment: Segment, limit: int) -> list[Segment]:
    """A segment in the fewest parts of at most `limit` tiles, as even as possible."""
    parts = -(-segment.tiles // limit)
    edges = [segment.first + segment.tiles * i // parts for i in range(parts + 1)]
    return [Segment(low, high - low, segment.pinned) for low, high in pairwise(edges)]


def tiles_per_block(weight: Weight, hole_bytes: int, style: Style) -> int:
    """Tiles of a block of about `style.block_bytes` that fits its share of a hole; at least one."""
    room = min(style.block_bytes, hole_bytes // style.share)
    slack = DIRECT_IO_BYTES - gcd(weight.stride, DIRECT_IO_BYTES)
    return max(1, (room // DIRECT_IO_BYTES * DIRECT_IO_BYTES - slack) // weight.stride)


def stops(plan_cut: Cut) -> list[Stop]:
    """What each position asks of the ring."""
    packing = plan_cut.space.packing
    grouped: list[list[int]] = [[] for _ in packing.order]
    for number, shot in enumerate(plan_cut.shots):
        grouped[shot.position].append(number)
    return [
        Stop(numbers[0], numbers[-1], packing.occupied[position], _bundles(plan_cut, position, numbers))
        for position, numbers in enumerate(grouped)
    ]


def _bundles(plan_cut: Cut, position: int, numbers: list[int]) -> list[tuple[int, Bundle]]:
    """The bundles of one step; staging counts as the launch's own block."""
    work = plan_cut.space.problem.works[plan_cut.space.packing.order[position]]
    first, last = numbers[0], numbers[-1]
    if work.table >= 0:
        if work.table in plan_cut.shots[first].blocks:
            return []
        size = staging_bytes(plan_cut.space, position)
        return [(first, Bundle(Demand(-1, size, first, first), size, ()))]
    own = [plan_cut.chunks[b].bytes for n in numbers for b in plan_cut.shots[n].fresh
           if plan_cut.chunks[b].weight == work.tiled]  # fmt: skip
    room = max(own, default=0)
    return [(n, b) for n in numbers if (b := _bundle(plan_cut, n, last, work.tiled, room)) is not None]


def _bundle(plan_cut: Cut, number: int, last: int, tiled: int, room: int) -> Bundle | None:
    own: Demand | None = None
    lasting = []
    for block in plan_cut.shots[number].fresh:
        chunk = plan_cut.chunks[block]
        if chunk.weight == tiled:
            own = Demand(block, chunk.bytes, number, number)
        else:
            lasting.append(Demand(block, chunk.bytes, number, last))
    if own is None and not lasting:
        return None
    return Bundle(own, room if lasting or own is None else own.bytes, tuple(lasting))


def staging_bytes(space: Space, position: int) -> int:
    """Staging for the rows of a gather: all of them or a batch, as far as there is a hole."""
    work = space.problem.works[space.packing.order[position]]
    span = space.problem.weights[work.table].unit_bytes
    rows = min(work.rows, max(STAGED_ROWS, space.problem.request.threads))
    return span * max(1, min(rows, space.holes[position] // span))


@dataclass(frozen=True)
class Draft:
    """A complete plan in numbers, with what it is predicted to take."""

    cut: Cut
    ring: Ring
    prediction: Prediction

    @property
    def table_bytes(self) -> int:
        """The executor's tables that grow with launches, blocks and reads ahead."""
        return self.cut.table_bytes() + len(self.ring.ahead) * COMMAND_BYTES

    @property
    def arena_and_table_bytes(self) -> int:
        """Arena and growing tables; what differs between drafts of one request."""
        return self.cut.arena_bytes + self.table_bytes

    @property
    def rank(self) -> tuple[float, int, int]:
        """Drafts are compared by predicted seconds, then by bytes read, then by memory."""
        return self.prediction.seconds, self.prediction.streamed_bytes, self.arena_and_table_bytes


def draft(plan_cut: Cut, wrap: bool) -> Draft:
    """Place the blocks of a cut and predict its time."""
    ring = place(plan_cut.space.size, stops(plan_cut), len(plan_cut.shots), wrap)
    return Draft(plan_cut, ring, play(_events(plan_cut, ring), plan_cut.streamed_bytes))


def _events(plan_cut: Cut, ring: Ring) -> list[Event]:
    problem = plan_cut.space.problem
    rates = problem.request.rates
    due: list[list[int]] = [[] for _ in range(len(plan_cut.shots) + 1)]
    for at, block in (*ring.reads, *ring.ahead):
        due[at].append(block)
    events: list[Event] = []
    for number, shot in enumerate(plan_cut.shots):
        events += [Event("read", b, rates.read_seconds(plan_cut.chunks[b].bytes)) for b in due[number]]
        events += [Event("wait", b, rates.traffic_seconds(plan_cut.chunks[b].bytes)) for b in shot.fresh]
        if number in ring.staging:
            work = problem.works[plan_cut.space.packing.order[shot.position]]
            weight = problem.weights[work.table]
            readers = min(problem.request.threads, staging_bytes(plan_cut.space, shot.position) // weight.unit_bytes)
            seconds = staged_rows_seconds(work.rows, weight.tile_bytes, readers, rates)
            events.append(Event("block", -1, seconds))
        events.append(Event("run", -1, shot.seconds))
    return events + [Event("read", b, rates.read_seconds(plan_cut.chunks[b].bytes)) for b in due[-1]]
