"""The calling convention of a schedule: inputs, outputs, where dimensions are read, and which nodes are outputs."""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch.fx import Node

from ullage.codegen.loops.sizes import to_size
from ullage.codegen.lower.shapes import dtype_name, shape_of
from ullage.codegen.lower.table import fake
from ullage.codegen.lower.views import Reshape, view_op, view_source
from ullage.codegen.schedule.facts import ModelFacts
from ullage.errors import UnsupportedOperator
from ullage.plan.plan import TensorInfo
from ullage.plan.steps import Dimension


def input_infos(facts: ModelFacts) -> tuple[TensorInfo, ...]:
    """Name, dtype and shape of each input."""
    return tuple(_info(s.name, n, s.fixed) for s, n in zip(facts.captured.inputs, facts.inputs, strict=True))


def output_infos(facts: ModelFacts) -> tuple[TensorInfo, ...]:
    """Name, dtype and shape of each output."""
    return tuple(_info(s.name, n) for s, n in zip(facts.captured.outputs, facts.leaves, strict=True))


def _info(name: str, node: Node, fixed: bytes | None = None) -> TensorInfo:
    shape = tuple(to_size(n).tokens for n in shape_of(fake(node)))
    return TensorInfo(name, dtype_name(fake(node).dtype), shape, fixed)


def dimensions(facts: ModelFacts) -> tuple[Dimension, ...]:
    """Every named dimension with the input axis that it is read from; raises UnsupportedOperator if there is none."""
    return tuple(Dimension(d.symbol, d.minimum, d.maximum, *_source(facts, d.symbol)) for d in facts.captured.dims)


def _source(facts: ModelFacts, symbol: str) -> tuple[str, int, int]:
    for spec, node in zip(facts.captured.inputs, facts.inputs, strict=True):
        for axis, size in enumerate(fake(node).shape):
            scale = _multiple(size, symbol)
            if scale is not None:
                return spec.name, axis, scale
    raise UnsupportedOperator({f"dimension {symbol}": ["no input axis is a multiple of it"]})


def _multiple(size: int | torch.SymInt, symbol: str) -> int | None:
    """The integer k if the size is k times the symbol."""
    if not isinstance(size, torch.SymInt):
        return None
    factor, rest = size.node.expr.as_coeff_Mul()
    return int(factor) if str(rest) == symbol and factor.is_Integer else None


def boundary_names(facts: ModelFacts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the storages of inputs and of outputs: those of the tensors, marked where a storage in between, a
    constant or, for outputs, an input has the name (`Storage.stands_for`)."""
    captured = facts.captured
    taken = {node.name for node in captured.module.graph.nodes if node.op == "call_function"} | set(captured.constants)
    inputs = tuple(_marked(spec.name, "input", taken) for spec in captured.inputs)
    return inputs, tuple(_marked(spec.name, "output", taken | set(inputs)) for spec in captured.outputs)


def _marked(name: str, kind: str, taken: Set[str]) -> str:
    return f"{name}:{kind}" if name in taken else name


def output_homes(facts: ModelFacts, names: Sequence[str]) -> dict[Node, str]:
    """Nodes whose storage is an output, and its name: leaves behind reshapes alone, the first of equal ones."""
    homes: dict[Node, str] = {}
    for name, leaf in zip(names, facts.leaves, strict=True):
        node = _behind_reshapes(leaf)
        if node.op == "call_function" and view_source(node) is None and node not in homes:
            homes[node] = name
    return homes


def _behind_reshapes(node: Node) -> Node:
    while (source := view_source(node)) is not None and isinstance(view_op(node), Reshape):
        node = source
    return node
