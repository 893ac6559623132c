"""An ONNX graph as a PyTorch module: its forward walks the nodes and calls torch, so that tracing captures it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.traceback import annotate
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from ullage.errors import CaptureError, UllageError, UnsupportedOperator
from ullage.frontends.onnx.narrow import MOVES, Narrow, NarrowType, narrow_type
from ullage.frontends.onnx.operators import load_operators
from ullage.frontends.onnx.read import external_source, torch_dtype
from ullage.frontends.onnx.table import STANDARD, Call, Operator, Result, find
from ullage.frontends.onnx.values import KNOWN_ELEMENTS, Known, NotAhead, Value, tensor_of, within_limit
from ullage.frontends.unmaterialised import fake_state
from ullage.graph.captured import ORIGIN
from ullage.graph.sources import FileSlice

_RANDOM = frozenset({
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout",
})  # fmt: skip
"""Operators that are never computed ahead."""


NEWEST_OPSET = 28
"""Of the standard: newer ones may change what operators mean."""
_UNROLLED = 1 << 15
"""The most nodes that loops are unrolled to, beyond those that the model has."""


class OnnxModule(nn.Module):
    """The main graph of a model; initializers are buffers named `weights_0`, …, small ones are known values as well.

    `fixed` are values of inputs that are known while the graph is walked, whatever is passed for them.
    """

    def __init__(self, model: ir.Model) -> None:
        super().__init__()
        load_operators()
        self.model = model
        self.versions = {_domain(domain): version for domain, version in model.graph.opset_imports.items()}
        self.buffer_names: dict[ir.Value, str] = {}
        self.constants: dict[ir.Value, Known] = {}
        self.sources: dict[str, FileSlice] = {}
        self.inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
        opset = self.versions.get(STANDARD, 1)
        if opset > NEWEST_OPSET:
            raise CaptureError(f"the model is of operator set {opset}; the newest known is {NEWEST_OPSET}.")
        _refuse_unknown(model, self.versions)
        for graph in model.graphs():
            for name, value in graph.initializers.items():
                self._add(str(name), value)
                value.const_value = None
        fake_state(self, {name: source.dtype for name, source in self.sources.items()})
        self.fixed: dict[str, Known] = {}
        self.most_calls = sum(1 for _ in model.graph.all_nodes()) + _UNROLLED
        self.calls = 0
        self.parameter_names = [f"input_{i}" for i in range(len(self.inputs))]
        self.forward = self._with_signature()

    def _with_signature(self) -> Callable[..., tuple[Any, ...]]:
        """The forward with one named parameter for each input, by which tracing tells dynamic dimensions."""

        def forward(*inputs: Any) -> tuple[Any, ...]:
            return self.outputs(*inputs)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in self.parameter_names]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return forward

    def _add(self, name: str, value: ir.Value) -> None:
        """A buffer for an initializer: large ones in files of their own stay there, and are fake here."""
        stored = value.const_value
        if stored is None:
            raise CaptureError(f"initializer {name!r} has no values.")
        buffer = self.buffer_names[value] = f"weights_{len(self.buffer_names)}"
        kind = narrow_type(stored.dtype)
        if kind is not None:
            self.register_buffer(buffer, torch.from_numpy(kind.codes_of(_values(stored, name)).copy()))
            return
        dtype = torch_dtype(stored.dtype, f"initializer {name!r}")
        if isinstance(stored, ir.ExternalTensor) and stored.size > KNOWN_ELEMENTS:
            self.sources[buffer] = external_source(stored, dtype)
            self.register_buffer(buffer, torch.empty(self.sources[buffer].shape, dtype=dtype, device="meta"))
            return
        array = _values(stored, name)
        tensor = tensor_of(array, dtype)
        self.register_buffer(buffer, tensor)
        if stored.size <= KNOWN_ELEMENTS and dtype != torch.bfloat16:
            self.constants[value] = Known(np.array(array), dtype, tensor)

    def outputs(self, *inputs: Any) -> tuple[Any, ...]:
        """The graph's outputs, in order: tensors, lists of them for sequences, None for empty optional values."""
        self.calls = 0
        given = {v.name: input_value(v, x) for v, x in zip(self.inputs, inputs, strict=True)}
        results = self._walk(self.model.graph, {**given, **self.fixed})
        return tuple(_public(value) for value in results)

    def output_names(self, structure: pytree.TreeSpec) -> list[str]:
        """Names of all leaves of the outputs."""
        values = pytree.tree_unflatten(range(structure.num_leaves), structure)
        return leaf_names([str(value.name) for value in self.model.graph.outputs], values)

    def _walk(self, graph: ir.Graph, values: Mapping[Any, Any]) -> list[Any]:
        """The values of a graph's outputs; `values` are those of its inputs and of all around it."""
        scope: dict[Any, Any] = dict(values)
        for name, initializer in graph.initializers.items():
            scope[name] = self._initializer(initializer)
        for node in graph:
            results = self._node(node, scope)
            scope.update((value.name, found) for value, found in zip(node.outputs, results, strict=False) if value.name)
        return [scope[value.name] for value in graph.outputs]

    def _initializer(self, value: ir.Value) -> Value:
        buffer: torch.Tensor = getattr(self, self.buffer_names[value])
        kind = narrow_type(value.dtype)
        if kind is not None:
            return Narrow(buffer, kind)
        constant = self.constants.get(value)
        return buffer if constant is None else Known(constant.array, constant.dtype, buffer)

    def _node(self, node: ir.Node, scope: Mapping[Any, Any]) -> Sequence[Any]:
        self.calls += 1
        if self.calls > self.most_calls:
            raise CaptureError(f"the loops of the model are too long: they are unrolled to at most {_UNROLLED} nodes.")
        inputs = tuple(None if value is None or not value.name else scope[value.name] for value in node.inputs)

        def run(graph: ir.Graph, arguments: Sequence[Any]) -> list[Any]:
            names = [value.name for value in graph.inputs]
            return self._walk(graph, {**scope, **dict(zip(names, arguments, strict=True))})

        version = self.versions.get(_domain(node.domain), 1)
        found = find(_domain(node.domain), node.op_type, version)
        assert found is not None, "unknown operators are refused when the module is made"
        return _called(found, Call(node, version, inputs, run))


def _values(stored: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(stored.numpy())
    except Exception as error:
        raise CaptureError(f"the values of initializer {name!r} cannot be read: {_first_line(error)}") from error


def input_value(declared: ir.Value, given: Any) -> Any:
    """What is given for an input of the graph, as its type says."""
    kind = narrow_type(declared.dtype)
    return given if kind is None or not isinstance(given, torch.Tensor) else Narrow(given, kind)


def _domain(name: str) -> str:
    return STANDARD if name == "ai.onnx" else name


def _called(operator: Operator, call: Call) -> Sequence[Any]:
    """The results of a call, of which every attribute and input has been looked at."""
    try:
        with annotate({ORIGIN: call.place()}):
            results = _results(operator, call)
        call.check(operator.ignores)
    except UllageError:
        raise
    except Exception as error:
        raise call.error(f"{type(error).__name__}: {_first_line(error)}") from error
    return results


def _results(operator: Operator, call: Call) -> list[Any]:
    """What depends on known values only is computed here and now, and is known as well."""
    if call.node.op_type in MOVES and isinstance(call.given[0], Narrow):
        return _moved(operator, call, call.given[0].kind)
    ahead = all(value is None or isinstance(value, Known) for value in call.given) and _is_plain(call)
    try:
        if ahead and operator.host is not None:
            with _disable_current_modes():
                return _sequence(operator.host(call))
        if ahead and not any(isinstance(value, Known) and value.symbolic for value in call.given):
            with _disable_current_modes():
                return _computed(operator, _real(call))
    except NotAhead:
        pass
    return _sequence(operator.translate(call))


def _moved(operator: Operator, call: Call, kind: NarrowType) -> list[Any]:
    """Codes of a narrow type are moved as any others."""
    given = tuple(value.codes if isinstance(value, Narrow) and value.kind == kind else value for value in call.given)
    results = _sequence(operator.translate(replace(call, given=given)))
    return [Narrow(result, kind) if isinstance(result, torch.Tensor) else result for result in results]


def _computed(operator: Operator, call: Call) -> list[Any]:
    """The results as values, if they are few: how many is found out with tensors that have shapes only."""
    with FakeTensorMode():
        for result in _sequence(operator.translate(call)):
            if isinstance(result, torch.Tensor):
                within_limit(result.shape)
    return [_known(result) for result in _sequence(operator.translate(call))]


def _is_plain(call: Call) -> bool:
    graphs = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in call.node.attributes.values())
    return bool(call.given) and call.node.op_type not in _RANDOM and not graphs


def _real(call: Call) -> Call:
    """The call with known values that have no tensor, traced ones least of all."""
    return replace(call, given=tuple(Known(v.array, v.dtype) if isinstance(v, Known) else v for v in call.given))


def _known(result: Any) -> Any:
    if not isinstance(result, torch.Tensor):
        return result
    if result.dtype == torch.bfloat16:
        return result
    return Known(result.numpy(), result.dtype)


def _sequence(result: Result) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def _public(value: Any) -> Any:
    """A result as it leaves the model."""
    if isinstance(value, list):
        return [_public(item) for item in value]
    if isinstance(value, Known):
        return value.as_tensor()
    return value.codes if isinstance(value, Narrow) else value


def leaf_names(names: Sequence[str], values: Sequence[Any]) -> list[str]:
    """A name for each tensor and each None of inputs or outputs; items of a sequence are numbered: `name.0`, …"""
    found = []
    for name, value in zip(names, values, strict=True):
        numbered = [f"{name}.{i}" for i in range(len(value))] if isinstance(value, list) else [name]
        found += leaf_names(numbered, value) if isinstance(value, list) else numbered
    return found


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _refuse_unknown(model: ir.Model, versions: Mapping[str, int]) -> None:
    """Raise UnsupportedOperator for all nodes, of subgraphs too, that have no translation."""
    unknown: dict[str, list[str]] = {}
    for node in model.graph.all_nodes():
        domain = _domain(node.domain)
        if find(domain, node.op_type, versions.get(domain, 1)) is None:
            unknown.setdefault(f"{node.domain or 'ai.onnx'}::{node.op_type}", []).append(f"node {node.name!r}")
    if unknown:
        raise UnsupportedOperator(unknown)
