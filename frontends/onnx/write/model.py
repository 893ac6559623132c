"""A captured graph as an ONNX model: operators by the table, constants as references that are written later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch.fx import Node

from ullage.errors import UnsupportedOperator
from ullage.frontends.onnx.ranges import as_metadata
from ullage.frontends.onnx.write.block import Block, Constants, NameScope, Value
from ullage.frontends.onnx.write.operators import load_forms
from ullage.frontends.onnx.write.sizes import Sizes, symbol_names
from ullage.frontends.onnx.write.table import FORMS, Call
from ullage.frontends.onnx.write.types import form, onnx_type
from ullage.graph.captured import CapturedModel, TensorSpec
from ullage.graph.constants import ConstantRef

OPSET = 23
"""The first with attention and RMS norms; ONNX Runtime runs it from 1.23 on."""
IR_VERSION = 11
"""What came with that operator set."""


@dataclass(frozen=True)
class OnnxModel:
    """A model without its large constants, and those by name: initializers to be written one after another."""

    model: Any
    weights: Mapping[str, ConstantRef]


class Writer:
    """What has been written of a graph: values by node, sizes, constants by reference."""

    def __init__(self, captured: CapturedModel) -> None:
        self.names = NameScope()
        self.block = Block(self.names, Constants(self.names))
        self.values: dict[Node, Any] = {}
        self.weights: dict[Value, ConstantRef] = {}
        self.replaced: dict[Node, Value] = {}
        """Nodes whose value is part of what an earlier node was written as."""
        self._captured = captured
        self._turned: dict[Value, Value] = {}
        self.inputs = {spec.name: self._input(spec) for spec in captured.inputs}
        self._output_names = [self.names.new(spec.name) for spec in captured.outputs]
        self.sizes = Sizes(self.block, captured, self.inputs)
        for spec, value in zip(captured.inputs, self.inputs.values(), strict=True):
            value.shape = self.shape_of(spec.shape)

    def _input(self, spec: TensorSpec) -> Value:
        kind = ir.TensorType(onnx_type(spec.dtype, f"input {spec.name!r}"))
        return ir.Value(name=self.names.new(spec.name), type=kind)

    def shape_of(self, shape: Any) -> ir.Shape:
        """A shape with dimensions by name."""
        return ir.Shape([self.sizes.text(size) for size in shape])

    def constant(self, node: Any) -> ConstantRef | None:
        """The reference of a constant's placeholder."""
        return self._captured.constants.get(node.name) if isinstance(node, Node) else None

    def add(self, ref: ConstantRef) -> Value:
        """An initializer for a constant, to be written later."""
        kind = ir.TensorType(onnx_type(ref.dtype, ref.name))
        value = ir.Value(name=self.names.new(ref.name), type=kind, shape=ir.Shape(ref.shape))
        self.weights[value] = ref
        return value

    def turned(self, matrix: Value) -> Value:
        """A matrix with its dimensions exchanged, once for all that read it."""
        if matrix not in self._turned:
            self._turned[matrix] = self.block.op("Transpose", matrix, perm=[1, 0])
        return self._turned[matrix]

    def write(self) -> OnnxModel:
        """The whole graph."""
        graph = self._captured.module.graph
        _refuse_unknown(graph)
        by_input = dict(zip(self._captured.input_nodes, self.inputs.values(), strict=True))
        for node in graph.nodes:
            if node.op == "placeholder":
                ref = self._captured.constants.get(node.name)
                self.values[node] = self._widened(node, by_input[node.name] if ref is None else self.add(ref))
            elif node.op == "call_function" and not _is_size(node):
                self._call(node)
        return self._model(graph.output_node().args[0])

    def _call(self, node: Node) -> None:
        form_of = FORMS[node.target]
        found = self.values[node] = self.replaced[node] if node in self.replaced else form_of(Call(node, self))
        value = node.meta["val"]
        if isinstance(value, torch.Tensor) and found.type is None:
            found.name = self.names.new(node.name)
            found.type = ir.TensorType(onnx_type(form(value.dtype), node.name))
            found.shape = self.shape_of(value.shape)

    def _widened(self, node: Node, value: Value) -> Value:
        dtype = node.meta["val"].dtype
        return value if form(dtype) == dtype else self.block.cast(value, form(dtype))

    def _model(self, results: Any) -> OnnxModel:
        named = zip(results, self._captured.outputs, self._output_names, strict=True)
        outputs = [self._output(*one) for one in named]
        graph = ir.Graph(
            list(self.inputs.values()), outputs, nodes=self.block.nodes, name="model",
            initializers=self.block.constants.values, opset_imports={"": OPSET, "com.microsoft": 1},
        )  # fmt: skip
        model = ir.Model(graph, ir_version=IR_VERSION, producer_name="ullage", metadata_props=self._ranges())
        RemoveUnusedNodesPass()(model)
        if not any(node.domain for node in graph):
            del graph.opset_imports["com.microsoft"]
        used = {value.name: ref for value, ref in self.weights.items() if value.uses() or value in outputs}
        return OnnxModel(model, used)

    def _output(self, node: Node, spec: TensorSpec, name: str) -> Value:
        """A result under its public name and in its own type."""
        value = self.values[node]
        if form(spec.dtype) != spec.dtype:
            value = self.block.cast(value, spec.dtype)
        elif value.producer() is None or value.name in self._output_names:
            value = self.block.op("Identity", value)
        value.name = name
        value.type, value.shape = ir.TensorType(onnx_type(spec.dtype, name)), self.shape_of(spec.shape)
        return value

    def _ranges(self) -> dict[str, str]:
        """The bounds of dynamic dimensions, by their names."""
        names = symbol_names(self._captured.inputs, self._captured.dims)
        dims = [dim for dim in self._captured.dims if dim.symbol in names]
        return as_metadata({names[dim.symbol]: (dim.minimum, dim.maximum) for dim in dims})


def onnx_model(captured: CapturedModel) -> OnnxModel:
    """The ONNX form of a graph; raises UnsupportedOperator with all operators that have none."""
    load_forms()
    return Writer(captured).write()


def _is_size(node: Node) -> bool:
    """Whether a node computes a size; sizes are written as expressions where they are used."""
    return isinstance(node.meta.get("val"), int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool)


def _refuse_unknown(graph: Any) -> None:
    unknown: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.op == "call_function" and not _is_size(node) and node.target not in FORMS:
            unknown.setdefault(str(node.target), []).append(node.name)
    if unknown:
        raise UnsupportedOperator(unknown, "They have no ONNX form.")
