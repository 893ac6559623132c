"""Dynamo's graphs as modules that can be captured: state held, sizes read from tensors, writes given back as results.

Dynamo hands over parameters, buffers, tensors and numbers alike as inputs of a graph. Here each input gets a role:
state is held by the module, sizes of tensors are read from these, other sizes come as the first axis of a tensor
without elements (so that they may vary, too), and what the graph writes to is copied first and returned at the end.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import sympy
import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from ullage.frontends.symbols import Extent, extent_of


@dataclass(frozen=True, slots=True)
class State:
    """A parameter or buffer; Dynamo may call one graph with those of several modules."""

    is_parameter: bool


@dataclass(frozen=True, slots=True)
class Live:
    """A tensor that comes with each call; each dimension is a number or an expression of symbols."""

    shape: tuple[int | sympy.Expr, ...]


@dataclass(frozen=True, slots=True)
class SizeOf:
    """A symbol that is read from a tensor: its `axis`, divided by `scale`."""

    tensor: str
    axis: int
    scale: int
    symbol: sympy.Symbol


@dataclass(frozen=True, slots=True)
class Carried:
    """A size that no tensor has; it comes as the first axis of an empty tensor."""

    symbol: sympy.Symbol


@dataclass(frozen=True, slots=True)
class Fixed:
    """Any other value, fixed when the graph is captured."""


Role = State | Live | SizeOf | Carried | Fixed


@dataclass(frozen=True)
class DynamoGraph:
    """One of Dynamo's graphs with the role of each input by name, and the bounds of its symbols."""

    module: GraphModule
    roles: Mapping[str, Role]
    extents: Mapping[sympy.Symbol, Extent]
    results: tuple[Any, ...] = field(repr=False)

    @staticmethod
    def of(module: GraphModule, example_inputs: Sequence[Any]) -> DynamoGraph:
        """Read what Dynamo says about its graph."""
        nodes = module.graph.find_nodes(op="placeholder")
        tensors = {n.name: _live(n) for n, value in zip(nodes, example_inputs, strict=True) if _is_live(value)}
        roles = {
            n.name: tensors.get(n.name) or _role(n, v, tensors) for n, v in zip(nodes, example_inputs, strict=True)
        }
        symbols = [role.symbol for role in roles.values() if isinstance(role, SizeOf | Carried)]
        sizes = {str(n.meta["example_value"].node.expr): n.meta["example_value"] for n in nodes if _is_symbolic(n)}
        extents = {symbol: extent_of(sizes[str(symbol)]) for symbol in symbols}
        (results,) = module.graph.output_node().args
        return DynamoGraph(module, roles, extents, tuple(results) if isinstance(results, tuple | list) else (results,))

    def inputs(self, moving: frozenset[str]) -> tuple[str, ...]:
        """What a call brings, in order; `moving` names the state that does not stay as it is."""
        return tuple(n for n, role in self.roles.items() if isinstance(role, Live | Carried | Fixed) or n in moving)

    def as_module(
        self, state: Mapping[str, torch.Tensor], moving: frozenset[str], written: Sequence[str]
    ) -> GraphModule:
        """The graph over some state, with only those inputs.

        The new values of `written` inputs follow the graph's tensors as results.
        """
        graph, root = Graph(), copy.copy(self.module)
        for name, value in state.items():
            root.register_buffer(f"held_{name}", value.detach())
        places: dict[Node, Any] = {}
        nodes = {node.name: node for node in self.module.graph.find_nodes(op="placeholder")}
        given = {name: graph.placeholder(name) for name in self.inputs(moving)}
        copies = {name: graph.call_method("clone", (given[name],)) for name in written}
        for name, role in self.roles.items():
            places[nodes[name]] = copies.get(name) or self._place(graph, name, role, given)
        graph.graph_copy(self.module.graph, places)
        kept = [places.get(result, result) for result in self.results if not _is_size(result)]
        graph.output((*kept, *copies.values()))
        return GraphModule(root, graph)

    def _place(self, graph: Graph, name: str, role: Role, given: Mapping[str, Node]) -> Node:
        if isinstance(role, Carried):
            return graph.call_function(torch.ops.aten.sym_size.int, (given[name], 0))
        if name in given:
            return given[name]
        if isinstance(role, State):
            return graph.get_attr(f"held_{name}")
        assert isinstance(role, SizeOf)
        size = graph.call_function(torch.ops.aten.sym_size.int, (given[role.tensor], role.axis))
        return size if role.scale == 1 else graph.call_function(operator.floordiv, (size, role.scale))

    def restored(self, tensors: Iterable[Any], sizes: Mapping[sympy.Symbol, int]) -> tuple[Any, ...]:
        """The graph's results from those that are no sizes."""
        rest, known = iter(tensors), cast("Any", dict(sizes))
        return tuple(int(_expression(r).subs(known)) if _is_size(r) else next(rest) for r in self.results)


def _is_state(value: object) -> bool:
    return isinstance(value, nn.Parameter) or getattr(value, "_dynamo_static_input_type", None) is not None


def _is_live(value: object) -> bool:
    return isinstance(value, torch.Tensor) and not _is_state(value)


def _is_symbolic(node: Node) -> bool:
    value = node.meta.get("example_value")
    return isinstance(value, torch.SymInt) and not value.node.expr.is_number


def _is_size(result: Any) -> bool:
    return isinstance(result, Node) and isinstance(result.meta.get("example_value"), torch.SymInt)


def _expression(result: Node) -> sympy.Expr:
    return result.meta["example_value"].node.expr


def _live(node: Node) -> Live:
    shape = node.meta["example_value"].shape
    return Live(tuple(size if isinstance(size, int) else size.node.expr for size in shape))


def _role(node: Node, value: Any, tensors: Mapping[str, Live]) -> Role:
    if isinstance(value, torch.Tensor):
        return State(isinstance(value, nn.Parameter))
    if not _is_symbolic(node):
        return Fixed()
    symbol: Any = _expression(node)
    found = (
        SizeOf(name, axis, scale, symbol)
        for scales in (False, True)
        for name, tensor in tensors.items()
        for axis, size in enumerate(tensor.shape)
        if (scale := _multiple(size, symbol)) and (scales or scale == 1)
    )
    size = next(found, None)
    if size is not None:
        return size
    varies = isinstance(symbol, sympy.Symbol) and extent_of(node.meta["example_value"]).minimum >= 0
    return Carried(symbol) if varies else Fixed()


def _multiple(size: int | sympy.Expr, symbol: sympy.Expr) -> int:
    """The whole number that a dimension is of a symbol; 0 if it is something else."""
    if isinstance(size, int):
        return 0
    ratio = sympy.simplify(size / symbol)
    return int(ratio) if ratio.is_Integer and ratio > 0 else 0
