"""The recipe of a call on constants, where reads of boxes can be pushed through the operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from ullage.graph import recipes
from ullage.graph.constants import ConstantRef
from ullage.graph.elementwise import Elementwise, literal, stepped
from ullage.passes.edit import (
    Editor,
    args_of,
    is_call,
    is_elementwise,
    is_tensor,
    shape_of,
    static_shape,
    target_of,
    value_of,
)

aten = torch.ops.aten


def recipe_of(edit: Editor, node: Node) -> ConstantRef | None:
    """A reference to the result of a node that depends on constants alone; None if no recipe leads there."""
    ref = edit.constant(node)
    if ref is not None or not is_tensor(node) or static_shape(node) is None:
        return ref
    build = _RECIPES.get(node.target, _elementwise if is_elementwise(node) else None)
    return build(edit, node) if build is not None else None


def whole_recipe(edit: Editor, node: Node) -> ConstantRef | None:
    """A reference that computes the whole result at each read; None if an operand has no recipe."""
    sources = node.all_input_nodes
    refs = [recipe_of(edit, source) for source in sources]
    shape = static_shape(node)
    if shape is None or not refs or any(ref is None for ref in refs):
        return None
    target, args, kwargs = target_of(node), args_of(node), dict(node.kwargs)

    def function(*tensors: torch.Tensor) -> Any:
        values: dict[Node, Any] = dict(zip(sources, tensors, strict=True))
        return target(*map_arg(args, values.__getitem__), **map_arg(kwargs, values.__getitem__))

    text = f"{target}{map_arg((args, kwargs), lambda n: f'#{sources.index(n)}')}"
    found = [ref for ref in refs if ref is not None]
    return recipes.compute(node.name, text, function, found, value_of(node).dtype, shape)


def _elementwise(edit: Editor, node: Node) -> ConstantRef | None:
    operands: dict[Node, Any] = {source: _broadcast_operand(edit, source) for source in node.all_input_nodes}
    shape = static_shape(node)
    if shape is None or not operands or any(operand is None for operand in operands.values()):
        return None
    args, kwargs = map_arg((args_of(node), dict(node.kwargs)), operands.__getitem__)
    source = Elementwise(target_of(node), tuple(args), tuple(kwargs.items()))
    return ConstantRef(node.name, value_of(node).dtype, shape, source)


def _broadcast_operand(edit: Editor, node: Node) -> ConstantRef | None:
    rank = len(shape_of(node))
    if is_call(node, aten.full.default):
        value = torch.full((1,) * rank, args_of(node)[1], dtype=value_of(node).dtype)
        return literal(node.name, value)
    if is_call(node, aten.expand.default) and len(shape_of(args_of(node)[0])) == rank:
        node = args_of(node)[0]
    return recipe_of(edit, node)


def _permute(edit: Editor, node: Node) -> ConstantRef | None:
    ref = recipe_of(edit, args_of(node)[0])
    return recipes.permute(ref, args_of(node)[1]) if ref is not None else None


def _reshape(edit: Editor, node: Node) -> ConstantRef | None:
    ref, shape = recipe_of(edit, args_of(node)[0]), static_shape(node)
    return recipes.reshape(ref, shape) if ref is not None and shape is not None else None


def _slice(edit: Editor, node: Node) -> ConstantRef | None:
    ref = recipe_of(edit, args_of(node)[0])
    if ref is None or len(args_of(node)) != 5 or not all(isinstance(value, int) for value in args_of(node)[1:]):
        return None
    _, dim, start, stop, step = args_of(node)
    low = min(start, ref.shape[dim])
    high = max(low, min(stop, ref.shape[dim]))
    window = [slice(low, high) if d == dim else slice(0, n) for d, n in enumerate(ref.shape)]
    return stepped(recipes.slice_box(ref, tuple(window)), dim, step)


def _cat(edit: Editor, node: Node) -> ConstantRef | None:
    refs = [recipe_of(edit, part) for part in args_of(node)[0]]
    found = [ref for ref in refs if ref is not None and ref.dtype == value_of(node).dtype and ref.shape != (0,)]
    if len(found) < len(refs):
        return None
    return recipes.concatenate(found, args_of(node)[1] if len(args_of(node)) > 1 else 0)


_RECIPES: dict[Any, Callable[[Editor, Node], ConstantRef | None]] = {
    aten.permute.default: _permute,
    aten.reshape.default: _reshape,
    aten.slice.Tensor: _slice,
    aten.cat.default: _cat,
}
