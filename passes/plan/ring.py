"""Ring: regions and read times for streamed blocks, each read as early as some region is free."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from ullage.plan.plan import DIRECT_IO_BYTES

NEVER = -(10**9)


@dataclass
class Profile:
    """For each address the last launch during which it was in use, as runs: `values[i]` holds from `starts[i]` on."""

    size: int
    starts: list[int] = field(default_factory=lambda: [0])
    values: list[int] = field(default_factory=lambda: [NEVER])

    def use(self, low: int, high: int, launch: int) -> None:
        """Mark addresses low .. high as in use up to `launch`, which is not earlier than any mark before."""
        starts, values = self.starts, self.values
        left = bisect_left(starts, low)
        right = bisect_left(starts, high)
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
        best, place = before, -1
        high = self.size // DIRECT_IO_BYTES * DIRECT_IO_BYTES
        for index in range(len(starts) - 1, -1, -1):
            if best < soon:
                break
            if values[index] >= best:
                continue
            end = starts[index + 1] if index + 1 < len(starts) else high
            base, latest = self._window(end // DIRECT_IO_BYTES * DIRECT_IO_BYTES - length, length, index, best)
            if latest < best:
                best, place = latest, base
            if values[index] < best:
                base = -(-starts[index] // DIRECT_IO_BYTES) * DIRECT_IO_BYTES
                base, latest = self._window(base, length, index, best)
                if latest < best:
                    best, place = latest, base
        if place < 0:
            raise ValueError(f"no window of {length} bytes")
        return place, best

    def _window(self, base: int, length: int, index: int, best: int) -> tuple[int, int]:
        """(base, last use) of one window, `best` for the last use if it is no better than that or out of bounds."""
        starts, values = self.starts, self.values
        end = base + length
        if base < 0 or end > self.size:
            return base, best
        left = index
        while starts[left] > base:
            left -= 1
            if values[left] >= best:
                return base, best
        latest = values[left]
        count = len(starts)
        while left + 1 < count and starts[left + 1] < end:
            left += 1
            if values[left] >= best:
                return base, best
            if values[left] > latest:
                latest = values[left]
        return base, latest

    def shifted(self, launches: int) -> Profile:
        """The profile as seen from the next call."""
        return Profile(self.size, list(self.starts), [max(NEVER, v - launches) for v in self.values])


@dataclass(frozen=True, slots=True)
class Demand:
    """A region needed during launches first .. last: a streamed block (number ≥ 0) or staging (-1)."""

    block: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a launch adds: blocks that stay for its whole step, beside `room` bytes for the step's blocks in turn.

    Keeping the room beside the lasting blocks is what guarantees that each later block of the step finds a place.
    """

    own: Demand | None
    room: int
    lasting: tuple[Demand, ...]


@dataclass(frozen=True, slots=True)
class Stop:
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


@dataclass
class _Placed:
    profile: Profile
    offsets: dict[int, int] = field(default_factory=dict)
    staging: dict[int, int] = field(default_factory=dict)
    reads: list[tuple[int, int, int]] = field(default_factory=list)
    earliest: int = NEVER

    def put(self, demand: Demand, base: int, latest: int) -> None:
        """Give a demand its place, which was last used at launch `latest`."""
        self.profile.use(base, base + demand.bytes, demand.last)
        if demand.block < 0:
            self.staging[demand.first] = base
            return
        self.earliest = max(self.earliest, latest + 1)
        self.offsets[demand.block] = base
        self.reads.append((self.earliest, demand.block, demand.bytes))


def _walk(profile: Profile, stops: Sequence[Stop]) -> _Placed:
    """One call: every bundle takes the window that has been free for longest."""
    placed = _Placed(profile)
    for stop in stops:
        for low, high in stop.ranges:
            profile.use(low, high, stop.last)
        for launch, bundle in stop.bundles:
            length = bundle.room + sum([d.bytes for d in bundle.lasting]) if bundle.lasting else bundle.room
            base, latest = profile.earliest_window(length, launch, placed.earliest)
            if bundle.own is not None:
                placed.put(bundle.own, base, latest)
            base += bundle.room
            for demand in bundle.lasting:
                placed.put(demand, base, latest)
                base += demand.bytes
    return placed
