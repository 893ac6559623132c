"""Products that can be narrow; where sums do not fill whole words, zeros are added if that costs little."""

from __future__ import annotations

import torch
from torch.fx import Node

from ullage.graph.constants import ConstantRef
from ullage.graph.recipes import concatenate
from ullage.graph.sources import InMemory
from ullage.passes.edit import Editor, argument, is_call, is_tensor, value_of

aten = torch.ops.aten
_MOST_ADDED = 1 / 3
"""Of the values that are summed: an image's three channels become four."""


def float_weight(edit: Editor, node: Node) -> ConstantRef | None:
    """The constant weight of a linear or convolution, if that and the activations are float32."""
    x, ref = node.args[0], edit.constant(node.args[1])
    if ref is None or not is_tensor(x) or any(t != torch.float32 for t in (ref.dtype, value_of(x).dtype)):
        return None
    return ref


def filled(inputs: int, word: int) -> int:
    """So many values, and the zeros behind them that fill the last word."""
    return inputs + -inputs % word


def fills(node: Node, inputs: int, word: int) -> bool:
    """Whether sums over `inputs` values (of a group) are whole words, or can be made so by a few zeros."""
    if inputs % word == 0:
        return True
    whole = is_call(node, aten.linear.default) or (argument(node, "groups") == 1 and not argument(node, "transposed"))
    return whole and -inputs % word <= inputs * _MOST_ADDED


def filled_weight(ref: ConstantRef, word: int) -> ConstantRef:
    """A weight [n, inputs, ...] with zeros behind its inputs."""
    missing = -ref.shape[1] % word
    if not missing:
        return ref
    zeros = torch.zeros(ref.shape[0], missing, *ref.shape[2:], dtype=ref.dtype)
    held = ConstantRef(f"{ref.name}_zeros", ref.dtype, tuple(zeros.shape), InMemory(zeros))
    return concatenate((ref, held), 1)


def filled_input(edit: Editor, x: Node, node: Node, inputs: int, word: int) -> Node:
    """The activations of a product, already in their narrow type, with as many values more as the weight has.

    They are 0, which need not be what stands for zero: they are multiplied by the weight's zeros.
    """
    missing = -inputs % word
    if not missing:
        return x
    behind = 0 if is_call(node, aten.linear.default) else value_of(x).dim() - 2
    return edit.call(aten.constant_pad_nd.default, x, [0, 0] * behind + [0, missing], 0)
