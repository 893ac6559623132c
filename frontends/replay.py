"""Decompositions by replay: what a call became once is written again for every call like it, without running it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate, map_arg

from ullage.graph.fake import traits


@dataclass(frozen=True, slots=True)
class Script:
    """The nodes that a call wrote, those that it read, and those that are its results (a node, or a tree of them)."""

    inputs: tuple[Node, ...]
    written: tuple[Node, ...]
    results: Any

    @property
    def is_whole(self) -> bool:
        """Whether every result was written or read by the call."""
        known = {*self.inputs, *self.written}
        found: list[Node] = []
        map_arg(self.results, found.append)
        return bool(found) and known.issuperset(found)

    def write(self, graph: Graph, inputs: tuple[Node, ...], origin: Mapping[str, Any]) -> Any:
        """Write the nodes again over other inputs; gives the new results."""
        nodes = dict(zip(self.inputs, inputs, strict=True))
        for old in self.written:
            args, kwargs = map_arg(old.args, nodes.__getitem__), map_arg(old.kwargs, nodes.__getitem__)
            new = graph.create_node("call_function", old.target, args, kwargs, name=node_name(graph, old.target))
            new.meta = {**origin, "val": old.meta["val"]}
            nodes[old] = new
        return map_arg(self.results, nodes.__getitem__)


def node_name(graph: Graph, target: Any) -> str | None:
    """The name that a node of this operator begins with; None: as the graph names it."""
    return graph._target_to_str(target._schema.name.split("::")[1]) if isinstance(target, OpOverload) else None


def tensors_in(tree: Any) -> tuple[torch.Tensor, ...]:
    """The tensors in arguments or results, in order."""
    found: list[torch.Tensor] = []

    def collect(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)

    map_aggregate(tree, collect)
    return tuple(found)


def call_key(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable | None:
    """Equal for calls that decompose alike; None if that cannot be told."""
    arguments = traits([*args, *kwargs, *kwargs.values()])
    numbers: dict[int, int] = {}
    same = tuple(numbers.setdefault(id(tensor), len(numbers)) for tensor in tensors_in((args, dict(kwargs))))
    return None if arguments is None else (op, arguments, same)
