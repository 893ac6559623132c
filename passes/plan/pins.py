"""Pins: which tiles stay resident, so that a given memory for constants saves the most time.

First what is small (reading it costs latency), then what a call reads more than once, then so much of the rest that
streaming is spread evenly along the predicted compute time: the disk can then work all the time, and hides behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ullage.passes.plan.cut import Pins, Segment, Style, split, tiles_per_block
from ullage.passes.plan.model import SMALL_BYTES, Problem, Weight
from ullage.passes.plan.space import Space, resident_bytes, used_weights
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
class Economy:
    """Facts about constants that hold for all choices: when each is first used and what reading it costs a call."""

    problem: Problem
    order: tuple[int, ...]

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

    def read_seconds(self, c: int) -> float:
        """Disk seconds that a call spends on a constant that is not resident."""
        rates, weight = self.problem.request.rates, self.problem.weights[c]
        if weight.gathered:
            rows = sum(work.rows for work in self.problem.works if work.table == c)
            return staged_rows_seconds(rows, weight.tile_bytes, self.problem.request.threads, rates)
        return weight.uses * rates.read_seconds(weight.bytes)


def none_pinned(problem: Problem, forced: frozenset[int]) -> Pins:
    """Pins with just the forced constants resident."""
    return {c: (Segment(0, w.tiles, c in forced),) for c, w in enumerate(problem.weights)}


def all_pinned(problem: Problem) -> Pins:
    """Pins with everything resident."""
    return {c: (Segment(0, w.tiles, True),) for c, w in enumerate(problem.weights)}


def whole_bytes(weight: Weight) -> int:
    """Arena bytes of a constant that is resident in one block."""
    return resident_bytes(weight, 0, weight.tiles)


def choose(space: Space, economy: Economy, budget_bytes: int, style: Style, tables_first: bool) -> Pins | None:
    """Pins that take at most `budget_bytes`; None if what must be pinned takes more."""
    problem = space.problem
    pinned = set(space.forced)
    left = budget_bytes - sum(whole_bytes(problem.weights[c]) for c in pinned if problem.weights[c].uses)
    if left < 0:
        return None
    pieces: dict[int, list[Segment]] = {}
    for group in _groups(problem, economy, pinned, tables_first):
        size = sum(whole_bytes(problem.weights[c]) for c in group)
        if size <= left:
            pinned.update(group)
            left -= size
        elif not problem.weights[group[0]].gathered:
            parts = _spread(space, economy, group, left, style)
            for part, keep in parts:
                pieces.setdefault(part.weight, []).append(Segment(part.first, part.tiles, keep))
                left -= part.bytes if keep else 0
    pins = dict(none_pinned(problem, frozenset(pinned)))
    pins.update({c: _merged(segments) for c, segments in pieces.items()})
    return pins


def _groups(problem: Problem, economy: Economy, pinned: set[int], tables_first: bool) -> list[list[int]]:
    """Constants in the order in which they deserve memory; those of one group share it."""
    groups: dict[tuple[float, float, int], list[int]] = {}
    for c, weight in enumerate(problem.weights):
        if c in pinned or not weight.uses:
            continue
        value = economy.read_seconds(c) / weight.bytes
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


def _merged(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    result: list[Segment] = []
    for segment in segments:
        if result and result[-1].pinned == segment.pinned:
            last = result.pop()
            segment = Segment(last.first, last.tiles + segment.tiles, last.pinned)
        result.append(segment)
    return tuple(result)


def _spread(
    space: Space, economy: Economy, group: Sequence[int], capacity: int, style: Style
) -> list[tuple[Piece, bool]]:
    """Pieces of the group's constants in order of use with whether each is pinned; pinned ones fit `capacity`."""
    pieces = _pieces(space, economy, group, style)
    total = sum(p.bytes for p in pieces)
    stream = max(0, total - capacity)
    keep = [False] * len(pieces)
    for _ in range(_ROUNDING_TRIES):
        keep = _diffuse(pieces, _rate(pieces, stream))
        excess = sum(p.bytes for p, k in zip(pieces, keep, strict=True) if k) - capacity
        if excess <= 0 or stream >= total:
            break
        stream = min(total, stream + excess)
    return list(zip(pieces, _fill(pieces, keep, capacity), strict=True))


def _pieces(space: Space, economy: Economy, group: Sequence[int], style: Style) -> list[Piece]:
    """The constants cut at the style's block size, in order of first use."""
    starts = economy.first_use_seconds
    marks: list[tuple[float, int, int, int, int]] = []
    for c in group:
        weight = space.problem.weights[c]
        start, duration = starts[c]
        limit = tiles_per_block(weight, style.block_bytes, Style(style.block_bytes, 1)) if weight.splittable else 0
        for first, count, _ in split(Segment(0, weight.tiles, False), limit or weight.tiles):
            end = start + duration * (first + count) / weight.tiles
            size = weight.region_bytes(first, count)
            marks.append((end, c, first, count, max(size, resident_bytes(weight, first, count))))
    marks.sort()
    clock = marks[-1][0] - economy.total_seconds
    pieces = []
    for end, c, first, count, size in marks:
        pieces.append(Piece(c, first, count, size, end - clock))
        clock = end
    return pieces


def _rate(pieces: Sequence[Piece], stream: int) -> float:
    """The rate λ (bytes/s) at which Σ min(bytes, λ · load_seconds) over the pieces is `stream` bytes."""
    ranked = sorted(pieces, key=lambda p: p.bytes / p.load_seconds if p.load_seconds else float("inf"))
    full, seconds = 0, sum(p.load_seconds for p in pieces)
    for piece in ranked:
        if not seconds or not piece.load_seconds:
            break
        rate = (stream - full) / seconds
        if rate * piece.load_seconds <= piece.bytes:
            return max(0.0, rate)
        full += piece.bytes
        seconds -= piece.load_seconds
    return float("inf")


def _diffuse(pieces: Sequence[Piece], rate: float) -> list[bool]:
    """Round each piece's streamed share min(1, rate · load / bytes) to 0 or 1, carrying the error on in bytes."""
    debt, keep = 0.0, []
    for piece in pieces:
        debt += piece.bytes if rate == float("inf") else min(piece.bytes, rate * piece.load_seconds)
        streamed = debt * 2 >= piece.bytes and debt > 0
        debt -= piece.bytes if streamed else 0
        keep.append(not streamed)
    return keep


def _fill(pieces: Sequence[Piece], keep: list[bool], capacity: int) -> list[bool]:
    """Unpin what exceeds the capacity, smallest first, then pin what still fits, largest first."""
    left = capacity - sum(p.bytes for p, k in zip(pieces, keep, strict=True) if k)
    result = list(keep)
    by_size = sorted(range(len(pieces)), key=lambda i: pieces[i].bytes)
    for i in by_size:
        if left < 0 and result[i]:
            result[i] = False
            left += pieces[i].bytes
    for i in reversed(by_size):
        if not result[i] and pieces[i].bytes <= left:
            result[i] = True
            left -= pieces[i].bytes
    return result
