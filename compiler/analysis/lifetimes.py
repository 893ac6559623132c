"""Lifetimes: who needs what when, from the names that each step of a straight list reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Access:
    """What one step reads and writes; a name in both is updated in place."""

    reads: frozenset[str]
    writes: frozenset[str]

    @property
    def touched(self) -> frozenset[str]:
        """Everything that must exist while the step runs."""
        return self.reads | self.writes


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A name is needed from step `first` to step `last`, both included."""

    first: int
    last: int


def lifetimes(steps: Sequence[Access]) -> dict[str, Lifetime]:
    """The lifetime of every name touched, in order of first touch."""
    found: dict[str, Lifetime] = {}
    for position, step in enumerate(steps):
        for name in sorted(step.touched):
            first = found[name].first if name in found else position
            found[name] = Lifetime(first, position)
    return found


def predecessors(steps: Sequence[Access]) -> tuple[frozenset[int], ...]:
    """For each step the earlier steps that it must follow: read after write, write after read, write after write."""
    writer: dict[str, int] = {}
    readers: dict[str, list[int]] = {}
    result = []
    for position, step in enumerate(steps):
        before = {writer[name] for name in step.touched if name in writer}
        for name in step.writes:
            before.update(readers.pop(name, ()))
        for name in step.writes:
            writer[name] = position
        for name in step.reads - step.writes:
            readers.setdefault(name, []).append(position)
        result.append(frozenset(before))
    return tuple(result)


def live_bytes(steps: Sequence[Access], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Bytes of `sizes` live at each step (names without a size count nothing); a lower bound for any placement."""
    change = [0] * (len(steps) + 1)
    for name, life in lifetimes(steps).items():
        change[life.first] += sizes.get(name, 0)
        change[life.last + 1] -= sizes.get(name, 0)
    total, result = 0, []
    for step_change in change[:-1]:
        total += step_change
        result.append(total)
    return tuple(result)


def unavoidable_bytes(steps: Sequence[Access], sizes: Mapping[str, int], extra: Sequence[int]) -> int:
    """A lower bound of the peak in any order: the most that a single step touches, with its `extra` bytes.

    Names that a step may update in place must be left out of its writes for the bound to hold with in-place updates.
    """
    own = (sum(sizes.get(name, 0) for name in step.touched) + more for step, more in zip(steps, extra, strict=True))
    return max(own, default=0)
