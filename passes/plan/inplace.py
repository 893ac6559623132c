"""In place: chains of storages that take over each other's memory, chosen along an execution order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ullage.passes.plan.model import Problem


@dataclass(frozen=True, slots=True)
class Span:
    """A temp storage's lifetime in positions of the order, both included."""

    first: int
    last: int


def spans(problem: Problem, order: Sequence[int]) -> dict[int, Span]:
    """The lifetime of every temp storage that is touched."""
    found: dict[int, Span] = {}
    for position, step in enumerate(order):
        work = problem.works[step]
        for storage in work.reads | work.writes:
            first = found[storage].first if storage in found else position
            found[storage] = Span(first, position)
    return found


def takeovers(problem: Problem, order: Sequence[int], lives: dict[int, Span]) -> dict[int, int]:
    """For each storage made in place, the storage whose memory it takes; a storage gives its memory at most once."""
    taken: dict[int, int] = {}
    given: set[int] = set()
    for position, step in enumerate(order):
        pairs = [
            (problem.sizes[old] - problem.sizes[new], old, new)
            for old, new in problem.works[step].pairs
            if lives[old].last == position and lives[new].first == position and old != new
        ]
        for spare, old, new in sorted(pairs):
            if spare >= 0 and old not in given and new not in taken:
                taken[new] = old
                given.add(old)
    return taken


def chains(lives: dict[int, Span], taken: dict[int, int]) -> tuple[tuple[int, ...], ...]:
    """Storages grouped by shared memory, oldest first."""
    heirs = {old: new for new, old in taken.items()}
    result = []
    for storage in lives:
        if storage in taken:
            continue
        chain = [storage]
        while chain[-1] in heirs:
            chain.append(heirs[chain[-1]])
        result.append(tuple(chain))
    return tuple(result)
