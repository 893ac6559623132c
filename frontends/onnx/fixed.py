"""Inputs whose values sizes follow from (a shape, axes, a count): known by an example, fixed in what is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import torch

from ullage.errors import CaptureError
from ullage.frontends.onnx.module import OnnxModule
from ullage.frontends.onnx.table import ComputedValue
from ullage.frontends.onnx.values import Known
from ullage.graph.captured import CapturedModel

_MOST_ELEMENTS = 64
"""Inputs of more elements are data, not sizes."""
_OF_SHAPES = frozenset({"Shape", "Size"})


def with_fixed_inputs(
    module: OnnxModule, examples: Mapping[str, torch.Tensor], capture: Callable[[], CapturedModel]
) -> CapturedModel:
    """What `capture` gives; inputs that a size follows from are fixed at their examples' values, and captured again.

    Raises CaptureError if there is no example, or if sizes follow from inputs of many elements.
    """
    while True:
        try:
            captured = capture()
        except ComputedValue as error:
            names = inputs_behind(module, error.value)
            if not names - set(module.fixed) or not all(_may_be_fixed(examples.get(name)) for name in names):
                raise CaptureError(f"{error}{_hint(names, examples)}") from error
            module.fixed |= {name: known_example(examples[name]) for name in names}
            continue
        captured.inputs = tuple(
            replace(spec, fixed=_bytes(examples[spec.name])) if spec.name in module.fixed else spec
            for spec in captured.inputs
        )
        return captured


def _hint(names: set[str], examples: Mapping[str, torch.Tensor]) -> str:
    missing = sorted(names - set(examples))
    return f" Give example values of {', '.join(missing)} to fix them." if missing else ""


def _may_be_fixed(example: torch.Tensor | None) -> bool:
    return example is not None and example.numel() <= _MOST_ELEMENTS


def _bytes(example: torch.Tensor) -> bytes:
    plain = example.detach().cpu().contiguous()
    return (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy().tobytes()


def known_example(example: torch.Tensor) -> Known:
    """The values of an example input."""
    plain = example.detach().cpu().contiguous()
    return Known((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy(), plain.dtype)


def inputs_behind(module: OnnxModule, value: ir.Value | None) -> set[str]:
    """Names of the model's inputs from whose values, not shapes alone, a value is computed."""
    owners = {id(graph): node for node in module.model.graph.all_nodes() for graph in _subgraphs(node)}
    found: set[str] = set()
    seen: set[int] = set()
    waiting: list[Any] = [value]
    while waiting:
        value = waiting.pop()
        if value is None or id(value) in seen:
            continue
        seen.add(id(value))
        if value in module.inputs:
            found.add(str(value.name))
        node = value.producer() or owners.get(id(value.graph))
        if node is not None and node.op_type not in _OF_SHAPES:
            waiting += [*node.inputs, *(result for graph in _subgraphs(node) for result in graph.outputs)]
    return found


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.value
