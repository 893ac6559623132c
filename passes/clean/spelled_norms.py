"""Normalisations that were spelled out over the last dimension become `rms_norm` and `layer_norm`.

rms     x · rsqrt(mean(x²) + eps), or x / sqrt(…)
layer   (x - mean(x)) · rsqrt(mean((x - mean(x))²) + eps), or / sqrt(…)
then    a constant factor per element of the last dimension is the weight, a constant summand the bias
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ullage.passes.clean.canonical_arithmetic import is_number
from ullage.passes.clean.canonical_matmul import is_weight
from ullage.passes.clean.rules import Match, RulePass, RuleTable
from ullage.passes.edit import (
    Editor,
    args_of,
    is_call,
    is_one,
    is_tensor,
    same_shape,
    same_size,
    shape_of,
    target_of,
    value_of,
)

aten = torch.ops.aten


@dataclass(frozen=True)
class SpelledNorms(RulePass):
    """Recognise normalisations."""

    name: ClassVar[str] = "spelled_norms"

    def table(self) -> RuleTable:
        """The product or quotient at the end of a norm, then its weight and bias."""
        return {
            aten.mul.Tensor: (by_product, weight),
            aten.div.Tensor: (by_quotient,),
            aten.add.Tensor: (bias,),
        }


def by_product(edit: Editor, node: Node) -> Match | None:
    """`x · rsqrt(variance + eps)` in either order."""
    left, right = args_of(node)[:2]
    return _norm(edit, node, left, right, aten.rsqrt.default) or _norm(edit, node, right, left, aten.rsqrt.default)


def by_quotient(edit: Editor, node: Node) -> Match | None:
    """`x / sqrt(variance + eps)`."""
    left, right = args_of(node)[:2]
    return _norm(edit, node, left, right, aten.sqrt.default) if not node.kwargs else None


def _norm(edit: Editor, node: Node, x: Any, deviation: Any, root: Any) -> Match | None:
    if not (is_tensor(x) and is_call(deviation, root) and _is_private(deviation)):
        return None
    shifted = args_of(deviation)[0]
    if not is_call(shifted, aten.add.Tensor) or shifted.kwargs or not is_number(args_of(shifted)[1]):
        return None
    variance, eps = args_of(shifted)
    size = shape_of(x)[-1] if shape_of(x) else None
    if not isinstance(size, int) or not _is_mean_square(variance, x) or not same_shape(node, x):
        return None
    centre = _centred(x)
    if centre is None:
        return Match("recognise an rms norm", lambda: edit.call(aten.rms_norm.default, x, [size], None, eps))
    target, tail = aten.layer_norm.default, (None, None, eps)
    return Match("recognise a layer norm", lambda: edit.call(target, centre, [size], *tail))


def _is_private(node: Node) -> bool:
    return len(node.users) == 1


def _is_mean_of(node: Any, x: Node) -> bool:
    """Whether a node is the mean of `x` over its last dimension, which is kept with size 1."""
    if not is_call(node, aten.mean.dim) or node.kwargs or args_of(node)[0] is not x:
        return False
    return list(args_of(node)[1]) == [len(shape_of(x)) - 1] and len(args_of(node)) > 2 and bool(args_of(node)[2])


def _is_mean_square(node: Any, x: Node) -> bool:
    if not is_call(node, aten.mean.dim):
        return False
    square = args_of(node)[0]
    is_square = is_call(square, aten.mul.Tensor) and args_of(square)[0] is x and args_of(square)[1] is x
    return is_square and _is_private(square) and _is_mean_of(node, square)


def _centred(x: Node) -> Node | None:
    """`y` where `x` is `y - mean(y)`."""
    if not is_call(x, aten.sub.Tensor) or x.kwargs or not is_tensor(args_of(x)[1]):
        return None
    source, mean = args_of(x)
    return source if is_tensor(source) and _is_mean_of(mean, source) else None


def _is_vector(edit: Editor, node: Any, norm: Node) -> bool:
    """Whether a node is a constant that gives one value per element of the last dimension."""
    if not is_tensor(node) or not is_weight(edit, node) or value_of(node).dtype != value_of(norm).dtype:
        return False
    shape = shape_of(node)
    return bool(shape) and same_size(shape[-1], shape_of(norm)[-1]) and all(map(is_one, shape[:-1]))


def _flat(edit: Editor, vector: Node) -> Node:
    shape = shape_of(vector)
    return vector if len(shape) == 1 else edit.call(aten.reshape.default, vector, [shape[-1]])


def weight(edit: Editor, node: Node) -> Match | None:
    """A factor on a norm without weight (and without bias) is its weight."""
    for norm, vector in (args_of(node)[:2], args_of(node)[1::-1]):
        bare = is_call(norm, aten.rms_norm.default, aten.layer_norm.default) and args_of(norm)[2] is None
        if not bare or not _is_private(norm) or not _is_vector(edit, vector, norm) or not same_shape(node, norm):
            continue
        if is_call(norm, aten.layer_norm.default) and args_of(norm)[3] is not None:
            continue
        return _with(edit, "make a factor the weight of a norm", norm, 2, vector)
    return None


def bias(edit: Editor, node: Node) -> Match | None:
    """A summand on a layer norm with a weight and without bias is its bias."""
    for norm, vector in (args_of(node)[:2], args_of(node)[1::-1]):
        bare = is_call(norm, aten.layer_norm.default) and args_of(norm)[2] is not None and args_of(norm)[3] is None
        if bare and _is_private(norm) and _is_vector(edit, vector, norm) and same_shape(node, norm) and not node.kwargs:
            return _with(edit, "make a summand the bias of a norm", norm, 3, vector)
    return None


def _with(edit: Editor, what: str, norm: Node, position: int, vector: Node) -> Match:
    def build() -> Node:
        args = list(args_of(norm))
        args[position] = _flat(edit, vector)
        return edit.call(target_of(norm), *args)

    return Match(what, build)
