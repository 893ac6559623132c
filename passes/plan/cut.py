"""Cut: launches and blocks, once it is decided which tiles are pinned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import gcd
from typing import NamedTuple

from ullage.passes.plan.model import STAGED_ROWS, Chunk, Problem, Weight, Work, align
from ullage.passes.plan.ring import Bundle, Demand, Ring, Stop, place
from ullage.passes.plan.space import Space
from ullage.plan.plan import DIRECT_IO_BYTES, Prediction
from ullage.plan.simulate import Kind, play, staged_rows_seconds
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
        return sum([c.bytes for c in self.chunks if c.resident])

    @property
    def arena_bytes(self) -> int:
        """Length of the arena in whole pages."""
        return align(self.space.size + self.resident_bytes, DIRECT_IO_BYTES)

    @property
    def streamed_bytes(self) -> int:
        """Bytes asked of the disk per call."""
        return sum([c.bytes for c in self.chunks if not c.resident])

    def table_bytes(self) -> int:
        """The executor's tables that grow with launches and blocks (reads ahead left out)."""
        works = self.space.problem.works
        argument_bytes = [works[step].argument_bytes for step in self.space.packing.order]
        arguments = sum([argument_bytes[shot.position] for shot in self.shots])
        streamed = len(self.chunks) - sum([c.resident for c in self.chunks])
        commands = len(self.shots) + 2 * streamed
        return commands * COMMAND_BYTES + arguments + len(self.chunks) * (BLOCK_BYTES + QUEUE_BYTES)


def cut(space: Space, pins: Pins, style: Style) -> Cut:
    """Cut every step into launches over pinned segments and streamed blocks."""
    cutter = _Cutter(space, space.problem, pins, style)
    for position, step in enumerate(space.packing.order):
        cutter.step(position, space.problem.works[step])
    return Cut(space, tuple(cutter.chunks), tuple(cutter.shots))


@dataclass(slots=True)
class _Cutter:
    space: Space
    problem: Problem
    pins: Pins
    style: Style
    chunks: list[Chunk] = field(default_factory=list)
    shots: list[Shot] = field(default_factory=list)
    resident: dict[tuple[int, int], int] = field(default_factory=dict)

    def step(self, position: int, work: Work) -> None:
        """Append the launches of one step."""
        blocks: dict[int, int] = {}
        fresh: list[int] = []
        for c in work.whole:
            self._whole(c, blocks, fresh)
        if work.table >= 0 and self.pins[work.table][0].pinned:
            self._whole(work.table, blocks, fresh)
        if work.tiled < 0:
            seconds = self.problem.launch_seconds(work.index, 1, 1)
            self.shots.append(Shot(position, 0, 0, blocks, tuple(fresh), seconds))
            return
        weight = self.problem.weights[work.tiled]
        taken = sum([self.chunks[b].bytes for b in fresh]) if fresh else 0
        for first, count, pinned in self._parts(work.tiled, weight, self.space.holes[position] - taken):
            number = self._block(work.tiled, first, count, pinned)
            due = tuple(fresh) if pinned else (*fresh, number)
            seconds = self.problem.launch_seconds(work.index, count, weight.tiles)
            self.shots.append(Shot(position, first, count, {**blocks, work.tiled: number}, due, seconds))
            fresh = []

    def _whole(self, c: int, blocks: dict[int, int], fresh: list[int]) -> None:
        pinned = self.pins[c][0].pinned
        blocks[c] = self._block(c, 0, self.problem.weights[c].tiles, pinned)
        if not pinned:
            fresh.append(blocks[c])

    def _block(self, c: int, first: int, count: int, pinned: bool) -> int:
        """The number of the block; resident blocks are shared by all uses."""
        if pinned and (c, first) in self.resident:
            return self.resident[c, first]
        number = len(self.chunks)
        if pinned:
            self.resident[c, first] = number
        self.chunks.append(self.problem.chunk(c, first, count, pinned))
        return number

    def _parts(self, c: int, weight: Weight, hole_bytes: int) -> Sequence[Segment]:
        segments = self.pins[c]
        if not weight.splittable or (len(segments) == 1 and segments[0].pinned):
            return segments[:1]
        limit = tiles_per_block(weight, hole_bytes, self.style)
        parts: list[Segment] = []
        for segment in segments:
            if segment.pinned or segment.tiles <= limit:
                parts.append(segment)
            else:
                parts += split(segment, limit)
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
    shots, occupied = plan_cut.shots, plan_cut.space.packing.occupied
    found: list[Stop] = []
    first = 0
    for position, ranges in enumerate(occupied):
        end = first + 1
        while end < len(shots) and shots[end].position == position:
            end += 1
        found.append(Stop(first, end - 1, ranges, _bundles(plan_cut, position, first, end)))
        first = end
    return found


def _bundles(plan_cut: Cut, position: int, first: int, end: int) -> list[tuple[int, Bundle]]:
    """The bundles of one step, whose launches are first .. end; staging counts as the launch's own block."""
    space, shots, chunks = plan_cut.space, plan_cut.shots, plan_cut.chunks
    work = space.problem.works[space.packing.order[position]]
    if work.table >= 0:
        if work.table in shots[first].blocks:
            return []
        size = staging_bytes(space, position)
        return [(first, Bundle(Demand(-1, size, first, first), size, ()))]
    asking = [n for n in range(first, end) if shots[n].fresh]
    if not asking:
        return []
    own = [chunks[b].bytes for n in asking for b in shots[n].fresh if chunks[b].weight == work.tiled]
    room = max(own, default=0)
    return [(n, _bundle(plan_cut, n, end - 1, work.tiled, room)) for n in asking]


def _bundle(plan_cut: Cut, number: int, last: int, tiled: int, room: int) -> Bundle:
    own: Demand | None = None
    lasting = []
    for block in plan_cut.shots[number].fresh:
        chunk = plan_cut.chunks[block]
        if chunk.weight == tiled:
            own = Demand(block, chunk.bytes, number, number)
        else:
            lasting.append(Demand(block, chunk.bytes, number, last))
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


def _events(plan_cut: Cut, ring: Ring) -> list[tuple[Kind, int, float]]:
    """As `Event`s."""
    problem = plan_cut.space.problem
    rates = problem.request.rates
    due: list[list[int]] = [[] for _ in range(len(plan_cut.shots) + 1)]
    for at, block in (*ring.reads, *ring.ahead):
        due[at].append(block)
    sizes = {chunk.bytes for chunk in plan_cut.chunks if not chunk.resident}
    reading = {size: rates.read_seconds(size) for size in sizes}
    waiting = {size: rates.traffic_seconds(size) for size in sizes}
    events: list[tuple[Kind, int, float]] = []
    for number, shot in enumerate(plan_cut.shots):
        for b in due[number]:
            events.append(("read", b, reading[plan_cut.chunks[b].bytes]))
        for b in shot.fresh:
            events.append(("wait", b, waiting[plan_cut.chunks[b].bytes]))
        if number in ring.staging:
            work = problem.works[plan_cut.space.packing.order[shot.position]]
            weight = problem.weights[work.table]
            readers = min(problem.request.threads, staging_bytes(plan_cut.space, shot.position) // weight.unit_bytes)
            events.append(("block", -1, staged_rows_seconds(work.rows, weight.tile_bytes, readers, rates)))
        events.append(("run", -1, shot.seconds))
    return events + [("read", b, reading[plan_cut.chunks[b].bytes]) for b in due[-1]]
