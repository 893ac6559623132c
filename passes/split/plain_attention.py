"""Attention in dtypes that its kernel does not take: scores, softmax and a weighted sum, each a loop kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.rules import Match
from ullage.passes.clean.sizes import reshape_to
from ullage.passes.edit import Editor, args_of, argument, is_tensor, shape_of, value_of

aten = torch.ops.aten
KERNEL_DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
"""What matrix products, convolutions and attention are computed from by kernels of their own."""


def attention(edit: Editor, node: Node) -> Match | None:
    """softmax(scale · q kᵀ + mask) v; a row that sees nothing is 0."""
    if value_of(args_of(node)[0]).dtype in KERNEL_DTYPES:
        return None
    return Match("spell attention as scores, softmax and a sum", lambda: _attention(edit, node))


def _attention(edit: Editor, node: Node) -> Node:
    query, key, value = args_of(node)[:3]
    if argument(node, "enable_gqa", False):
        key, value = (_repeated(edit, x, shape_of(query)[-3]) for x in (key, value))
    scores = _masked(edit, node, _scores(edit, node, query, key))
    top = edit.call(aten.amax.default, scores, [-1], True)
    blind = edit.call(aten.eq.Scalar, top, -math.inf)
    weights = edit.call(aten._softmax.default, scores, -1, False)
    weights = edit.call(aten.where.self, blind, edit.call(aten.full_like.default, weights, 0.0), weights)
    return total_of_products(edit, unsqueezed(edit, weights, -1), unsqueezed(edit, value, -3), -2)


def _scores(edit: Editor, node: Node, query: Node, key: Node) -> Node:
    scale = argument(node, "scale")
    products = total_of_products(edit, unsqueezed(edit, query, -2), unsqueezed(edit, key, -3), -1)
    return edit.call(aten.mul.Tensor, products, 1 / math.sqrt(int(shape_of(query)[-1])) if scale is None else scale)


def _masked(edit: Editor, node: Node, scores: Node) -> Node:
    mask = argument(node, "attn_mask")
    if argument(node, "is_causal", False):
        rows, columns = (edit.call(aten.arange.start_step, 0, n, 1, dtype=torch.int64) for n in shape_of(scores)[-2:])
        mask = edit.call(aten.le.Tensor, columns, unsqueezed(edit, rows, 1))
    if not is_tensor(mask):
        return scores
    if value_of(mask).dtype != torch.bool:
        return edit.call(aten.add.Tensor, scores, mask)
    return edit.call(aten.where.self, mask, scores, edit.call(aten.full_like.default, scores, -math.inf))


def _repeated(edit: Editor, x: Node, heads: Any) -> Node:
    """Each head of [..., heads, length, width] as often as several query heads share it."""
    *lead, own, length, width = shape_of(x)
    apart = unsqueezed(edit, x, -3)
    wide = edit.call(aten.expand.default, apart, [*lead, own, heads // own, length, width])
    return reshape_to(edit, wide, [*lead, heads, length, width])


def unsqueezed(edit: Editor, x: Any, dim: int) -> Node:
    """`x` with a dimension of size 1."""
    return edit.call(aten.unsqueeze.default, x, dim)


def total_of_products(edit: Editor, left: Node, right: Node, dim: int) -> Node:
    """Σ left · right along a dimension, in their own dtype; lowering fuses the two."""
    terms = edit.call(aten.mul.Tensor, left, right)
    return edit.call(aten.sum.dim_IntList, terms, [dim], False, dtype=value_of(terms).dtype)
