"""A graph as stable text, one line per node: `name: dtype[shape] = op(arguments)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph, Node

from ullage.graph.captured import CapturedModel


def show(model: CapturedModel | Graph, notes: Mapping[Node, str] | None = None) -> str:
    """The text of a graph; `notes` appear under their nodes, marked with `^`."""
    graph = model if isinstance(model, Graph) else model.module.graph
    constants = {} if isinstance(model, Graph) else {key: ref.name for key, ref in model.constants.items()}
    lines = []
    for node in graph.nodes:
        lines.append(show_node(node, constants))
        if notes and node in notes:
            lines.append(f"    ^ {notes[node]}")
    return "\n".join(lines) + "\n"


def show_node(node: Node, constants: Mapping[str, str] | None = None) -> str:
    """One node as one line; placeholders that are `constants` (name -> the constant's own name) say so."""
    if node.op == "output":
        return f"return {_argument(node.args[0])}"
    return f"{node.name}: {show_value(node.meta.get('val'))} = {_definition(node, constants or {})}"


def show_value(value: object) -> str:
    """The type of a node's value: `float32[2, s0]`, `int` for sizes, a tuple of those, `?` if unknown."""
    if isinstance(value, torch.Tensor):
        return f"{show_dtype(value.dtype)}[{', '.join(str(n) for n in value.shape)}]"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(show_value(part) for part in value)})"
    if value is None:
        return "?"
    return "int" if isinstance(value, (int, torch.SymInt)) else type(value).__name__


def show_dtype(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def show_op(target: object) -> str:
    """The short name of an operator: `linear`, `add.Tensor`, `ullage.pack`, `getitem`."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removeprefix("aten.").removesuffix(".default")
    return str(getattr(target, "__name__", target))


def _definition(node: Node, constants: Mapping[str, str]) -> str:
    if node.op == "placeholder":
        return f"constant({constants[node.name]})" if node.name in constants else "input"
    arguments = [_argument(a) for a in node.args] + [f"{k}={_argument(v)}" for k, v in node.kwargs.items()]
    return f"{show_op(node.target)}({', '.join(arguments)})"


def _argument(value: Any) -> str:
    if isinstance(value, Node):
        return value.name
    if isinstance(value, torch.dtype):
        return show_dtype(value)
    if isinstance(value, tuple):
        return f"({', '.join(_argument(v) for v in value)})"
    if isinstance(value, list):
        return f"[{', '.join(_argument(v) for v in value)}]"
    return repr(value)
