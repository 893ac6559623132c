"""Tensors without elements: what computes them goes, and what multiplies over none of them gives zeros.

The rest of the compiler then meets them as constants, as parts of a concatenation, and under reductions, which give
what they start from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten
_PRODUCTS = frozenset({aten.mm.default, aten.bmm.default})


def fill_empty(graph: Graph) -> None:
    """Rewrite a canonical graph in place; every node must carry `meta["val"]`, and new nodes do."""
    for node in list(graph.nodes):
        if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor) and _is_empty(node):
            _replace_uses(graph, node)
        if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        value, target = node.meta["val"], node.target
        if (_is_empty(value) and target is not aten.full.default) or (target in _PRODUCTS and _is_empty(node.args[0])):
            _replace(graph, node, list(value.shape))
        elif target is aten.linear.default and _is_empty(node.args[1]):
            _linear(graph, node)


def _is_empty(value: Any) -> bool:
    """Whether a tensor (or a node's) certainly has no elements."""
    tensor = value.meta["val"] if isinstance(value, Node) else value
    return any(isinstance(n, int) and n == 0 for n in tensor.shape)


def _replace(graph: Graph, node: Node, shape: list[Any]) -> None:
    """By zeros, where all sizes are known."""
    if not all(isinstance(n, int) for n in shape):
        return
    with graph.inserting_before(node):
        zeros = graph.call_function(aten.full.default, (shape, 0), {"dtype": node.meta["val"].dtype})
    zeros.meta = dict(node.meta)
    node.replace_all_uses_with(zeros)
    graph.erase_node(node)


def _replace_uses(graph: Graph, node: Node) -> None:
    """An input or a constant stays, but nobody reads it."""
    shape = list(node.meta["val"].shape)
    if not node.users or not all(isinstance(n, int) for n in shape):
        return
    with graph.inserting_after(node):
        zeros = graph.call_function(aten.full.default, (shape, 0), {"dtype": node.meta["val"].dtype})
    zeros.meta = dict(node.meta)
    node.replace_all_uses_with(zeros)


def _linear(graph: Graph, node: Node) -> None:
    """A linear of no features is its bias."""
    shape, bias = list(node.meta["val"].shape), node.args[2] if len(node.args) > 2 else None
    if not isinstance(bias, Node):
        _replace(graph, node, shape)
        return
    with graph.inserting_before(node):
        rows = graph.call_function(aten.expand.default, (bias, shape))
    rows.meta = dict(node.meta)
    node.replace_all_uses_with(rows)
    graph.erase_node(node)
