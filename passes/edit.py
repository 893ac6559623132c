"""Editing a captured model: build nodes with their fake values, add constants, replace, and drop what is dead."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from ullage.graph.captured import CapturedModel, graph_module
from ullage.graph.constants import ConstantRef
from ullage.graph.fake import fake_tensor, traits
from ullage.passes.infer import inferred

Target = Any
"""What a call node calls: an ATen overload, or a function on symbolic sizes."""
SMALL_BYTES = 256 * 1024
"""Constants up to this size may be read by a pass to look at their values."""


@dataclass(frozen=True, slots=True)
class Editor:
    """One model under edit; new nodes are inserted before `anchor` and inherit its provenance."""

    model: CapturedModel
    mode: FakeTensorMode
    anchor: Node | None = None
    _results: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    """Fake results of calls by operator and traits of the arguments: equal layers ask for the same ones."""
    _behind: list[Node] = field(default_factory=list, repr=False, compare=False)
    """The node that followed the last constant when one was added."""

    @staticmethod
    def of(model: CapturedModel) -> Editor:
        """An editor that shares the fake mode (and so the symbols) of the model's values."""
        return Editor(model, fake_mode_of(model))

    @property
    def graph(self) -> Graph:
        """The graph under edit."""
        return self.model.module.graph

    def at(self, anchor: Node) -> Editor:
        """The same editor, inserting before `anchor`."""
        return Editor(self.model, self.mode, anchor, self._results, self._behind)

    def call(self, target: Target, *args: Any, **kwargs: Any) -> Node:
        """A new call node with its fake value; raises what the operator raises for illegal arguments."""
        value = self.infer(target, args, kwargs)
        with self.graph.inserting_before(self.anchor):
            node: Node = self.graph.call_function(target, args, kwargs)
        node.meta = _provenance(self.anchor)
        node.meta["val"] = value
        return node

    def infer(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The fake result of a call whose arguments may hold nodes.

        Composite operators need the Python dispatcher for symbolic sizes (torch 2.11 fails in `linear` without).
        """
        own, named = map_arg(args, value_of), map_arg(kwargs, value_of)
        key = traits([*own, *named, *named.values()])
        if key is not None and (target, key) in self._results:
            return self._results[target, key]
        result = inferred(self.mode, target, own, named) if key is not None else None
        if result is None:
            with self.mode, enable_python_dispatcher(), torch.no_grad():
                result = target(*own, **named)
        if key is not None:
            self._results[target, key] = result
        return result

    def constant(self, node: object) -> ConstantRef | None:
        """The reference behind a constant placeholder, None for anything else."""
        return self.model.constants.get(node.name) if isinstance(node, Node) and node.op == "placeholder" else None

    def small_value(self, node: object, limit_bytes: int = SMALL_BYTES) -> torch.Tensor | None:
        """The values of a constant of at most `limit_bytes`, None for anything else."""
        ref = self.constant(node)
        return ref.read() if ref is not None and ref.nbytes <= limit_bytes else None

    def add_constant(self, ref: ConstantRef) -> Node:
        """A placeholder for a new constant, behind the last one; its name is made unique."""
        with self.graph.inserting_before(self._behind_constants()):
            node = self.graph.create_node("placeholder", ref.name, name=ref.name)
        node.target = node.name
        node.meta["val"] = fake_tensor(self.mode, ref.shape, ref.dtype)
        self.model.constants[node.name] = ref
        return node

    def _behind_constants(self) -> Node:
        if not (self._behind and self._follows_constants(self._behind[0])):
            nodes: Iterable[Node] = self.graph.nodes
            self._behind[:] = [next(node for node in nodes if not self._is_constant(node))]
        return self._behind[0]

    def _follows_constants(self, node: Node) -> bool:
        return not node._erased and self._is_constant(node.prev) and not self._is_constant(node)

    def _is_constant(self, node: Node) -> bool:
        return node.op == "placeholder" and node.name in self.model.constants

    def has_dead(self) -> bool:
        """Whether `remove_dead` would erase anything."""
        return any(_is_dead(node, self.model) for node in self.graph.nodes)

    def remove_dead(self) -> list[str]:
        """Erase calls without users (assertions too) and constants that nobody reads; returns the erased names."""
        erased = []
        for node in reversed(list(self.graph.nodes)):
            if _is_dead(node, self.model):
                erased.append(node.name)
                self.model.constants.pop(node.name, None)
                self.graph.erase_node(node)
        return erased


def value_of(node: Node) -> Any:
    """The fake value of a node: a fake tensor, a (symbolic) number, or a tuple of them."""
    return node.meta["val"]


def args_of(node: Node) -> tuple[Any, ...]:
    """The positional arguments of a call, untyped: their types follow from the operator's schema."""
    return node.args


def target_of(node: Node) -> Target:
    """What a call calls, untyped."""
    return node.target


def shape_of(node: Node) -> tuple[int | torch.SymInt, ...]:
    """The shape of a tensor node."""
    return tuple(value_of(node).shape)


def static_shape(node: Node) -> tuple[int, ...] | None:
    """The shape of a tensor node, None if a dimension is symbolic."""
    shape = shape_of(node)
    return tuple(int(n) for n in shape) if all(isinstance(n, int) for n in shape) else None


def is_tensor(node: object) -> TypeGuard[Node]:
    """Whether the argument is a node that holds one tensor."""
    return isinstance(node, Node) and isinstance(node.meta.get("val"), torch.Tensor)


def is_call(node: object, *targets: Target) -> TypeGuard[Node]:
    """Whether the argument is a call of one of the targets."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


_UNTAGGED = frozenset({
    torch.ops.aten._to_copy.default, torch.ops.aten.hardswish.default, torch.ops.aten.hardsigmoid.default,
})  # fmt: skip


def is_elementwise(node: object) -> bool:
    """Whether a node is a call whose elements depend on the matching elements of its operands only."""
    if not isinstance(node, Node) or node.op != "call_function":
        return False
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or node.target in _UNTAGGED


def argument(node: Node, name: str, default: Any = None) -> Any:
    """An argument of an ATen call by its schema name, wherever it was passed; `default` where it was not."""
    if name in node.kwargs:
        return node.kwargs[name]
    schema = node.target._schema  # type: ignore[union-attr]
    for position, parameter in enumerate(schema.arguments):
        if parameter.name == name:
            return node.args[position] if position < len(node.args) else _default(parameter, default)
    raise KeyError(f"{node.target} has no argument {name}")


def _default(parameter: Any, default: Any) -> Any:
    return parameter.default_value if parameter.has_default_value() and default is None else default


def same_size(a: int | torch.SymInt, b: int | torch.SymInt) -> bool:
    """Whether two sizes are known to be equal, without adding a guard."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    left = a.node.expr if isinstance(a, torch.SymInt) else a
    right = b.node.expr if isinstance(b, torch.SymInt) else b
    return bool(left - right == 0)


def is_one(size: int | torch.SymInt) -> bool:
    """Whether a size is 1 for every shape; asking a symbolic size directly would add a guard."""
    return isinstance(size, int) and size == 1


def same_shape(a: Node, b: Node) -> bool:
    """Whether two tensor nodes are known to have equal shapes."""
    left, right = shape_of(a), shape_of(b)
    return len(left) == len(right) and all(map(same_size, left, right))


def calls(graph: Graph) -> Iterator[Node]:
    """The call nodes in order, safe against edits while iterating."""
    return iter([node for node in graph.nodes if node.op == "call_function"])


def fake_mode_of(model: CapturedModel) -> FakeTensorMode:
    """The fake mode of the first fake value in the graph; a fresh one if there is none."""
    for node in model.module.graph.nodes:
        for leaf in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(leaf, FakeTensor):
                return leaf.fake_mode
    return FakeTensorMode()


def copy_model(model: CapturedModel) -> CapturedModel:
    """A model with its own graph and constant table, sharing fake values and sources; node names are kept."""
    graph = Graph()
    mapping: dict[Node, Node] = {}
    for node in model.module.graph.nodes:
        mapping[node] = graph.node_copy(node, lambda n: mapping[n])
    return replace(model, module=graph_module(graph), constants=dict(model.constants))


def _provenance(anchor: Node | None) -> dict[str, Any]:
    return {key: value for key, value in anchor.meta.items() if key != "val"} if anchor is not None else {}


def _is_dead(node: Node, model: CapturedModel) -> bool:
    if node.users:
        return False
    if node.op == "placeholder":
        return node.name in model.constants
    return node.op == "call_function" and not _mutates(node)


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable
