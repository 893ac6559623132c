"""Batch norm in inference is one scale and one shift per channel: part of the convolution or linear before it.

The scale goes into the weight per output channel, the shift into the bias; both are built as operations on constants
(in float64), which `fold_constants` turns into recipes. Elsewhere it becomes a product and a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ullage.passes.clean.canonical_matmul import is_weight
from ullage.passes.clean.canonical_norm import is_batch_norm
from ullage.passes.clean.rules import Match, RulePass, RuleTable
from ullage.passes.edit import Editor, args_of, argument, is_call, shape_of, target_of, value_of

aten = torch.ops.aten


@dataclass(frozen=True)
class BatchNorm(RulePass):
    """Fold batch norms into the preceding convolution or linear, or spell them as product and sum."""

    name: ClassVar[str] = "batch_norm"

    def table(self) -> RuleTable:
        """One rule."""
        return {aten.batch_norm.default: (fold,)}


def fold(edit: Editor, node: Node) -> Match | None:
    """Into the producer where nobody else reads it, else on its own."""
    if not is_batch_norm(node) or not all(arg is None or is_weight(edit, arg) for arg in args_of(node)[1:5]):
        return None
    source: Node = args_of(node)[0]
    if is_call(source, aten.convolution.default, aten.linear.default) and _is_foldable(edit, source, node):
        return Match("fold a batch norm into its producer", lambda: _into_producer(edit, node, source))
    return Match("spell a batch norm as product and sum", lambda: _alone(edit, node))


def _is_foldable(edit: Editor, source: Node, node: Node) -> bool:
    is_matrix = is_call(source, aten.linear.default) and len(shape_of(source)) != 2
    is_grouped_transpose = is_call(source, aten.convolution.default) and args_of(source)[6] and args_of(source)[8] != 1
    bias = argument(source, "bias")
    has_constants = is_weight(edit, args_of(source)[1]) and (bias is None or is_weight(edit, bias))
    return len(source.users) == 1 and has_constants and not is_matrix and not is_grouped_transpose


def _scale_and_shift(edit: Editor, node: Node) -> tuple[Node, Node]:
    """Per channel, in float64: `weight / sqrt(var + eps)` and `bias - mean · scale`."""
    _, weight, bias, mean, var, _training, _momentum, eps, _cudnn = args_of(node)
    scale = edit.call(aten.rsqrt.default, edit.call(aten.add.Tensor, _wide(edit, var), eps))
    if weight is not None:
        scale = edit.call(aten.mul.Tensor, scale, _wide(edit, weight))
    shift = edit.call(aten.neg.default, edit.call(aten.mul.Tensor, _wide(edit, mean), scale))
    if bias is not None:
        shift = edit.call(aten.add.Tensor, shift, _wide(edit, bias))
    return scale, shift


def _wide(edit: Editor, node: Any) -> Node:
    return _as(edit, node, torch.float64)


def _as(edit: Editor, node: Node, dtype: torch.dtype) -> Node:
    return node if value_of(node).dtype == dtype else edit.call(aten._to_copy.default, node, dtype=dtype)


def _into_producer(edit: Editor, node: Node, source: Node) -> Node:
    scale, shift = _scale_and_shift(edit, node)
    weight, bias = args_of(source)[1], argument(source, "bias")
    dtype = value_of(node).dtype
    is_transposed = is_call(source, aten.convolution.default) and bool(args_of(source)[6])
    factor = _per_channel(edit, scale, len(shape_of(weight)), 1 if is_transposed else 0)
    scaled = _as(edit, edit.call(aten.mul.Tensor, _wide(edit, weight), factor), dtype)
    if bias is not None:
        shift = edit.call(aten.add.Tensor, edit.call(aten.mul.Tensor, _wide(edit, bias), scale), shift)
    return edit.call(target_of(source), args_of(source)[0], scaled, _as(edit, shift, dtype), *args_of(source)[3:])


def _alone(edit: Editor, node: Node) -> Node:
    scale, shift = _scale_and_shift(edit, node)
    rank, dtype = len(shape_of(node)), value_of(node).dtype
    parts = [_per_channel(edit, _as(edit, part, dtype), rank, 1) for part in (scale, shift)]
    return edit.call(aten.add.Tensor, edit.call(aten.mul.Tensor, args_of(node)[0], parts[0]), parts[1])


def _per_channel(edit: Editor, vector: Node, rank: int, dim: int) -> Node:
    shape: list[int | torch.SymInt] = [1] * rank
    shape[dim] = shape_of(vector)[0]
    return edit.call(aten.reshape.default, vector, shape)
