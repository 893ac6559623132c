"""One spelling for sizes and uniform tensors: one node per symbolic size, `full` for what holds one value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.rules import Match, RuleTable
from ullage.passes.edit import Editor, args_of, argument, is_call, same_size, shape_of, static_shape, value_of

aten = torch.ops.aten


def size(edit: Editor, node: Node) -> Match | None:
    """A symbolic size is asked of the first input that has it."""
    found = next(((n, d) for n, d in _input_sizes(edit) if same_size(shape_of(n)[d], value_of(node))), None)
    if found is None or found == tuple(args_of(node)):
        return None
    return Match("ask an input for a size", lambda: edit.call(aten.sym_size.int, *found))


def _input_sizes(edit: Editor) -> Iterator[tuple[Node, int]]:
    for node in edit.graph.find_nodes(op="placeholder"):
        yield from ((node, dim) for dim, own in enumerate(shape_of(node)) if isinstance(own, torch.SymInt))


def uniform(edit: Editor, node: Node) -> Match | None:
    """`zeros`, `ones`, `full_like`, `scalar_tensor` … of a static shape as `full` with a dtype and nothing else."""
    shape, dtype = static_shape(node), value_of(node).dtype
    value = _fill_value(node)
    if shape is None or isinstance(value, Node):
        return None
    full = aten.full.default
    return Match("spell a uniform tensor as full", lambda: edit.call(full, list(shape), value, dtype=dtype))


def _fill_value(node: Node) -> Any:
    fixed = _FIXED.get(node.target)
    if fixed is not None:
        return fixed
    return argument(node, "s" if node.target is aten.scalar_tensor.default else "fill_value")


_FIXED: dict[Any, int] = {
    aten.zeros.default: 0, aten.zeros_like.default: 0, aten.new_zeros.default: 0,
    aten.ones.default: 1, aten.ones_like.default: 1, aten.new_ones.default: 1,
}  # fmt: skip


def bare_full(edit: Editor, node: Node) -> Match | None:
    """`full` with its dtype as the only option."""
    dtype = value_of(node).dtype
    if dict(node.kwargs) == {"dtype": dtype}:
        return None
    return Match("spell full", lambda: edit.call(aten.full.default, *args_of(node), dtype=dtype))


def view_of_uniform(edit: Editor, node: Node) -> Match | None:
    """A view or a cast of a uniform tensor is uniform."""
    source, shape = args_of(node)[0], static_shape(node)
    if not is_call(source, aten.full.default) or shape is None or isinstance(args_of(source)[1], Node):
        return None
    value, dtype = args_of(source)[1], value_of(node).dtype
    if dtype != value_of(source).dtype:
        value = torch.tensor(value, dtype=value_of(source).dtype).to(dtype).item()
    return Match("keep a uniform tensor as full", lambda: edit.call(aten.full.default, list(shape), value, dtype=dtype))


def arange(edit: Editor, node: Node) -> Match | None:
    """`arange` with start, stop and step, and a dtype as the only option."""
    dtype = value_of(node).dtype
    bounds = args_of(node) if len(args_of(node)) > 1 else (0, *args_of(node))
    args = (*bounds, 1) if len(bounds) == 2 else tuple(bounds)
    if node.target is aten.arange.start_step and tuple(args_of(node)) == args and dict(node.kwargs) == {"dtype": dtype}:
        return None
    return Match("spell arange", lambda: edit.call(aten.arange.start_step, *args, dtype=dtype))


_VIEWS = (aten.reshape.default, aten.permute.default, aten.expand.default, aten.slice.Tensor, aten._to_copy.default)
_UNIFORM = (*_FIXED, aten.full_like.default, aten.scalar_tensor.default, aten.new_full.default)

SHAPE: RuleTable = {
    aten.sym_size.int: (size,),
    aten.full.default: (bare_full,),
    **{target: (uniform,) for target in _UNIFORM},
    **{target: (view_of_uniform,) for target in _VIEWS},
    **{t: (arange,) for t in (aten.arange.default, aten.arange.start, aten.arange.start_step)},
}
