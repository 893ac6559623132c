"""One spelling for normalisations: layer_norm, group_norm and batch_norm with a single result."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.rules import Match, RuleTable
from ullage.passes.edit import Editor, Target, args_of, is_call, shape_of

aten = torch.ops.aten


def first_result(edit: Editor, node: Node) -> Match | None:
    """The first result of a native normalisation or pooling as the operator with a single result."""
    parent, index = args_of(node)
    if index != 0 or not isinstance(parent, Node) or parent.target not in _SINGLE:
        return None
    target, arguments = _SINGLE[parent.target]
    return Match(f"spell as {target.__name__}", lambda: edit.call(target, *arguments(args_of(parent))))


def _group_norm(args: tuple[Any, ...]) -> tuple[Any, ...]:
    x, weight, bias, _n, _c, _hw, groups, eps = args
    return (x, groups, weight, bias, eps)


def _batch_norm(args: tuple[Any, ...]) -> tuple[Any, ...]:
    x, weight, bias, mean, var, momentum, eps = args
    return (x, weight, bias, mean, var, False, momentum, eps, False)


_SINGLE: dict[Any, tuple[Target, Any]] = {
    aten.native_layer_norm.default: (aten.layer_norm.default, lambda args: args),
    aten.native_group_norm.default: (aten.group_norm.default, _group_norm),
    aten._native_batch_norm_legit_no_training.default: (aten.batch_norm.default, _batch_norm),
    aten._fused_rms_norm.default: (aten.rms_norm.default, lambda args: args),
    aten.max_pool2d_with_indices.default: (aten.max_pool2d.default, lambda args: args),
}


def global_average(edit: Editor, node: Node) -> Match | None:
    """An adaptive average pool to 1 × 1 is a mean over height and width."""
    x, size = args_of(node)
    rank = len(shape_of(x))
    if list(size) != [1, 1]:
        return None
    dims = [rank - 2, rank - 1]
    return Match("spell a global pool as mean", lambda: edit.call(aten.mean.dim, x, dims, True))


def bare_layer_norm(edit: Editor, node: Node) -> Match | None:
    """A layer norm without the switch for cuDNN."""
    if len(args_of(node)) <= 5 and not node.kwargs:
        return None
    return Match("spell layer_norm", lambda: edit.call(aten.layer_norm.default, *args_of(node)[:5]))


def is_batch_norm(node: object) -> bool:
    """Whether a node is a batch norm that uses its stored statistics."""
    return is_call(node, aten.batch_norm.default) and not args_of(node)[5]


NORM: RuleTable = {
    operator.getitem: (first_result,),
    aten._adaptive_avg_pool2d.default: (global_average,),
    aten.adaptive_avg_pool2d.default: (global_average,),
    aten.layer_norm.default: (bare_layer_norm,),
}
