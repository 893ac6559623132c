"""Pack: offsets for activations and workspaces, toward 0, so that weights can use what is free at each step."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from ullage.passes.plan.inplace import Span, chains, spans, takeovers
from ullage.passes.plan.model import Problem, align
from ullage.passes.plan.order import step_extras
from ullage.plan.plan import DIRECT_IO_BYTES

Interval = tuple[int, int]
_REPAIR_ROUNDS = 24
_REPAIR_EFFORT = 6000
_POLISH_EFFORT = 8000
"""Single pieces that the repair, and after it the local search, may place in all."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rectangles (first, last, bytes) in time that share one base offset: a chain of storages, or a workspace."""

    rectangles: tuple[tuple[int, int, int], ...]
    storages: tuple[int, ...]
    workspace_of: int

    @property
    def bytes(self) -> int:
        """The most it needs at any time."""
        return max(size for _, _, size in self.rectangles)

    @property
    def duration(self) -> int:
        """Steps from its first to its last."""
        return self.rectangles[-1][1] - self.rectangles[0][0] + 1


@dataclass(frozen=True)
class Packing:
    """Where everything that is not a weight lies; positions count steps in the order."""

    order: tuple[int, ...]
    lives: dict[int, Span]
    taken: dict[int, int]
    offsets: dict[int, int]
    workspaces: dict[int, int]
    occupied: tuple[tuple[Interval, ...], ...]
    """For each position the merged address ranges in use."""

    @property
    def height(self) -> int:
        """The end of the highest range ever used."""
        return max((ranges[-1][1] for ranges in self.occupied if ranges), default=0)


def pack(problem: Problem, order: tuple[int, ...]) -> Packing:
    """The best of several placements: least arena that also leaves room for each step's least streamed unit."""
    lives = spans(problem, order)
    taken = takeovers(problem, order, lives)
    pieces = _pieces(problem, order, lives, taken)
    extras = step_extras(problem)
    units = [extras[step] - problem.works[step].workspace_bytes for step in order]
    bound = _bound(pieces, units)
    best: _Placement | None = None
    for arrange in _STRATEGIES:
        best = _better(best, pieces, arrange(pieces), units)
        if best.need <= bound:
            break
    assert best is not None
    for improve in (_repair, _polish):
        if best.need > bound:
            best = improve(best, pieces, units, bound)
    return _packing(pieces, best.offsets, order, lives, taken)


def needed_bytes(ranges: Sequence[Interval], unit: int) -> int:
    """The least arena that holds the used ranges and, page-aligned in a hole or above, a unit of `unit` bytes."""
    top, found = 0, -1
    for low, high in ranges:
        base = align(top, DIRECT_IO_BYTES)
        if found < 0 and base + unit <= low:
            found = base + unit
        top = max(top, high)
    return max(top, found if found >= 0 else align(top, DIRECT_IO_BYTES) + unit if unit else top)


def _pieces(problem: Problem, order: tuple[int, ...], lives: dict[int, Span], taken: dict[int, int]) -> list[Piece]:
    pieces = [
        Piece(tuple((lives[s].first, lives[s].last, problem.sizes[s]) for s in chain), chain, -1)
        for chain in chains(lives, taken)
    ]
    for position, step in enumerate(order):
        size = problem.works[step].workspace_bytes
        if size:
            pieces.append(Piece(((position, position, size),), (), step))
    return pieces


def _bound(pieces: Sequence[Piece], units: Sequence[int]) -> int:
    """What the fullest step needs if nothing is lost between pieces."""
    live = [0] * (len(units) + 1)
    for piece in pieces:
        end = -1
        for first, last, size in piece.rectangles:
            live[max(first, end + 1)] += size
            live[last + 1] -= size
            end = last
    total, most = 0, 0
    for change, unit in zip(live, units, strict=False):
        total += change
        most = max(most, needed_bytes([(0, total)] if total else [], unit))
    return most


def _largest(pieces: Sequence[Piece]) -> list[int]:
    return sorted(range(len(pieces)), key=lambda i: (-pieces[i].bytes, -pieces[i].duration))


def _area(pieces: Sequence[Piece]) -> list[int]:
    return sorted(range(len(pieces)), key=lambda i: -pieces[i].bytes * pieces[i].duration)


def _longest(pieces: Sequence[Piece]) -> list[int]:
    return sorted(range(len(pieces)), key=lambda i: (-pieces[i].duration, -pieces[i].bytes))


def _earliest(pieces: Sequence[Piece]) -> list[int]:
    return sorted(range(len(pieces)), key=lambda i: (pieces[i].rectangles[0][0], -pieces[i].bytes))


_STRATEGIES: tuple[Callable[[Sequence[Piece]], list[int]], ...] = (_largest, _earliest, _area, _longest)


@dataclass(frozen=True, slots=True)
class _Placement:
    """The arena that a placement needs, offsets by piece, and the sequence in which pieces were placed."""

    need: int
    offsets: list[int]
    sequence: list[int]


def _better(best: _Placement | None, pieces: Sequence[Piece], sequence: list[int], units: Sequence[int]) -> _Placement:
    """The better of `best` and the placements, first-fit and best-fit, of the pieces in this sequence."""
    for tight in (False, True):
        offsets = _place(pieces, sequence, tight)
        need = _need(pieces, offsets, units)[0]
        if best is None or need < best.need:
            best = _Placement(need, offsets, sequence)
    assert best is not None
    return best


def _need(pieces: Sequence[Piece], offsets: Sequence[int], units: Sequence[int]) -> tuple[int, int]:
    """(arena that a placement needs, position of the step that needs it)."""
    needs = [
        (needed_bytes(ranges, unit), t)
        for t, (ranges, unit) in enumerate(zip(occupancy(pieces, offsets, len(units)), units, strict=True))
    ]
    return max(needs, key=lambda need: need[0], default=(0, 0))


def _repair(best: _Placement, pieces: Sequence[Piece], units: Sequence[int], bound: int) -> _Placement:
    """Place again with the pieces of the fullest steps first, as long as the effort lasts."""
    urgent: list[int] = []
    _, worst = _need(pieces, best.offsets, units)
    base = _largest(pieces)
    for _ in range(min(_REPAIR_ROUNDS, _REPAIR_EFFORT // (len(pieces) + 1))):
        live = [i for i in base if pieces[i].rectangles[0][0] <= worst <= pieces[i].rectangles[-1][1]]
        urgent = [*(i for i in live if i not in urgent), *urgent]
        members = set(urgent)
        sequence = [*urgent, *(i for i in base if i not in members)]
        offsets = _place(pieces, sequence, False)
        need, worst = _need(pieces, offsets, units)
        if need < best.need:
            best = _Placement(need, offsets, sequence)
        if best.need <= bound:
            break
    return best


def _polish(best: _Placement, pieces: Sequence[Piece], units: Sequence[int], bound: int) -> _Placement:
    """Move one piece after another to elsewhere in the sequence, and keep what is no worse (seeded local search)."""
    chance = Random(0)
    for _ in range(_POLISH_EFFORT // (len(pieces) + 1)):
        sequence = list(best.sequence)
        sequence.insert(chance.randrange(len(sequence)), sequence.pop(chance.randrange(len(sequence))))
        offsets = _place(pieces, sequence, False)
        need, _ = _need(pieces, offsets, units)
        if need <= best.need:
            best = _Placement(need, offsets, sequence)
        if need <= bound:
            break
    return best


@dataclass
class _Placed:
    """Rectangles placed so far, as arrays, so that a conflict search is one vector operation."""

    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    count: int = 0

    @staticmethod
    def room(count: int) -> _Placed:
        """Empty, with room for `count` rectangles."""
        first, last, low, high = np.zeros((4, count), np.int64)
        return _Placed(first, last, low, high)

    def add(self, first: int, last: int, low: int, high: int) -> None:
        """Place one rectangle."""
        self.first[self.count], self.last[self.count] = first, last
        self.low[self.count], self.high[self.count] = low, high
        self.count += 1

    def blocked(self, first: int, last: int, size: int) -> list[Interval]:
        """Ranges of base offsets at which a rectangle would overlap one that is placed."""
        n = self.count
        clash = np.nonzero((self.first[:n] <= last) & (self.last[:n] >= first))[0]
        return list(zip((self.low[clash] - size + 1).tolist(), self.high[clash].tolist(), strict=True))


def _place(pieces: Sequence[Piece], sequence: Sequence[int], tight: bool) -> list[int]:
    """Offsets of the pieces, placed in this sequence: at the lowest place, or if `tight` in the smallest gap."""
    placed = _Placed.room(sum(len(p.rectangles) for p in pieces))
    offsets = [0] * len(pieces)
    for number in sequence:
        blocked: list[Interval] = []
        for first, last, size in pieces[number].rectangles:
            blocked += placed.blocked(first, last, size)
        base = _fit(sorted(blocked), tight)
        offsets[number] = base
        for first, last, size in pieces[number].rectangles:
            placed.add(first, last, base, base + size)
    return offsets


def _fit(blocked: list[Interval], tight: bool) -> int:
    """A free base: the lowest one, or the one in the smallest gap; `blocked` holds sorted half-open ranges."""
    top, best, slack = 0, -1, -1
    for low, high in blocked:
        if low > top:
            if not tight:
                return top
            if best < 0 or low - top < slack:
                best, slack = top, low - top
        top = max(top, high)
    return best if best >= 0 else top


def occupancy(pieces: Sequence[Piece], offsets: Sequence[int], steps: int) -> list[list[Interval]]:
    """The merged address ranges in use at each position."""
    births: list[list[Interval]] = [[] for _ in range(steps)]
    deaths: list[list[Interval]] = [[] for _ in range(steps)]
    for piece, base in zip(pieces, offsets, strict=True):
        for first, last, size in piece.rectangles:
            births[first].append((base, base + size))
            deaths[last].append((base, base + size))
    live: list[Interval] = []
    result = []
    for born, dying in zip(births, deaths, strict=True):
        for interval in born:
            insort(live, interval)
        result.append(merge(live))
        for interval in dying:
            live.remove(interval)
    return result


def merge(sorted_ranges: Sequence[Interval]) -> list[Interval]:
    """Sorted ranges with the touching and overlapping ones joined."""
    result: list[Interval] = []
    for low, high in sorted_ranges:
        if result and low <= result[-1][1]:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return result


def _packing(
    pieces: Sequence[Piece], offsets: Sequence[int], order: tuple[int, ...], lives: dict[int, Span],
    taken: dict[int, int],
) -> Packing:  # fmt: skip
    ranges = tuple(tuple(r) for r in occupancy(pieces, offsets, len(order)))
    places = {s: base for piece, base in zip(pieces, offsets, strict=True) for s in piece.storages}
    spaces = {p.workspace_of: base for p, base in zip(pieces, offsets, strict=True) if p.workspace_of >= 0}
    return Packing(order, lives, taken, places, spaces, ranges)
