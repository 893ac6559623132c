"""Space: what the arena below the pinned constants offers to streamed constants at each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from ullage.passes.plan.model import ALIGNMENT_BYTES, Problem, Weight, align
from ullage.passes.plan.pack import Interval, Packing, needed_bytes
from ullage.plan.plan import DIRECT_IO_BYTES

_STREAM_TABLE_BYTES = 320
"""About what one streamed use costs in the executor's tables; smaller constants are never worth streaming."""


def always_resident(weight: Weight) -> bool:
    """Whether streaming the constant would cost more memory than keeping it."""
    return align(weight.bytes, ALIGNMENT_BYTES) <= _STREAM_TABLE_BYTES * weight.uses


def used_weights(problem: Problem, step: int) -> tuple[int, ...]:
    """The constants of a step."""
    work = problem.works[step]
    return (*work.whole, *(c for c in (work.tiled, work.table) if c >= 0))


@dataclass(frozen=True)
class Space:
    """The first `size` bytes of the arena, shared in time by activations and streamed blocks.

    `size` is a multiple of 4096 and not less than the packing's height.
    """

    problem: Problem
    packing: Packing
    size: int

    @cached_property
    def holes(self) -> tuple[int, ...]:
        """For each position the longest page-aligned hole."""
        return tuple(longest_hole(ranges, self.size) for ranges in self.packing.occupied)

    @cached_property
    def forced(self) -> frozenset[int]:
        """Constants that must be pinned whole for every step to find room for what it streams."""
        weights = self.problem.weights
        pinned = {c for c, weight in enumerate(weights) if always_resident(weight)}
        for position, step in enumerate(self.packing.order):
            streamed = [c for c in used_weights(self.problem, step) if c not in pinned]
            excess = sum(weights[c].unit_bytes for c in streamed) - self.holes[position]
            if excess > 0:
                pinned.update(_cheapest(weights, streamed, excess))
        return frozenset(pinned)


def _cheapest(weights: Sequence[Weight], streamed: Sequence[int], excess: int) -> list[int]:
    """Constants to pin to save `excess` bytes: one that suffices alone if there is, else the best by the byte."""
    alone = [c for c in streamed if weights[c].unit_bytes >= excess]
    if alone:
        return [min(alone, key=lambda c: weights[c].bytes)]
    ranked = sorted(streamed, key=lambda c: weights[c].bytes / weights[c].unit_bytes)
    chosen: list[int] = []
    for c in ranked:
        if excess <= 0:
            break
        chosen.append(c)
        excess -= weights[c].unit_bytes
    return chosen


def longest_hole(ranges: Sequence[Interval], size: int) -> int:
    """The longest page-aligned hole between sorted disjoint ranges in `size` bytes."""
    top, longest = 0, 0
    for low, high in (*ranges, (size, size)):
        longest = max(longest, _pages(low) - align(top, DIRECT_IO_BYTES))
        top = high
    return longest


def _pages(value: int) -> int:
    return value // DIRECT_IO_BYTES * DIRECT_IO_BYTES


def critical_sizes(problem: Problem, packing: Packing) -> list[int]:
    """Sizes at which some step finds room for one more of the constants that it streams, ascending, in whole pages."""
    found = {align(packing.height, DIRECT_IO_BYTES)}
    for step, ranges in zip(packing.order, packing.occupied, strict=True):
        used = (problem.weights[c] for c in used_weights(problem, step))
        units = sorted((w.unit_bytes for w in used if not always_resident(w)), reverse=True)
        found.update(needed_bytes(ranges, unit) for unit in accumulate(units))
    least = align(packing.height, DIRECT_IO_BYTES)
    return sorted({max(least, align(size, DIRECT_IO_BYTES)) for size in found})


def streaming_bytes(problem: Problem, packing: Packing) -> int:
    """The least size at which every constant but the smallest ones can be streamed, a multiple of 4096."""
    most = packing.height
    for step, ranges in zip(packing.order, packing.occupied, strict=True):
        used = [problem.weights[c] for c in used_weights(problem, step)]
        unit = sum(w.unit_bytes for w in used if not always_resident(w))
        most = max(most, needed_bytes(ranges, unit))
    return align(most, DIRECT_IO_BYTES)
