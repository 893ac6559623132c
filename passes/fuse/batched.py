"""Calls over all steps at once: each operator with a further leading dimension in its operands and result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.sizes import reshape_to
from ullage.passes.edit import (
    Editor,
    Target,
    argument,
    is_elementwise,
    is_one,
    shape_of,
    static_shape,
    target_of,
    value_of,
)

aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)
Rule = Callable[[Editor, Node, Sequence[Node]], Node]
"""Makes the batched call of a node, given its tensors with the further dimension."""


def can_batch(node: Node) -> bool:
    """Whether `batched` knows the operator."""
    if is_elementwise(node):
        return True
    return node.target in _RULES and (node.target not in _SIZED or static_shape(node) is not None)


def batched(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    """The node's call on operands with a further leading dimension (of the number of steps, or 1)."""
    return _elementwise(edit, node, operands) if is_elementwise(node) else _RULES[target_of(node)](edit, node, operands)


def leading(edit: Editor, tensor: Node, rank: int) -> Node:
    """A batched tensor with dimensions of size 1 behind the first one, so that it has `rank` in all."""
    for _ in range(rank - len(shape_of(tensor))):
        tensor = edit.call(aten.unsqueeze.default, tensor, 1)
    return tensor


def _elementwise(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    rank = len(shape_of(node)) + 1
    rest = iter([leading(edit, operand, rank) for operand in operands])

    def swapped(value: Any) -> Any:
        if isinstance(value, Node) and isinstance(value_of(value), torch.Tensor):
            return next(rest)
        return type(value)(map(swapped, value)) if isinstance(value, list | tuple) else value

    args = tuple(swapped(value) for value in node.args)
    return edit.call(target_of(node), *args, **{name: swapped(value) for name, value in node.kwargs.items()})


def _behind(node: Node, dim: int) -> int:
    """A dimension of the node's operand, counted behind the leading one."""
    return dim % len(shape_of(node.all_input_nodes[0])) + 1


def _select(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    return edit.call(aten.select.int, operands[0], _behind(node, argument(node, "dim")), argument(node, "index"))


def _slice(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    bounds = [argument(node, name) for name in ("start", "end")]
    dim, step = _behind(node, argument(node, "dim", 0)), argument(node, "step", 1)
    return edit.call(aten.slice.Tensor, operands[0], dim, *bounds, step)


def _unsqueeze(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    return edit.call(aten.unsqueeze.default, operands[0], argument(node, "dim") % len(shape_of(node)) + 1)


def _permute(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    order = [_behind(node, dim) for dim in argument(node, "dims")]
    return edit.call(aten.permute.default, operands[0], [0, *order])


def _transpose(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    order = list(range(len(shape_of(node)) + 1))
    a, b = (_behind(node, argument(node, name)) for name in ("dim0", "dim1"))
    order[a], order[b] = b, a
    return edit.call(aten.permute.default, operands[0], order)


def _reshape(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    return reshape_to(edit, operands[0], (shape_of(operands[0])[0], *shape_of(node)))


def _expand(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    shape = shape_of(node)
    source = leading(edit, operands[0], len(shape) + 1)
    return edit.call(aten.expand.default, source, [shape_of(source)[0], *shape])


def _sum(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    dims = [_behind(node, dim) for dim in argument(node, "dim")]
    named = {"dtype": argument(node, "dtype")} if argument(node, "dtype") is not None else {}
    return edit.call(aten.sum.dim_IntList, operands[0], dims, argument(node, "keepdim", False), **named)


def _product(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    """A product of batches of matrices; of a vector with a matrix as a sum, which other kernels can take in."""
    a, b = operands
    rows, columns = shape_of(node)[-2:]
    rank = len(shape_of(a))
    swap = [*range(rank - 2), rank - 1, rank - 2]
    if is_one(columns):
        return _summed(edit, a, edit.call(aten.permute.default, b, swap), -1)
    if is_one(rows):
        return _summed(edit, edit.call(aten.permute.default, a, swap), b, -2)
    return edit.call(aten.matmul.default, a, b)


def _summed(edit: Editor, a: Node, b: Node, dim: int) -> Node:
    dtype = value_of(a).dtype
    if dtype in _HALF:
        a, b = (edit.call(aten._to_copy.default, x, dtype=torch.float32) for x in (a, b))
    total = edit.call(aten.sum.dim_IntList, edit.call(aten.mul.Tensor, a, b), [dim], True)
    return edit.call(aten._to_copy.default, total, dtype=dtype) if dtype in _HALF else total


_RULES: dict[Target, Rule] = {
    aten.select.int: _select, aten.slice.Tensor: _slice, aten.unsqueeze.default: _unsqueeze,
    aten.permute.default: _permute, aten.transpose.int: _transpose, aten.reshape.default: _reshape,
    aten.squeeze.dim: _reshape, aten.squeeze.dims: _reshape, aten.expand.default: _expand,
    aten.sum.dim_IntList: _sum, aten.mm.default: _product, aten.bmm.default: _product,
}  # fmt: skip
_SIZED = frozenset({aten.reshape.default, aten.squeeze.dim, aten.squeeze.dims, aten.expand.default})
"""Operators with sizes as arguments: batched where these are numbers."""
