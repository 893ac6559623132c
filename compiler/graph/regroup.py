"""Boxes through a reshape: which box of the old shape covers a box of the new one.

The dimensions of both shapes fall into groups of equal element counts; inside a group a box is widened until it is a
range of the flattened group, and a range is covered by whole rows of the old dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from ullage.graph.constants import Box

Group = tuple[tuple[int, ...], tuple[int, ...]]


def groups(old: Sequence[int], new: Sequence[int]) -> list[Group]:
    """Pairs of adjacent (old sizes, new sizes) with equal products, as many as possible; sizes must not be 0."""
    result: list[Group] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first, second = i, j
        left, right = 1, 1
        while left != right or (i == first and j == second):
            if left <= right and i < len(old):
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        result.append((tuple(old[first:i]), tuple(new[second:j])))
    return result


def push_reshape(
    old: tuple[int, ...], new: tuple[int, ...], box: Box
) -> tuple[Box, Callable[[torch.Tensor], torch.Tensor]]:
    """The covering box in `old`, and the function that cuts the box of `new` out of what was read there."""
    if math.prod(old) == 0:
        return tuple(slice(0, n) for n in old), lambda read: read.reshape(new)[box]
    covering: list[slice] = []
    flat: list[tuple[int, slice]] = []
    widened: list[slice] = []
    position = 0
    for old_sizes, new_sizes in groups(old, new):
        part = box[position : position + len(new_sizes)]
        position += len(new_sizes)
        wide, start, stop = _widen(new_sizes, part)
        rows, first = _cover(old_sizes, start, stop)
        covering.extend(rows)
        flat.append((_count(rows), slice(start - first, stop - first)))
        widened.extend(wide)

    def pick(read: torch.Tensor) -> torch.Tensor:
        ranges = read.reshape([count for count, _ in flat])[tuple(cut for _, cut in flat)]
        inner = tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, widened, strict=True))
        return ranges.reshape([w.stop - w.start for w in widened])[inner]

    return tuple(covering), pick


def _count(box: Sequence[slice]) -> int:
    return math.prod(s.stop - s.start for s in box)


def _widen(sizes: tuple[int, ...], box: Box) -> tuple[list[slice], int, int]:
    """The least box around `box` that is one range of the flattened dimensions, and that range."""
    wide: list[slice] = []
    start, count = 0, 1
    for size, part in zip(sizes, box, strict=True):
        kept = part if count == 1 else slice(0, size)
        wide.append(kept)
        start = start * size + kept.start
        count *= kept.stop - kept.start
    return wide, start, start + count


def _cover(sizes: tuple[int, ...], start: int, stop: int) -> tuple[list[slice], int]:
    """The least box of whole rows that covers a flat range, and the flat position where it begins."""
    box: list[slice] = []
    first, inner, narrow = 0, math.prod(sizes), True
    for size in sizes:
        inner //= size
        if not narrow:
            box.append(slice(0, size))
            continue
        low, high = (start - first) // inner, -(-(stop - first) // inner)
        box.append(slice(low, high))
        first += low * inner
        narrow = high - low == 1
    return box, first
