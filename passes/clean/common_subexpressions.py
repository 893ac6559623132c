"""Common subexpressions: equal calls on equal operands become one, and so do constants known to hold equal bytes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ullage.graph.captured import CapturedModel
from ullage.passes.edit import Editor, args_of
from ullage.passes.manager import Pass, RewriteLog


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Compute once what is computed twice; random draws stay apart."""

    name: ClassVar[str] = "common_subexpressions"

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """One sweep in topological order sees the merged operands, so it finds everything."""
        seen: dict[Hashable, Node] = {}
        for node in list(model.module.graph.nodes):
            key = _key(model, node)
            first = seen.setdefault(key, node) if key is not None else node
            if first is not node and log.allow(f"use {first.name} instead", node.name):
                node.replace_all_uses_with(first)
        Editor.of(model).remove_dead()


def _key(model: CapturedModel, node: Node) -> Hashable | None:
    if node.op == "placeholder":
        ref = model.constants.get(node.name)
        return ("constant", ref.source.key, str(ref.dtype), ref.shape) if ref is not None else None
    if node.op != "call_function" or _is_random(node):
        return None
    return (node.target, _freeze(args_of(node)), _freeze(node.kwargs))


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _freeze(value: Any) -> Hashable:
    if isinstance(value, list | tuple):
        return ("sequence", *map(_freeze, value))
    if isinstance(value, dict):
        return ("mapping", *((key, _freeze(value[key])) for key in sorted(value)))
    if isinstance(value, slice):
        return ("slice", _freeze((value.start, value.stop, value.step)))
    if isinstance(value, float | int | bool):
        return (type(value).__name__, repr(value))
    return value if isinstance(value, Hashable) else repr(value)
