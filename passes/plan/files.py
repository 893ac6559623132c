"""Files: where each constant lies in the weight section; one answer for all plans of an artifact."""

from __future__ import annotations

from collections.abc import Sequence

from ullage.passes.plan.model import ALIGNMENT_BYTES, Problem, align
from ullage.plan.plan import DIRECT_IO_BYTES


def file_offsets(problem: Problem, order: Sequence[int]) -> tuple[int, ...]:
    """Offset of every constant: those of at most a page first, packed within pages, then the rest on page boundaries.

    Both groups are in order of first use, so that a run reads the file forward.
    """
    offsets = [0] * len(problem.weights)
    end = 0
    for number in _by_first_use(problem, order):
        size = max(1, problem.weights[number].bytes)
        small = size <= DIRECT_IO_BYTES
        start = align(end, ALIGNMENT_BYTES if small else DIRECT_IO_BYTES)
        if small and start // DIRECT_IO_BYTES != (start + size - 1) // DIRECT_IO_BYTES:
            start = align(start, DIRECT_IO_BYTES)
        offsets[number] = start
        end = start + size
    return tuple(offsets)


def _by_first_use(problem: Problem, order: Sequence[int]) -> list[int]:
    first: dict[int, int] = {}
    for position, step in enumerate(order):
        work = problem.works[step]
        for number in (*work.whole, work.tiled, work.table):
            first.setdefault(number, position)
    late = len(order)

    def rank(number: int) -> tuple[bool, int, int]:
        return problem.weights[number].bytes > DIRECT_IO_BYTES, first.get(number, late), number

    return sorted(range(len(problem.weights)), key=rank)
