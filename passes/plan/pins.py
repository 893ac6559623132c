"""Pins: which tiles stay resident, so that a given memory for constants saves the most time.

First what is small (reading it costs latency), then what a call reads more than once, then so much of the rest that
streaming is spread evenly along the predicted compute time: the disk can then work all the time, and hides behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from typing import NamedTuple

from ullage.passes.plan.cut import Pins, Segment, Style, split, tiles_per_block
from ullage.passes.plan.model import SMALL_BYTES, Problem
from ullage.passes.plan.space import Space, used_weights
from ullage.plan.simulate import staged_rows_seconds

_ROUNDING_TRIES = 12


class Piece(NamedTuple):
    """A part of a constant that is pinned or streamed as a whole.

    `load_seconds` is the compute time since the piece before it, which is time to read this one.
    """

    weight: int
    first: int
    tiles: int
    bytes: int
    load_seconds: float


@dataclass(frozen=True)
class Pieces:
    """Constants that share memory, cut into pieces, in order of use; what holds for any memory is found once."""

    pieces: tuple[Piece, ...]

    @cached_property
    def bytes(self) -> int:
        """All pieces together."""
        return sum(self.sizes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each piece."""
        return tuple(piece.bytes for piece in self.pieces)

    @cached_property
    def by_size(self) -> tuple[int, ...]:
        """Numbers of the pieces, smallest first."""
        return tuple(sorted(range(len(self.pieces)), key=self.sizes.__getitem__))

    @cached_property
    def load_seconds(self) -> float:
        """Time to read them all."""
        return sum(piece.load_seconds for piece in self.pieces)

    @cached_property
    def ranked(self) -> tuple[Piece, ...]:
        """Those that need the lowest rate to be read in time first."""
        return tuple(sorted(self.pieces, key=lambda p: p.bytes / p.load_seconds if p.load_seconds else float("inf")))


class Group(NamedTuple):
    """Constants that deserve memory equally, with the arena bytes of all of them."""

    weights: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Economy:
    """Facts about constants that hold for all choices: when each is first used and what reading it costs a call."""

    problem: Problem
    order: tuple[int, ...]
    _groups: dict[tuple[frozenset[int], bool], list[Group]] = field(default_factory=dict, init=False, repr=False)
    _pieces: dict[tuple[tuple[int, ...], int], Pieces] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def whole(self) -> tuple[tuple[tuple[Segment], tuple[Segment]], ...]:
        """For each constant all its tiles as one segment, streamed and pinned."""
        weights = self.problem.weights
        return tuple(((Segment(0, w.tiles, False),), (Segment(0, w.tiles, True),)) for w in weights)

    @cached_property
    def whole_bytes(self) -> tuple[int, ...]:
        """Arena bytes of each constant if it is resident in one block."""
        return tuple(weight.resident_bytes(0, weight.tiles) for weight in self.problem.weights)

    @cached_property
    def first_use_seconds(self) -> dict[int, tuple[float, float]]:
        """For each constant (start, duration) of the first step that uses it, in seconds of pure computing."""
        clock = 0.0
        found: dict[int, tuple[float, float]] = {}
        for step in self.order:
            seconds = self.problem.works[step].seconds
            for c in used_weights(self.problem, step):
                found.setdefault(c, (clock, seconds))
            clock += seconds
        return found

    @cached_property
    def total_seconds(self) -> float:
        """Computing of one call."""
        return sum(work.seconds for work in self.problem.works)

    @cached_property
    def read_seconds(self) -> tuple[float, ...]:
        """Disk seconds that a call spends on each constant if it is not resident."""
        return tuple(self._read_seconds(c) for c in range(len(self.problem.weights)))

    def _read_seconds(self, c: int) -> float:
        rates, weight = self.problem.request.rates, self.problem.weights[c]
        if weight.gathered:
            rows = sum(work.rows for work in self.problem.works if work.table == c)
            return staged_rows_seconds(rows, weight.tile_bytes, self.problem.request.threads, rates)
        return weight.uses * rates.read_seconds(weight.bytes)

    def groups(self, pinned: frozenset[int], tables_first: bool) -> list[Group]:
        """Constants but the pinned ones in the order in which they deserve memory; those of one group share it."""
        key = (pinned, tables_first)
        if key not in self._groups:
            groups = _groups(self, pinned, tables_first)
            self._groups[key] = [Group(tuple(group), sum(self.whole_bytes[c] for c in group)) for group in groups]
        return self._groups[key]

    def pieces(self, weights: tuple[int, ...], block_bytes: int) -> Pieces:
        """The constants cut into blocks of about that size."""
        key = (weights, block_bytes)
        if key not in self._pieces:
            self._pieces[key] = Pieces(_cut_up(self, weights, block_bytes))
        return self._pieces[key]


def none_pinned(problem: Problem, forced: frozenset[int]) -> Pins:
    """Pins with just the forced constants resident."""
    return {c: (Segment(0, w.tiles, c in forced),) for c, w in enumerate(problem.weights)}


def all_pinned(problem: Problem) -> Pins:
    """Pins with everything resident."""
    return {c: (Segment(0, w.tiles, True),) for c, w in enumerate(problem.weights)}


def choose(space: Space, economy: Economy, budget_bytes: int, style: Style, tables_first: bool) -> Pins | None:
    """Pins that take at most `budget_bytes`; None if what must be pinned takes more."""
    weights = economy.problem.weights
    pinned = set(space.forced)
    left = budget_bytes - sum([economy.whole_bytes[c] for c in pinned if weights[c].uses])
    if left < 0:
        return None
    parts: Pins = {}
    for group, size in economy.groups(space.forced, tables_first):
        if size <= left:
            pinned.update(group)
            left -= size
        elif not weights[group[0]].gathered:
            pieces = economy.pieces(group, style.block_bytes)
            keep = _spread(pieces, left)
            left -= sum(compress(pieces.sizes, keep))
            parts = {**parts, **_segments(pieces.pieces, keep)}
    return {c: parts[c] if c in parts else segments[c in pinned] for c, segments in enumerate(economy.whole)}


def _groups(economy: Economy, pinned: frozenset[int], tables_first: bool) -> list[list[int]]:
    problem = economy.problem
    groups: dict[tuple[float, float, int], list[int]] = {}
    for c, weight in enumerate(problem.weights):
        if c in pinned or not weight.uses:
            continue
        value = economy.read_seconds[c] / weight.bytes
        if weight.bytes <= SMALL_BYTES:
            rank = (3.0, value)
        elif weight.gathered and tables_first:
            rank = (2.0, value)
        elif weight.gathered:
            rank = (1.0, value * problem.request.rates.disk_bytes_per_s)
        else:
            rank = (1.0, float(weight.uses))
        groups.setdefault((*rank, c if weight.gathered else -1), []).append(c)
    return [groups[key] for key in sorted(groups, reverse=True)]


def _segments(pieces: Sequence[Piece], keep: Sequence[bool]) -> Pins:
    """Pinned and streamed parts by constant, neighbours of one kind as one."""
    runs: dict[int, list[list[int]]] = {}
    for piece, pinned in zip(pieces, keep, strict=True):
        own = runs.setdefault(piece.weight, [])
        if own and own[-1][2] == pinned:
            own[-1][1] += piece.tiles
        else:
            own.append([piece.first, piece.tiles, pinned])
    return {c: tuple([Segment(first, tiles, bool(pinned)) for first, tiles, pinned in own]) for c, own in runs.items()}


def _spread(pieces: Pieces, capacity: int) -> list[bool]:
    """For each piece whether it is pinned; pinned ones fit `capacity`."""
    total = pieces.bytes
    stream = max(0, total - capacity)
    keep = [False] * len(pieces.pieces)
    for _ in range(_ROUNDING_TRIES):
        keep = _diffuse(pieces.pieces, _rate(pieces, stream))
        excess = sum(compress(pieces.sizes, keep)) - capacity
        if excess <= 0 or stream >= total:
            break
        stream = min(total, stream + excess)
    return _fill(pieces, keep, capacity)


def _cut_up(economy: Economy, group: Sequence[int], block_bytes: int) -> tuple[Piece, ...]:
    """The constants cut at the block size, in order of first use."""
    starts, weights = economy.first_use_seconds, economy.problem.weights
    marks: list[tuple[float, int, int, int, int]] = []
    for c in group:
        weight = weights[c]
        start, duration = starts[c]
        limit = tiles_per_block(weight, block_bytes, Style(block_bytes, 1)) if weight.splittable else 0
        for first, count, _ in split(Segment(0, weight.tiles, False), limit or weight.tiles):
            end = start + duration * (first + count) / weight.tiles
            size = weight.region_bytes(first, count)
            marks.append((end, c, first, count, max(size, weight.resident_bytes(first, count))))
    marks.sort()
    clock = marks[-1][0] - economy.total_seconds
    pieces = []
    for end, c, first, count, size in marks:
        pieces.append(Piece(c, first, count, size, end - clock))
        clock = end
    return tuple(pieces)


def _rate(pieces: Pieces, stream: int) -> float:
    """The rate λ (bytes/s) at which Σ min(bytes, λ · load_seconds) over the pieces is `stream` bytes."""
    full, seconds = 0, pieces.load_seconds
    for _, _, _, size, load_seconds in pieces.ranked:
        if not seconds or not load_seconds:
            break
        rate = (stream - full) / seconds
        if rate * load_seconds <= size:
            return max(0.0, rate)
        full += size
        seconds -= load_seconds
    return float("inf")


def _diffuse(pieces: Sequence[Piece], rate: float) -> list[bool]:
    """Round each piece's streamed share min(1, rate · load / bytes) to 0 or 1, carrying the error on in bytes."""
    debt, keep = 0.0, []
    endless = rate == float("inf")
    for _, _, _, size, load_seconds in pieces:
        share = size if endless else rate * load_seconds
        debt += share if share < size else size
        streamed = debt * 2 >= size and debt > 0
        debt -= size if streamed else 0
        keep.append(not streamed)
    return keep


def _fill(pieces: Pieces, keep: list[bool], capacity: int) -> list[bool]:
    """Unpin what exceeds the capacity, smallest first, then pin what still fits, largest first."""
    sizes = pieces.sizes
    left = capacity - sum(compress(sizes, keep))
    result = list(keep)
    for i in pieces.by_size if left < 0 else ():
        if left < 0 and result[i]:
            result[i] = False
            left += sizes[i]
    for i in reversed(pieces.by_size):
        if sizes[i] <= left and not result[i]:
            result[i] = True
            left -= sizes[i]
    return result
