"""Products that can be narrow; where sums do not fill whole words, zeros are added if that costs little."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch.fx import Node

from ullage.graph.constants import ConstantRef
from ullage.graph.recipes import concatenate
from ullage.graph.sources import InMemory
from ullage.passes.edit import Editor, argument, is_call, is_tensor, value_of

aten = torch.ops.aten
MULTIPLICATIONS_OF_AN_ELEMENT = 16
"""Reading four bytes from memory takes about as long as so many multiplications (a machine's balance)."""
_MOST_ADDED = 1 / 3
"""Of the values that are summed: an image's three channels become four."""


def float_weight(edit: Editor, node: Node) -> ConstantRef | None:
    """The constant weight of a linear or convolution, if that and the activations are float32."""
    x, ref = node.args[0], edit.constant(node.args[1])
    if ref is None or not is_tensor(x) or any(t != torch.float32 for t in (ref.dtype, value_of(x).dtype)):
        return None
    return ref


def is_depthwise(node: Node, weight: Sequence[int]) -> bool:
    """Whether a product is a convolution of each channel alone, as many out as in; `weight` is the weight's shape."""
    if not is_call(node, aten.convolution.default) or argument(node, "transposed"):
        return False
    groups: int = argument(node, "groups")
    return 1 < weight[0] == groups and weight[1] == 1


def waits_for_values(node: Node, weight: Sequence[int]) -> bool:
    """Whether a depthwise convolution multiplies each value so few times that memory sets its pace."""
    strides: list[int] = argument(node, "stride")
    each = strides * (len(weight) - 2) if len(strides) == 1 else strides
    return prod(weight[2:]) <= MULTIPLICATIONS_OF_AN_ELEMENT * prod(each)


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
