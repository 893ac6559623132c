"""Ring: regions and read times for streamed blocks, each read as early as some region is free."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ullage.plan.plan import DIRECT_IO_BYTES

NEVER = -(10**9)


@dataclass(slots=True)
class Profile:
    """For each address the last launch during which it was in use, as runs: `values[i]` holds from `starts[i]` on."""

    size: int
    starts: list[int] = field(default_factory=lambda: [0])
    values: list[int] = field(default_factory=lambda: [NEVER])

    def use(self, low: int, high: int, launch: int) -> None:
        """Mark addresses low .. high as in use up to `launch`, which is not earlier than any mark before."""
        starts, values = self.starts, self.values
        left = bisect_left(starts, low)
        right = bisect_left(starts, high, left)
        tail = values[right - 1]
        new_starts, new_values = [low], [launch]
        if left and values[left - 1] == launch:
            new_starts, new_values = [], []
        if high < self.size and (right == len(starts) or starts[right] != high):
            new_starts.append(high)
            new_values.append(tail)
        starts[left:right] = new_starts
        values[left:right] = new_values

    def latest(self, low: int, high: int) -> int:
        """The last launch during which any address of low .. high was in use."""
        left = bisect_right(self.starts, low) - 1
        right = bisect_left(self.starts, high)
        return max(self.values[left:right])

    def earliest_window(self, length: int, before: int, soon: int) -> tuple[int, int]:
        """(base, last use) of the page-aligned window that has been free for longest, the highest of equals.

        Only windows free since before launch `before` count, ValueError if there is none; the first one found that was
        last used before launch `soon` is good enough, because the disk's queue has no use for it earlier.
        """
        starts, values = self.starts, self.values
        best, place, end = before, -1, self.size
        for index in range(len(starts) - 1, -1, -1):
            start = starts[index]
            if values[index] < best:
                base = end // DIRECT_IO_BYTES * DIRECT_IO_BYTES - length
                latest = self._latest_up_to(base, base + length, index, best) if base >= 0 else best
                if latest < best:
                    best, place = latest, base
                if values[index] < best:
                    base = -(-start // DIRECT_IO_BYTES) * DIRECT_IO_BYTES
                    latest = self._latest_from(base + length, index, best) if base + length <= self.size else best
                    if latest < best:
                        best, place = latest, base
                if best < soon:
                    break
            end = start
        if place < 0:
            raise ValueError(f"no window of {length} bytes")
        return place, best

    def _latest_up_to(self, base: int, end: int, index: int, best: int) -> int:
        """The last use of a window that does not reach beyond run `index`; `best` if it is no earlier than that."""
        starts, values = self.starts, self.values
        while starts[index] >= end:
            index -= 1
        latest = values[index]
        while starts[index] > base and latest < best:
            index -= 1
            if values[index] > latest:
                latest = values[index]
        return latest if latest < best else best

    def _latest_from(self, end: int, index: int, best: int) -> int:
        """The last use of run `index` and all later ones before `end`; `best` if it is no earlier than that."""
        starts, values = self.starts, self.values
        latest = values[index]
        for following in range(index + 1, len(starts)):
            if starts[following] >= end:
                break
            if values[following] > latest:
                latest = values[following]
                if latest >= best:
                    return best
        return latest

    def shifted(self, launches: int) -> Profile:
        """The profile as seen from the next call."""
        return Profile(self.size, list(self.starts), [max(NEVER, v - launches) for v in self.values])


class Demand(NamedTuple):
    """A region needed during launches first .. last: a streamed block (number ≥ 0) or staging (-1)."""

    block: int
    bytes: int
    first: int
    last: int


class Bundle(NamedTuple):
    """What a launch adds: blocks that stay for its whole step, beside `room` bytes for the step's blocks in turn.

    Keeping the room beside the lasting blocks is what guarantees that each later block of the step finds a place.
    """

    own: Demand | None
    room: int
    lasting: tuple[Demand, ...]


class Stop(NamedTuple):
    """A position: launches first .. last, the ranges in use by other things, and bundles by launch, in order."""

    first: int
    last: int
    ranges: Sequence[tuple[int, int]]
    bundles: Sequence[tuple[int, Bundle]]


@dataclass(frozen=True)
class Ring:
    """Offsets of blocks, staging offsets by launch, and the launch before which each block is read.

    `reads` lists (launch, block) in order of the queue; `ahead` those read before that launch of the call before.
    """

    offsets: dict[int, int]
    staging: dict[int, int]
    reads: tuple[tuple[int, int], ...]
    ahead: tuple[tuple[int, int], ...]


def place(size: int, stops: Sequence[Stop], launches: int, wrap: bool) -> Ring:
    """Place all demands of a call in `size` bytes, in order of use; with `wrap` the first reads move a call ahead."""
    placed = _walk(Profile(size), stops)
    if not wrap:
        reads = tuple((max(0, at), block) for at, block, _ in placed.reads)
        return Ring(placed.offsets, placed.staging, reads, ())
    placed = _walk(placed.profile.shifted(launches), stops)
    ahead: list[tuple[int, int]] = []
    inside = [(at, block) for at, block, _ in placed.reads if at > 0]
    latest = inside[-1][0] if inside else 0
    for at, block, length in placed.reads:
        if at <= 0:
            base = placed.offsets[block]
            latest = max(latest, placed.profile.latest(base, base + length) + 1)
            ahead.append((latest, block))
    return Ring(placed.offsets, placed.staging, tuple(inside), tuple(ahead))


@dataclass(slots=True)
class _Placed:
    profile: Profile
    offsets: dict[int, int] = field(default_factory=dict)
    staging: dict[int, int] = field(default_factory=dict)
    reads: list[tuple[int, int, int]] = field(default_factory=list)
    earliest: int = NEVER

    def put(self, demand: Demand, base: int, latest: int) -> None:
        """Give a demand its place, which was last used at launch `latest`."""
        block, size, first, last = demand
        self.profile.use(base, base + size, last)
        if block < 0:
            self.staging[first] = base
            return
        if latest >= self.earliest:
            self.earliest = latest + 1
        self.offsets[block] = base
        self.reads.append((self.earliest, block, size))


def _walk(profile: Profile, stops: Sequence[Stop]) -> _Placed:
    """One call: every bundle takes the window that has been free for longest."""
    placed = _Placed(profile)
    for _, last, ranges, bundles in stops:
        for low, high in ranges:
            profile.use(low, high, last)
        for launch, (own, room, lasting) in bundles:
            length = room + sum([d.bytes for d in lasting]) if lasting else room
            base, latest = profile.earliest_window(length, launch, placed.earliest)
            if own is not None:
                placed.put(own, base, latest)
            base += room
            for demand in lasting:
                placed.put(demand, base, latest)
                base += demand.bytes
    return placed
