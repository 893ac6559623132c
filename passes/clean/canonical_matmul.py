"""One spelling for products: `linear` where the right operand is a constant matrix, else `matmul` with broadcasting."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.canonical_arithmetic import is_number
from ullage.passes.clean.rules import Match, RuleTable
from ullage.passes.clean.sizes import can_reshape, reshape_to
from ullage.passes.edit import (
    Editor,
    args_of,
    argument,
    is_call,
    is_one,
    is_tensor,
    same_shape,
    same_size,
    shape_of,
    value_of,
)

aten = torch.ops.aten
_VIEWS = (aten.permute.default, aten.reshape.default, aten._to_copy.default, aten.slice.Tensor)


def is_weight(edit: Editor, node: object) -> bool:
    """Whether a node is a constant, seen through views and casts."""
    while is_call(node, *_VIEWS):
        node = args_of(node)[0]
    return edit.constant(node) is not None


def product(edit: Editor, node: Node) -> Match | None:
    """`mm`, `bmm` and `matmul` with a constant matrix on the right are linear; other ones are `matmul`."""
    left, right = args_of(node)[:2]
    if is_weight(edit, right) and len(shape_of(right)) == 2 and len(shape_of(left)) >= 2:
        return Match("spell a product with a constant as linear", lambda: _linear(edit, left, right, None))
    if node.target is aten.matmul.default:
        return None
    return Match("spell as matmul", lambda: edit.call(aten.matmul.default, left, right))


def _linear(edit: Editor, left: Any, right: Any, bias: Any) -> Node:
    weight = edit.call(aten.permute.default, right, [1, 0])
    return edit.call(aten.linear.default, left, weight, bias)


def turned(edit: Editor, node: Node) -> Match | None:
    """`w @ xᵀ` with a constant matrix w is `linear(x, w)ᵀ`: weights are packed, and other results have no copy of x."""
    left, right = args_of(node)[:2]
    rank = len(shape_of(node))
    one_matrix = is_weight(edit, left) and all(map(is_one, shape_of(left)[:-2])) and len(shape_of(left)) <= rank
    if not one_matrix or is_weight(edit, right) or not _is_turned(right):
        return None
    swap = [*range(rank - 2), rank - 1, rank - 2]

    def build() -> Node:
        weight = left if len(shape_of(left)) == 2 else reshape_to(edit, left, shape_of(left)[-2:])
        rows = edit.call(aten.linear.default, edit.call(aten.permute.default, right, swap), weight)
        return edit.call(aten.permute.default, rows, swap)

    return Match("spell a product of a constant with a transposed matrix as linear", build)


def _is_turned(node: object) -> bool:
    """Whether a node is a permute that swaps its last two dimensions, and these alone."""
    if not is_call(node, aten.permute.default):
        return False
    order = args_of(node)[1]
    rank = len(order)
    return [d % rank for d in order] == [*range(rank - 2), rank - 1, rank - 2]


def addmm(edit: Editor, node: Node) -> Match | None:
    """`beta·bias + alpha·(a @ b)` as linear with a bias, or as its parts."""
    bias, left, right = args_of(node)
    beta, scale = argument(node, "beta", 1), argument(node, "alpha", 1)
    is_bias = len(shape_of(bias)) == 1 and same_size(shape_of(bias)[0], shape_of(node)[-1])
    if beta == scale == 1 and is_bias and is_weight(edit, right):
        return Match("spell addmm as linear", lambda: _linear(edit, left, right, bias))

    def build() -> Node:
        result = _scaled(edit, edit.call(aten.matmul.default, left, right), scale)
        return result if beta == 0 else edit.call(aten.add.Tensor, result, _scaled(edit, bias, beta))

    return Match("spell addmm as a product and a sum", build)


def _scaled(edit: Editor, node: Any, factor: Any) -> Node:
    return node if factor == 1 else edit.call(aten.mul.Tensor, node, factor)


def batched(edit: Editor, node: Node) -> Match | None:
    """`matmul(reshape(a), reshape(b))` where both only merge the same batch dimensions: `reshape(matmul(a, b))`."""
    left, right = args_of(node)[:2]
    if not (is_call(left, aten.reshape.default) and is_call(right, aten.reshape.default)):
        return None
    a, b = args_of(left)[0], args_of(right)[0]
    if not (_merges_batch(left, a) and _merges_batch(right, b) and _same_batch(a, b)):
        return None
    whole = (*shape_of(a)[:-1], shape_of(b)[-1])
    if not can_reshape(edit, whole, shape_of(node)):
        return None

    def build() -> Node:
        return reshape_to(edit, edit.call(aten.matmul.default, a, b), shape_of(node))

    return Match("keep the batch dimensions of a product", build)


def _merges_batch(merged: Node, source: Node) -> bool:
    inner, outer = shape_of(source), shape_of(merged)
    return len(outer) == 3 and len(inner) > 3 and all(map(same_size, inner[-2:], outer[-2:]))


def _same_batch(a: Node, b: Node) -> bool:
    left, right = shape_of(a)[:-2], shape_of(b)[:-2]
    return len(left) == len(right) and all(map(same_size, left, right))


def broadcast_operand(edit: Editor, node: Node) -> Match | None:
    """A product broadcasts its batch dimensions itself: an expand of them alone is not needed."""
    operands = list(args_of(node)[:2])
    bare = [_without_batch_expand(operand) for operand in operands]
    if bare == operands or not same_shape(node, _like(edit, bare, node)):
        return None
    return Match("remove an expand before a product", lambda: edit.call(aten.matmul.default, *bare))


def _without_batch_expand(node: Any) -> Any:
    if not is_call(node, aten.expand.default):
        return node
    source = args_of(node)[0]
    inner, outer = shape_of(source), shape_of(node)
    same_matrix = len(inner) >= 2 and all(map(same_size, inner[-2:], outer[-2:]))
    return source if same_matrix else node


def _like(edit: Editor, operands: list[Any], node: Node) -> Node:
    probe = Node(node.graph, "probe", "call_function", aten.matmul.default, (), {})
    probe.meta["val"] = edit.infer(aten.matmul.default, tuple(operands), {})
    return probe


def linear_bias(edit: Editor, node: Node) -> Match | None:
    """A constant vector added to a linear without bias is its bias."""
    left, right = args_of(node)[:2]
    pairs = ((left, right), (right, left)) if not node.kwargs and not is_number(right) else ()
    for x, bias in pairs:
        if _takes_bias(edit, x, bias) and same_shape(node, x):
            return Match("make an added constant the bias of linear", partial(_with_bias, edit, x, bias))
    return None


def _takes_bias(edit: Editor, x: Any, bias: Any) -> bool:
    if not is_call(x, aten.linear.default) or len(x.users) != 1 or argument(x, "bias") is not None:
        return False
    if not is_tensor(bias) or not is_weight(edit, bias) or value_of(bias).dtype != value_of(x).dtype:
        return False
    shape = shape_of(bias)
    return bool(shape) and same_size(shape[-1], shape_of(x)[-1]) and all(n == 1 for n in shape[:-1])


def _with_bias(edit: Editor, x: Node, bias: Node) -> Node:
    flat = bias if len(shape_of(bias)) == 1 else edit.call(aten.reshape.default, bias, [shape_of(bias)[-1]])
    return edit.call(aten.linear.default, args_of(x)[0], args_of(x)[1], flat)


MATMUL: RuleTable = {
    aten.mm.default: (turned, product),
    aten.bmm.default: (turned, product),
    aten.matmul.default: (turned, product, batched, broadcast_operand),
    aten.addmm.default: (addmm,),
    aten.baddbmm.default: (addmm,),
    aten.add.Tensor: (linear_bias,),
}
