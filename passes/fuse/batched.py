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
    same_size,
    shape_of,
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
    return node.target in _RULES and (node.target not in _SIZED or _SIZED[target_of(node)](node))


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
    source = leading(edit, operands[0], len(shape_of(node)) + 1)
    sizes = [int(n) if isinstance(n, int) else -1 for n in shape_of(node)]
    return edit.call(aten.expand.default, source, [shape_of(source)[0], *sizes])


def _sum(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    dims = [_behind(node, dim) for dim in argument(node, "dim")]
    named = {"dtype": argument(node, "dtype")} if argument(node, "dtype") is not None else {}
    return edit.call(aten.sum.dim_IntList, operands[0], dims, argument(node, "keepdim", False), **named)


def _product(edit: Editor, node: Node, operands: Sequence[Node]) -> Node:
    """A product of batches of matrices; of a vector with a matrix as a sum, which other kernels can take in."""
    row, column = map(is_one, shape_of(node)[-2:])
    if not row and not column:
        return edit.call(aten.matmul.default, *operands)
    return vector_product(edit, operands[0], operands[1], column)


def vector_product(edit: Editor, a: Node, b: Node, column: bool) -> Node:
    """`matmul(a, b)` as a sum of products, for a right operand of one column or a left operand of one row."""
    if column:
        return _summed(edit, a, _swapped(edit, b), -1)
    return _summed(edit, _swapped(edit, a), b, -2)


def _swapped(edit: Editor, node: Node) -> Node:
    rank = len(shape_of(node))
    return edit.call(aten.permute.default, node, [*range(rank - 2), rank - 1, rank - 2])


def _summed(edit: Editor, a: Node, b: Node, dim: int) -> Node:
    dtype = value_of(a).dtype
    if dtype in _HALF:
        a, b = (edit.call(aten._to_copy.default, x, dtype=torch.float32) for x in (a, b))
    total = edit.call(aten.sum.dim_IntList, edit.call(aten.mul.Tensor, a, b), [dim], True)
    return edit.call(aten._to_copy.default, total, dtype=dtype) if dtype in _HALF else total


def _one_symbol(node: Node) -> bool:
    """Whether all sizes but one are numbers."""
    return sum(not isinstance(n, int) for n in shape_of(node)) <= 1


def _keeps_symbols(node: Node) -> bool:
    """Whether sizes that are no numbers are those of the operand."""
    sizes, kept = shape_of(node), shape_of(node.all_input_nodes[0])
    own = (None,) * (len(sizes) - len(kept)) + kept
    return all(isinstance(n, int) or (k is not None and same_size(n, k)) for n, k in zip(sizes, own, strict=True))


_RULES: dict[Target, Rule] = {
    aten.select.int: _select, aten.slice.Tensor: _slice, aten.unsqueeze.default: _unsqueeze,
    aten.permute.default: _permute, aten.transpose.int: _transpose, aten.reshape.default: _reshape,
    aten.squeeze.dim: _reshape, aten.squeeze.dims: _reshape, aten.expand.default: _expand,
    aten.sum.dim_IntList: _sum, aten.mm.default: _product, aten.bmm.default: _product,
}  # fmt: skip
_SIZED: dict[Target, Callable[[Node], bool]] = {
    aten.reshape.default: _one_symbol, aten.squeeze.dim: _one_symbol, aten.squeeze.dims: _one_symbol,
    aten.expand.default: _keeps_symbols,
}  # fmt: skip
"""Operators with sizes as arguments, and for which sizes they are batched."""
