"""One spelling for convolutions: `aten.convolution` in two dimensions; one dimension is a height of 1, and three
dimensions are a sum over the planes of the kernel.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.rules import Match, Rule, RuleTable
from ullage.passes.clean.sizes import can_reshape, reshape_to
from ullage.passes.edit import Editor, args_of, argument, shape_of

aten = torch.ops.aten


def _per_dim(value: Any, count: int) -> list[Any]:
    given = [value] if isinstance(value, int) else list(value)
    return given * count if len(given) == 1 else given


def convolution(transposed: bool) -> Rule:
    """`conv1d`, `conv2d` … as `convolution`."""

    def rule(edit: Editor, node: Node) -> Match | None:
        count = len(shape_of(node)) - 2
        padding = argument(node, "padding")
        if isinstance(padding, str):
            return None
        stride, dilation = (_per_dim(argument(node, name), count) for name in ("stride", "dilation"))
        extra = _per_dim(argument(node, "output_padding"), count) if transposed else [0] * count
        groups = argument(node, "groups", 1)
        args = (*args_of(node)[:2], argument(node, "bias"), stride, _per_dim(padding, count), dilation)
        return Match(
            "spell as convolution",
            lambda: edit.call(aten.convolution.default, *args, transposed, extra, groups),
        )

    return rule


def with_height(edit: Editor, node: Node) -> Match | None:
    """A one-dimensional convolution is a two-dimensional one of height 1."""
    x, weight, bias, stride, padding, dilation, transposed, extra, groups = args_of(node)
    shape = shape_of(node)
    if len(shape) != 3 or not (_can_add_height(edit, x) and can_reshape(edit, shape, shape)):
        return None
    options = ([1, *stride], [0, *padding], [1, *dilation], transposed, [0, *extra], groups)

    def build() -> Node:
        high, kernel = (reshape_to(edit, tensor, _high(tensor)) for tensor in (x, weight))
        return reshape_to(edit, edit.call(aten.convolution.default, high, kernel, bias, *options), shape)

    return Match("give a convolution a height of 1", build)


def by_planes(edit: Editor, node: Node) -> Match | None:
    """A three-dimensional convolution is the sum of a two-dimensional one for each plane of its kernel."""
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args_of(node)
    shape = [*shape_of(x), *shape_of(weight), *shape_of(node)]
    if len(shape_of(node)) != 5 or transposed or not all(isinstance(size, int) for size in shape):
        return None
    flat = (stride[1:], padding[1:], dilation[1:], False, [0, 0], groups)

    def build() -> Node:
        around = [0, 0, 0, 0, padding[0], padding[0]]
        wide = edit.call(aten.constant_pad_nd.default, x, around, 0.0) if padding[0] else x
        planes = edit.call(aten.permute.default, wide, [0, 2, 1, 3, 4])
        batch, _, count = shape_of(node)[:3]
        parts = []
        for depth in range(shape_of(weight)[2]):
            first = depth * dilation[0]
            chosen = edit.call(aten.slice.Tensor, planes, 1, first, first + stride[0] * (count - 1) + 1, stride[0])
            images = edit.call(aten.reshape.default, chosen, [batch * count, *shape_of(chosen)[2:]])
            kernel = edit.call(aten.select.int, weight, 2, depth)
            parts.append(edit.call(aten.convolution.default, images, kernel, None if depth else bias, *flat))
        total = reduce(lambda left, right: edit.call(aten.add.Tensor, left, right), parts)
        apart = edit.call(aten.reshape.default, total, [batch, count, *shape_of(total)[1:]])
        return edit.call(aten.permute.default, apart, [0, 2, 1, 3, 4])

    return Match("split a convolution into the planes of its kernel", build)


def by_planes_transposed(edit: Editor, node: Node) -> Match | None:
    """A transposed one is a two-dimensional one for each plane of its kernel; their planes are spread and added.

    Plane i of the input times plane d of the kernel belongs to plane i · stride + d · dilation − padding of the result.
    """
    x, weight, bias, stride, padding, dilation, transposed, extra, groups = args_of(node)
    shape = [*shape_of(x), *shape_of(weight), *shape_of(node)]
    if len(shape_of(node)) != 5 or not transposed or not all(isinstance(size, int) for size in shape):
        return None
    flat = (stride[1:], padding[1:], dilation[1:], True, extra[1:], groups)

    def build() -> Node:
        batch, _, count = shape_of(x)[:3]
        kernel, planes = shape_of(weight)[2], shape_of(node)[2]
        length = max(count * stride[0] + (kernel - 1) * dilation[0], padding[0] + planes)
        images = edit.call(aten.permute.default, x, [0, 2, 1, 3, 4])
        images = edit.call(aten.reshape.default, images, [batch * count, *shape_of(images)[2:]])
        parts = []
        for depth in range(kernel):
            plane = edit.call(
                aten.convolution.default, images, edit.call(aten.select.int, weight, 2, depth), None, *flat
            )
            spread = edit.call(aten.reshape.default, plane, [batch, count, 1, *shape_of(plane)[1:]])
            if stride[0] > 1:
                spread = edit.call(aten.constant_pad_nd.default, spread, [0] * 7 + [stride[0] - 1], 0.0)
            spread = edit.call(aten.reshape.default, spread, [batch, count * stride[0], *shape_of(plane)[1:]])
            before = depth * dilation[0]
            around = [0] * 6 + [before, length - before - count * stride[0]]
            parts.append(edit.call(aten.constant_pad_nd.default, spread, around, 0.0))
        total = reduce(lambda left, right: edit.call(aten.add.Tensor, left, right), parts)
        chosen = edit.call(aten.slice.Tensor, total, 1, padding[0], padding[0] + planes, 1)
        result = edit.call(aten.permute.default, chosen, [0, 2, 1, 3, 4])
        return result if bias is None else edit.call(aten.add.Tensor, result, _per_channel(edit, bias))

    return Match("split a transposed convolution into the planes of its kernel", build)


def _per_channel(edit: Editor, bias: Any) -> Node:
    return edit.call(aten.reshape.default, bias, [shape_of(bias)[0], 1, 1, 1])


def _can_add_height(edit: Editor, x: Any) -> bool:
    return can_reshape(edit, shape_of(x), _high(x))


def _high(tensor: Node) -> list[Any]:
    return [*shape_of(tensor)[:2], 1, *shape_of(tensor)[2:]]


CONVOLUTION: RuleTable = {
    aten.conv1d.default: (convolution(False),),
    aten.conv2d.default: (convolution(False),),
    aten.conv3d.default: (convolution(False),),
    aten.conv_transpose1d.default: (convolution(True),),
    aten.conv_transpose2d.input: (convolution(True),),
    aten.conv_transpose3d.input: (convolution(True),),
    aten.convolution.default: (with_height, by_planes, by_planes_transposed),
}
