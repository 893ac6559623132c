"""Convolutions that no convolution kernel takes: with a weight that is computed, or in float64 or integers.

Each becomes a product of the weight with the columns of the image ("im2col"; Chellapilla, Puri & Simard, "High
Performance Convolutional Neural Networks for Document Processing", 2006): the inputs of each result under each other.
Columns are a gather at positions that are arithmetic on indices. A transposed convolution is one over an image with
zeros between its elements, with the kernel turned round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ullage.passes.clean.rules import Match, RulePass, RuleTable
from ullage.passes.clean.sizes import reshape_to
from ullage.passes.edit import Editor, args_of, shape_of, value_of
from ullage.passes.split.plain_attention import KERNEL_DTYPES

aten = torch.ops.aten


@dataclass(frozen=True)
class ComputedConvolutions(RulePass):
    """Rewrite such convolutions of one or two dimensions as gathers and products."""

    name: ClassVar[str] = "computed_convolutions"

    def table(self) -> RuleTable:
        """One rule."""
        return {aten.convolution.default: (by_columns,)}


def by_columns(edit: Editor, node: Node) -> Match | None:
    """Weight times columns, where the weight is no constant or of a dtype that kernels do not take."""
    x, weight = args_of(node)[:2]
    sizes = (*shape_of(x)[1:], *shape_of(weight), *shape_of(node)[1:])
    taken = edit.constant(weight) is not None and value_of(weight).dtype in KERNEL_DTYPES
    if taken or len(shape_of(node)) != 4 or not all(isinstance(n, int) for n in sizes):
        return None
    return Match("spell a convolution as a product with columns", lambda: _product(edit, node))


def _product(edit: Editor, node: Node) -> Node:
    x, weight, bias, stride, padding, dilation, transposed, extra, groups = args_of(node)
    if transposed:
        x, weight = _spread(edit, x, stride), _turned(edit, weight, groups)
        kernel = shape_of(weight)[2:]
        border = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        around, stride = [(b, b + e) for b, e in zip(border, extra, strict=True)], [1, 1]
    else:
        around = [(p, p) for p in padding]
    columns = _columns(edit, _padded(edit, x, around), shape_of(weight)[2:], shape_of(node)[2:], stride, dilation)
    batch, outputs = shape_of(node)[:2]
    deep = [_count(shape_of(weight)[1:]), _count(shape_of(node)[2:])]
    product = edit.call(
        aten.matmul.default,
        reshape_to(edit, weight, [1, groups, outputs // groups, deep[0]]),
        reshape_to(edit, columns, [batch, groups, *deep]),
    )
    result = reshape_to(edit, product, shape_of(node))
    if bias is None:
        return result
    return edit.call(aten.add.Tensor, result, edit.call(aten.reshape.default, bias, [outputs, 1, 1]))


def _count(sizes: Sequence[Any]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _padded(edit: Editor, x: Node, around: Sequence[tuple[int, int]]) -> Node:
    pads = [pad for pair in reversed(around) for pad in pair]
    return edit.call(aten.constant_pad_nd.default, x, pads, 0) if any(pads) else x


def _columns(
    edit: Editor, x: Node, kernel: Sequence[Any], out: Sequence[Any], stride: Sequence[int], dilation: Sequence[int]
) -> Node:
    """[batch, channels, kernel …, out …]: the inputs of each result."""
    if _count(kernel) == 1 and tuple(stride) == (1, 1):
        return x
    places = []
    for d in range(2):
        starts = _steps(edit, out[d], stride[d], [1, 1, *(out[d] if e == d else 1 for e in range(2))])
        taps = _steps(edit, kernel[d], dilation[d], [*(kernel[d] if e == d else 1 for e in range(2)), 1, 1])
        places.append(edit.call(aten.add.Tensor, starts, taps))
    return edit.call(aten.index.Tensor, x, [None, None, *places])


def _steps(edit: Editor, count: int, step: int, shape: Sequence[int]) -> Node:
    numbers = edit.call(aten.arange.start_step, 0, count * step, step, dtype=torch.int64)
    return edit.call(aten.reshape.default, numbers, list(shape))


def _spread(edit: Editor, x: Node, stride: Sequence[int]) -> Node:
    """The image with stride − 1 zeros between its elements."""
    for d, step in enumerate(stride, 2):
        if step == 1:
            continue
        shape = shape_of(x)
        apart = reshape_to(edit, x, [*shape[: d + 1], 1, *shape[d + 1 :]])
        behind = [0] * (2 * (len(shape) - d - 1)) + [0, step - 1]
        wide = reshape_to(
            edit,
            edit.call(aten.constant_pad_nd.default, apart, behind, 0),
            [*shape[:d], shape[d] * step, *shape[d + 1 :]],
        )
        x = edit.call(aten.slice.Tensor, wide, d, 0, (shape[d] - 1) * step + 1)
    return x


def _turned(edit: Editor, weight: Node, groups: int) -> Node:
    """[inputs, outputs / groups, …] as [outputs, inputs / groups, …] with each kernel turned round."""
    inputs, outputs, *kernel = shape_of(weight)
    turned = edit.call(aten.flip.default, weight, [2, 3])
    apart = reshape_to(edit, turned, [groups, inputs // groups, outputs, *kernel])
    swapped = edit.call(aten.permute.default, apart, [0, 2, 1, 3, 4])
    return reshape_to(edit, swapped, [groups * outputs, inputs // groups, *kernel])
