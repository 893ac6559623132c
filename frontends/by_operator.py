"""Decomposing operator by operator: each node of an exported graph becomes what its own decomposition records.

`ExportedProgram.run_decompositions` traces the whole model again, twice, to turn mutation into values; a graph without
mutation and with static shapes needs neither. Nodes already carry their values as fake tensors, so operators that stay
are copied, and the others run once on those values under a mode that writes down what they call.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate, map_arg
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ullage.frontends.decompositions import KEPT, operator_decompositions
from ullage.frontends.replay import Script, call_key, node_name, tensors_in
from ullage.graph.fake import traits

aten: Any = torch.ops.aten
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_FRESH = frozenset({*KEPT, aten.batch_norm.default, aten.conv2d.default, aten.matmul.default})
"""Composite operators whose result is never their argument, nor a view of it."""


class NotFunctional(Exception):
    """The graph holds what cannot be decomposed one operator at a time."""


def decompose_by_operator(exported: ExportedProgram) -> Graph:
    """The decomposed graph; raises NotFunctional for mutation, dynamic shapes, control flow and unknown values."""
    values = [node.meta["val"] for node in exported.graph.nodes if "val" in node.meta]
    if any(_varies(leaf) for value in values for leaf in pytree.tree_leaves(value)):
        raise NotFunctional("dynamic shapes")
    mode = next((v.fake_mode for v in values if hasattr(v, "fake_mode")), None)
    if mode is None:
        raise NotFunctional("no fake values")
    return _Decomposer(mode).run(exported.graph)


def _varies(leaf: object) -> bool:
    sizes = leaf.shape if isinstance(leaf, torch.Tensor) else (leaf,)
    return any(isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool) for size in sizes)


class _KeptCalls(TorchFunctionMode):
    """Catches calls of kept composite operators in decompositions, which dispatch would take apart."""

    def __init__(self, record: Callable[..., Any]) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in KEPT:
            return self.record(func, _without_defaults(func, args), dict(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _without_defaults(op: OpOverload, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments as dispatch passes them on: without trailing ones that equal the default."""
    count = len(args)
    while count and op._schema.arguments[count - 1].has_default_value():
        given, default = args[count - 1], op._schema.arguments[count - 1].default_value
        if type(given) is not type(default) or given != default:
            break
        count -= 1
    return args[:count]


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operator that reaches dispatch on."""

    def __init__(self, handle: Callable[..., Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.handle = handle

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self.handle(func, args, dict(kwargs or {}))


@dataclass
class _Decomposer:
    """One graph being written: fake values by node of the old graph, nodes of the new one by fake value."""

    mode: FakeTensorMode
    graph: Graph = field(default_factory=Graph)
    table: Mapping[Any, Callable[..., Any]] = field(default_factory=operator_decompositions)
    values: dict[Node, Any] = field(default_factory=dict)
    nodes: dict[int, tuple[torch.Tensor, Node]] = field(default_factory=dict)
    written: list[Node] = field(default_factory=list)
    scripts: dict[Hashable, Script] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    computing: bool = False
    """Whether what reaches dispatch is a recorded operator's own work."""

    def __post_init__(self) -> None:
        self.functions, self.calls = _KeptCalls(self._record), _Calls(self._dispatched)

    def run(self, graph: Graph) -> Graph:
        """Write the new graph, node by node."""
        with torch.no_grad(), self.mode, enable_python_dispatcher():
            for node in graph.nodes:
                self.origin = node.meta
                self._node(node)
        self.graph.eliminate_dead_code()
        return self.graph

    def _node(self, node: Node) -> None:
        if node.op == "placeholder":
            new = self.graph.placeholder(str(node.target))
            new.name, new.meta = node.name, dict(node.meta)
            self._bind(node.meta.get("val"), new)
            self.values[node] = node.meta.get("val")
        elif node.op == "output":
            self.graph.output(self._nodes_of(self._arguments(node.args[0])))
        elif node.op == "call_function":
            self.values[node] = self._call(node)
        else:
            raise NotFunctional(f"{node.op} {node.target}")

    def _call(self, node: Node) -> Any:
        args, kwargs = self._arguments(node.args), self._arguments(node.kwargs)
        if node.target is operator.getitem:
            return args[0][args[1]]
        if not isinstance(node.target, OpOverload):
            raise NotFunctional(str(node.target))
        op = self._functional(node, node.target)
        if op is node.target and self._stays(op):
            return self._write(op, args, kwargs, node.meta["val"])
        if op is aten.dropout.default and not args[2]:
            return args[0]
        key = call_key(op, args, kwargs) if op is node.target else None
        value = self._again(self.scripts[key], (args, kwargs), node.meta["val"]) if key in self.scripts else None
        if value is not None:
            return value
        count = len(self.written)
        value = self._dispatched(op, args, kwargs)
        if key is not None:
            self._note(key, (args, kwargs), tuple(self.written[count:]), value)
        if op is not node.target and value.dtype != node.meta["val"].dtype:
            raise NotFunctional(f"mutation by {node.target} into another dtype")
        return value

    def _note(self, key: Hashable, arguments: Any, written: tuple[Node, ...], value: Any) -> None:
        """Remember what a call became, if it made all of its results from its arguments alone."""
        inputs = tensors_in(arguments)
        if all(id(tensor) in self.nodes for tensor in (*inputs, *tensors_in(value))):
            script = Script(tuple(map(self._node_of, inputs)), written, self._nodes_of(value))
            if script.is_whole:
                self.scripts[key] = script

    def _again(self, script: Script, arguments: Any, value: Any) -> Any:
        """What an equal call became, written again, for a result of this value; None if the value does not fit."""
        made = tensors_in(value)
        old = list[Node]()
        map_arg(script.results, old.append)
        like = [traits(node.meta["val"]) for node in old] == [traits(tensor) for tensor in made]
        if not like or any(id(tensor) in self.nodes for tensor in made):
            return None
        inputs = tuple(map(self._node_of, tensors_in(arguments)))
        new = list[Node]()
        map_arg(script.write(self.graph, inputs, self.origin), new.append)
        for tensor, node in zip(made, new, strict=True):
            self._bind(tensor, node)
        return value

    def _functional(self, node: Node, op: OpOverload) -> OpOverload:
        """The operator, or for one in place on a fresh value that nothing else reads the one that gives a new value."""
        if not op._schema.is_mutable:
            return op
        name = op._schema.name.split("::")[1]
        packet = getattr(aten, name.removesuffix("_"), None) if op.namespace == "aten" else None
        twin = getattr(packet, op._overloadname, None)
        target = node.args[0]
        inert = twin is aten.dropout.default and not node.args[2]
        if twin is None or not isinstance(target, Node) or not (inert or self._is_fresh(target)):
            raise NotFunctional(f"mutation by {op}")
        return twin  # type: ignore[no-any-return]

    def _is_fresh(self, node: Node) -> bool:
        op = node.target
        if len(node.users) != 1 or not isinstance(op, OpOverload):
            return False
        aliases = any(result.alias_info is not None for result in op._schema.returns)
        return op in _FRESH or not (aliases or is_composite(op))

    def _stays(self, op: OpOverload) -> bool:
        return op in KEPT or (op not in self.table and not is_composite(op))

    @contextmanager
    def _recording(self) -> Iterator[None]:
        with self.calls, self.functions:
            yield

    def _dispatched(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operator gives: by its decomposition if it has one, else as a node."""
        if self.computing:
            return op(*args, **kwargs)
        if self._stays(op):
            return self._record(op, args, kwargs)
        python = self.table.get(op) or op.py_kernels.get(_COMPOSITE)
        with self._recording() if python else self.calls:
            result = (python or op.decompose)(*args, **kwargs)
        return self._record(op, args, kwargs) if result is NotImplemented else result

    def _record(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if op._schema.is_mutable:
            raise NotFunctional(f"mutation by {op}")
        self.computing = True
        try:
            value = op(*args, **kwargs)
        finally:
            self.computing = False
        return self._write(op, args, kwargs, value)

    def _write(self, op: OpOverload, args: Any, kwargs: Any, value: Any) -> Any:
        """Add the node of a call whose value is known."""
        arguments = self._nodes_of(args), self._nodes_of(kwargs)
        node = self.graph.create_node("call_function", op, *arguments, name=node_name(self.graph, op))
        self.written.append(node)
        node.meta = {**self.origin, "val": value}
        if isinstance(value, tuple | list):
            for index, part in enumerate(value):
                self._part(node, index, part)
        else:
            self._bind(value, node)
        return value

    def _part(self, node: Node, index: int, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            part = self.graph.call_function(operator.getitem, (node, index))
            self.written.append(part)
            part.meta = {**self.origin, "val": value}
            self._bind(value, part)

    def _bind(self, value: Any, node: Node) -> None:
        if isinstance(value, torch.Tensor):
            self.nodes.setdefault(id(value), (value, node))

    def _arguments(self, tree: Any) -> Any:
        return map_arg(tree, self.values.__getitem__)

    def _nodes_of(self, tree: Any) -> Any:
        return map_aggregate(tree, self._node_of)

    def _node_of(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self.nodes:
            raise NotFunctional("a tensor that no operator made")
        return self.nodes[id(value)][1]


def is_composite(op: OpOverload) -> bool:
    """Whether an operator is defined by calls of others."""
    name = str(op.name())  # type: ignore[no-untyped-call]
    kernels = torch._C._dispatch_has_kernel_for_dispatch_key
    return _COMPOSITE in op.py_kernels or (torch._C._dispatch_has_kernel(name) and kernels(name, _COMPOSITE.name))
