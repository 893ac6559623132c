"""What a legal graph is: a table of rules, checked after capture and after every pass in tests."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch.fx import Node

from ullage.errors import UllageError
from ullage.graph.captured import CapturedModel, TensorSpec
from ullage.graph.show import show, show_value

aten = torch.ops.aten

_SIZE_FUNCTIONS = frozenset({
    operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg, operator.truediv,
    operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
    torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_not, torch.sym_ite,
})  # fmt: skip
_BY_STRIDES = frozenset({aten.as_strided.default, aten.view.default, aten._unsafe_view.default, aten.clone.default})


class IllegalGraph(UllageError):
    """A graph broke rules of `verify`; the message shows them in place."""


@dataclass(frozen=True)
class NodeRule:
    """`holds` must be true for every node; `message` says what is wrong where it is not."""

    name: str
    holds: Callable[[Node], bool]
    message: str


@dataclass(frozen=True)
class ModelRule:
    """`breaches` yields what is wrong with a model as a whole."""

    name: str
    breaches: Callable[[CapturedModel], Iterator[str]]


def _is_operator(node: Node) -> bool:
    target = node.target
    if node.op != "call_function" or target is operator.getitem or target in _SIZE_FUNCTIONS:
        return True
    return isinstance(target, torch._ops.OpOverload) and target.namespace in ("aten", "ullage")


def _is_functional(node: Node) -> bool:
    return not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable)


def _has_value(node: Node) -> bool:
    return node.op == "output" or node.meta.get("val") is not None


def _is_part_of_several(node: Node) -> bool:
    if node.target is not operator.getitem:
        return True
    source, index = node.args
    value = source.meta.get("val") if isinstance(source, Node) else None
    return isinstance(value, (tuple, list)) and isinstance(index, int) and index < len(value)


NODE_RULES = (
    NodeRule("kind", lambda n: n.op in ("placeholder", "call_function", "output"), "no modules, methods or attributes"),
    NodeRule("value", _has_value, 'meta["val"] is missing'),
    NodeRule("operator", _is_operator, "only aten, ullage and size operators are legal"),
    NodeRule("functional", _is_functional, "an operator must not change its arguments"),
    NodeRule("strides", lambda n: n.target not in _BY_STRIDES, "values have no strides; use reshape, permute, slice"),
    NodeRule("part", _is_part_of_several, "getitem must pick one of several results"),
    NodeRule("known size", lambda n: not n.meta.get("unbacked_bindings"), "the shape depends on values"),
)


def _placeholders(model: CapturedModel) -> Iterator[str]:
    found = [node.name for node in model.module.graph.find_nodes(op="placeholder")]
    wanted = [*model.constants, *model.input_nodes]
    if found != wanted:
        yield f"placeholders must be the constants, then the inputs: wanted {wanted}, found {found}"


def _constants(model: CapturedModel) -> Iterator[str]:
    for node in model.module.graph.find_nodes(op="placeholder"):
        ref = model.constants.get(node.name)
        if ref is not None and (value := node.meta.get("val")) is not None:
            wanted = show_value(torch.empty(ref.shape, dtype=ref.dtype, device="meta"))
            if show_value(value) != wanted:
                yield f"constant {node.name} is {wanted}, its placeholder {show_value(value)}"


def _inputs(model: CapturedModel) -> Iterator[str]:
    nodes = {node.name: node for node in model.module.graph.find_nodes(op="placeholder")}
    for spec, name in zip(model.inputs, model.input_nodes, strict=True):
        found = nodes[name].meta.get("val") if name in nodes else None
        if name in nodes and not _matches(spec, found):
            yield f"input {spec.name} is declared {_text(spec)}, its placeholder {show_value(found)}"
    if len({spec.name for spec in model.inputs}) != len(model.inputs):
        yield "two inputs have one name"
    if sum(leaf is None for leaf in model.input_leaves) != len(model.inputs):
        yield "input_leaves do not have one tensor leaf per input"


def _are_nodes(value: object) -> TypeGuard[tuple[Node, ...]]:
    return isinstance(value, tuple) and all(isinstance(node, Node) for node in value)


def _outputs(model: CapturedModel) -> Iterator[str]:
    (results,) = model.module.graph.output_node().args
    if not _are_nodes(results):
        yield "the output must be a flat tuple of nodes"
        return
    if len(results) != len(model.outputs):
        yield f"{len(model.outputs)} outputs are declared, {len(results)} returned"
    for spec, node in zip(model.outputs, results, strict=False):
        if not _matches(spec, node.meta.get("val")):
            yield f"output {spec.name} is declared {_text(spec)}, returned is {show_value(node.meta.get('val'))}"
    indices = [leaf.tensor_index for leaf in model.output_leaves if leaf.tensor_index is not None]
    if sorted(set(indices)) != list(range(len(results))):
        yield f"output_leaves use the tensors {indices}, returned are {len(results)}"


def _dims(model: CapturedModel) -> Iterator[str]:
    known = {dim.symbol for dim in model.dims}
    for dim in model.dims:
        if not 1 <= dim.minimum <= dim.maximum:
            yield f"dimension {dim.symbol} has the bounds {dim.minimum}..{dim.maximum}"
    for spec in model.inputs:
        for size in spec.shape:
            if not isinstance(size, int) and (unknown := {str(s) for s in size.node.expr.free_symbols} - known):
                yield f"input {spec.name} has sizes without bounds: {', '.join(sorted(unknown))}"


def _matches(spec: TensorSpec, value: object) -> bool:
    return isinstance(value, torch.Tensor) and show_value(value) == _text(spec)


def _text(spec: TensorSpec) -> str:
    return f"{str(spec.dtype).removeprefix('torch.')}[{', '.join(str(n) for n in spec.shape)}]"


MODEL_RULES = (
    ModelRule("placeholders", _placeholders),
    ModelRule("constants", _constants),
    ModelRule("inputs", _inputs),
    ModelRule("outputs", _outputs),
    ModelRule("dims", _dims),
)


def verify(model: CapturedModel) -> None:
    """Check every rule; raises IllegalGraph with all breaches, those of nodes shown in the printed graph."""
    graph = model.module.graph
    graph.lint()
    marks: dict[Node, str] = {}
    for node in graph.nodes:
        broken = [f"{rule.name}: {rule.message}" for rule in NODE_RULES if not rule.holds(node)]
        if broken:
            marks[node] = "; ".join(broken)
    general = [f"{rule.name}: {breach}" for rule in MODEL_RULES for breach in rule.breaches(model)]
    if marks or general:
        summary = [*general, *(f"{node.name}: {text}" for node, text in marks.items())]
        raise IllegalGraph("illegal graph: " + "; ".join(summary) + "\n" + _excerpt(show(model, marks)))


def _excerpt(text: str, around: int = 3) -> str:
    """The marked lines of a printed graph with their neighbours."""
    lines = text.splitlines()
    marked = [i for i, line in enumerate(lines) if line.startswith("    ^ ")]
    kept = sorted({i for m in marked for i in range(max(0, m - around), min(len(lines), m + around))})
    return "\n".join(lines[i] for i in kept)
