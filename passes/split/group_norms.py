"""Group norms over large images: statistics by blocks of pixels.

A group norm needs the whole image before it can give its first value. As one kernel it walks each group three times
(mean, variance, result), with as many tasks as there are groups. Here the statistics come in blocks that a cache
holds, as many tasks as there are blocks, and are joined by the formula of Chan, Golub & LeVeque ("Algorithms for
computing the sample variance", 1983): memory is read once for them and once for the result, which is pointwise and
fuses with what follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch.fx import Node

from ullage.graph.recipes import reshape
from ullage.passes.clean.rules import Match, RulePass, RuleTable
from ullage.passes.edit import Editor, args_of, argument, is_tensor, static_shape, value_of

aten = torch.ops.aten
_BLOCK_ELEMENTS = 4096
"""Of one group in one block, at most: 16 KiB in float32, half of a first-level cache."""
_LEAST_BLOCKS, _LEAST_OF_A_BLOCK = 8, 64
"""Fewer blocks are no more parallel than groups are; statistics of smaller ones would be many."""


@dataclass(frozen=True)
class SplitGroupNorms(RulePass):
    """Split group norms of static shape whose groups have at least `least_elements` values."""

    name: ClassVar[str] = "split_group_norms"
    least_elements: int = 1 << 15

    def table(self) -> RuleTable:
        """Group norms."""
        return {aten.group_norm.default: (self._split,)}

    def _split(self, edit: Editor, node: Node) -> Match | None:
        x, groups = args_of(node)[:2]
        shape = static_shape(x)
        if shape is None or len(shape) < 3 or value_of(x).dtype == torch.float64:
            return None
        values = prod(shape[1:]) // groups
        blocks = _blocks(shape[1] // groups, prod(shape[2:]))
        if values < self.least_elements or blocks < _LEAST_BLOCKS or values // blocks < _LEAST_OF_A_BLOCK:
            return None
        return Match(f"statistics in {blocks} blocks", lambda: _normalised(edit, node, groups, blocks))


def _blocks(channels: int, pixels: int) -> int:
    """The fewest blocks of equally many pixels that are small enough."""
    fitting = (n for n in range(1, pixels) if pixels % n == 0 and channels * (pixels // n) <= _BLOCK_ELEMENTS)
    return next(fitting, pixels)


def _normalised(edit: Editor, node: Node, groups: int, blocks: int) -> Node:
    """(x − mean) / √(variance + eps) · weight + bias, with x as [batch, groups, channels, blocks, pixels]."""
    source = args_of(node)[0]
    shape, dtype = static_shape(source), value_of(source).dtype
    assert shape is not None
    x = source if dtype == torch.float32 else edit.call(aten._to_copy.default, source, dtype=torch.float32)
    split = [shape[0], groups, shape[1] // groups, blocks, prod(shape[2:]) // blocks]
    mean, variance = _statistics(edit, edit.call(aten.view.default, x, split), split)
    deviation = edit.call(aten.sqrt.default, edit.call(aten.add.Tensor, variance, argument(node, "eps")))
    scale = edit.call(aten.reciprocal.default, deviation)
    whole = [shape[0], groups, shape[1] // groups, *shape[2:]]
    few = [shape[0], groups, 1, *[1] * len(shape[2:])]
    mean, scale = (edit.call(aten.view.default, value, few) for value in (mean, scale))
    centred = edit.call(aten.sub.Tensor, edit.call(aten.view.default, x, whole), mean)
    result = edit.call(aten.view.default, edit.call(aten.mul.Tensor, centred, scale), list(shape))
    for name, operator in (("weight", aten.mul.Tensor), ("bias", aten.add.Tensor)):
        given = argument(node, name)
        if is_tensor(given):
            result = edit.call(operator, result, _by_channel(edit, given, len(shape) - 2))
    return result if dtype == torch.float32 else edit.call(aten._to_copy.default, result, dtype=dtype)


def _statistics(edit: Editor, x: Node, split: list[int]) -> tuple[Node, Node]:
    """Mean and variance [batch, groups, 1, 1, 1]: of each block by two passes, then of all blocks."""

    def squared(value: Node, mean: Node) -> Node:
        centred = edit.call(aten.sub.Tensor, value, mean)
        return edit.call(aten.mul.Tensor, centred, centred)

    of_block = edit.call(aten.mean.dim, x, [2, 4], True)
    within = edit.call(aten.sum.dim_IntList, squared(x, of_block), [2, 4], True)
    mean = edit.call(aten.mean.dim, of_block, [3], True)
    between = edit.call(aten.mul.Tensor, squared(of_block, mean), float(split[2] * split[4]))
    total = edit.call(aten.sum.dim_IntList, edit.call(aten.add.Tensor, within, between), [3], True)
    return mean, edit.call(aten.mul.Tensor, total, 1 / prod(split[2:]))


def _by_channel(edit: Editor, values: Node, spatial: int) -> Node:
    """[channels] as [channels, 1, …], which broadcasts over pixels."""
    ref = edit.constant(values)
    if ref is None:
        return edit.call(aten.view.default, values, [-1, *[1] * spatial])
    return edit.add_constant(reshape(ref, (*ref.shape, *[1] * spatial)))
