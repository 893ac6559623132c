"""Computed constants in the smallest form: `full` if one value is everywhere, `expand` along dimensions that repeat."""

from __future__ import annotations

import torch
from torch.fx import Node

from ullage.graph.elementwise import literal
from ullage.passes.edit import Editor, value_of

aten = torch.ops.aten
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_WEIGHT_READERS = frozenset({
    aten.linear.default, aten.convolution.default, aten.layer_norm.default, aten.group_norm.default,
    aten.batch_norm.default, aten.rms_norm.default, aten.embedding.default, aten.index.Tensor,
})  # fmt: skip


def dense_users(node: Node) -> bool:
    """Whether somebody reads the node as a weight or a table, which must be an ordinary constant."""
    return any(user.op == "output" or user.target in _WEIGHT_READERS for user in node.users)


def place_compressed(edit: Editor, node: Node, value: torch.Tensor) -> Node:
    """A node with the computed value of `node`, holding repeated parts once; one that is read as a weight is whole."""
    small = value if dense_users(node) else without_repeats(value)
    dtype, shape = value_of(node).dtype, list(value.shape)
    if small.numel() == 1 and not dense_users(node):
        return edit.call(aten.full.default, shape, small.reshape(()).item(), dtype=dtype)
    constant = edit.add_constant(literal(f"{node.name}_folded", small))
    return constant if list(small.shape) == shape else edit.call(aten.expand.default, constant, shape)


def without_repeats(value: torch.Tensor) -> torch.Tensor:
    """The tensor with every dimension along which it does not change (bit for bit) cut to size 1."""
    if value.dtype not in _SIMPLE:
        return value
    bits = value.contiguous().view(_BITS[value.dtype.itemsize]) if value.dim() else value
    for dim, size in enumerate(value.shape):
        if size > 1 and _repeats(bits, dim):
            value, bits = value.narrow(dim, 0, 1), bits.narrow(dim, 0, 1)
    return value


def _repeats(bits: torch.Tensor, dim: int) -> bool:
    """Whether all along a dimension is what comes first; most tensors differ at once, which two parts show."""
    first = bits.narrow(dim, 0, 1)
    return torch.equal(first, bits.narrow(dim, 1, 1)) and bool((bits == first).all())


_SIMPLE = frozenset({
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
})  # fmt: skip
