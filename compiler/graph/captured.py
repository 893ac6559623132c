"""A captured model: the Graph IR with its constants by reference and its calling convention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Graph, GraphModule
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.utils import _pytree as pytree

from ullage.graph.constants import ConstantRef

Dimension = int | torch.SymInt
ORIGIN = "ullage.origin"
"""Key of `meta["custom"]` for where in another format's graph a node comes from, as messages name it."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A user input or an output: its public name, dtype and shape (SymInt where dynamic).

    The graph of an input that is `fixed` holds for these values only (bytes, row-major, in the order of the machine).
    """

    name: str
    dtype: torch.dtype
    shape: tuple[Dimension, ...]
    fixed: bytes | None = None


@dataclass(frozen=True, slots=True)
class DimBounds:
    """Bounds of one symbol of the graph (the text of its sympy symbol, such as `s77`), and its name if it has one."""

    symbol: str
    minimum: int
    maximum: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class ConstantOutput:
    """An output leaf that is no tensor (None, int, float, bool, str), or the position of a tensor output."""

    value: object
    tensor_index: int | None = None


class FrozenNone:
    """Marks an input leaf that was frozen as None (None itself marks a tensor leaf)."""

    def __repr__(self) -> str:
        return "FROZEN_NONE"


FROZEN_NONE = FrozenNone()


@dataclass
class CapturedModel:
    """`module.graph` has placeholders: first the constants (keys of `constants`), then the inputs in order.

    Every node carries `meta["val"]` (a fake tensor, int or tuple). `inputs[i].name` is the public name and
    `input_nodes[i]` the placeholder. `output_leaves` describes the flattened output pytree; the graph's output is a
    flat tuple of exactly the tensor leaves. `in_spec` is the pytree of (args, kwargs), whose tensor leaves are the
    inputs in order and whose other leaves (`input_leaves[i]` is None for tensors, `FROZEN_NONE` for None) were frozen
    at capture.
    """

    module: GraphModule
    constants: dict[str, ConstantRef]
    inputs: tuple[TensorSpec, ...]
    input_nodes: tuple[str, ...]
    outputs: tuple[TensorSpec, ...]
    output_leaves: tuple[ConstantOutput, ...]
    in_spec: pytree.TreeSpec
    input_leaves: tuple[object, ...]
    out_spec: pytree.TreeSpec
    dims: tuple[DimBounds, ...]


def graph_module(graph: Graph) -> GraphModule:
    """A module of a graph; its Python code, which conversions never run, is only written when it is called."""
    return _LazyGraphModule(torch.nn.Module(), graph)
