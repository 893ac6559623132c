"""Memory of nodes: the storage, offset and strides that each value has, or shares with another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch.fx import Node

from ullage.codegen.loops.ir import DTYPE_BYTES
from ullage.codegen.loops.sizes import to_size
from ullage.codegen.lower.shapes import Shape, contiguous_strides, dtype_name, numel, ordered_strides, shape_of
from ullage.codegen.lower.table import fake
from ullage.codegen.lower.values import View
from ullage.codegen.lower.views import view_op, view_source
from ullage.codegen.schedule.concat import Part, part_view
from ullage.codegen.schedule.constants import ConstantPool
from ullage.codegen.schedule.facts import ModelFacts
from ullage.codegen.schedule.layout import Layouts
from ullage.plan.steps import Storage


@dataclass
class Memory:
    """The views of nodes; `homes` names the output that a node is written to, `parts` its place in a concatenation."""

    facts: ModelFacts
    pool: ConstantPool
    layouts: Layouts
    homes: Mapping[Node, str]
    parts: Mapping[Node, Part]
    outputs: tuple[str, ...]
    """Names of the storages of outputs, in the model's own order."""
    storages: list[Storage] = field(default_factory=list)
    views: dict[Node, View] = field(default_factory=dict)

    def declare_inputs(self, names: Sequence[str]) -> None:
        """Enter the storages of the user's inputs by these names, row-major."""
        for name, node in zip(names, self.facts.inputs, strict=True):
            self.views[node] = self._enter(name, "input", plain_view(node))

    def resolve(self, node: Node) -> View | None:
        """The memory of a node: realised, or a strided view of something realised; None if elements must move."""
        if node in self.views:
            return self.views[node]
        if self.facts.is_constant(node):
            self.views[node] = self.pool.raw(str(node.target), shape_of(fake(node)))
            return self.views[node]
        source = view_source(node)
        if source is None:
            raise AssertionError(f"{node} is read before it is computed")
        base = self.resolve(source)
        view = view_op(node).view(base) if base is not None else None
        if view is not None:
            self.views[node] = view
        return view

    def realise(self, node: Node) -> View:
        """Allocate the storage of a node that leaves its group (or find its part of a concatenation)."""
        if node in self.homes:
            self.views[node] = self.output(self.homes[node], node)
        elif node in self.parts:
            part = self.parts[node]
            self.views[node] = part_view(part, self.whole(part.whole))
        else:
            self.views[node] = self.scratch(node.name, node, self.layouts.order(node, self.views))
        return self.views[node]

    def whole(self, node: Node) -> View:
        """The memory of a concatenation, allocated when its first part is written."""
        return self.views[node] if node in self.views else self.realise(node)

    def output(self, name: str, node: Node) -> View:
        """A new storage for an output with the node's shape, row-major."""
        return self._enter(name, "output", plain_view(node))

    def scratch(self, name: str, node: Node, order: tuple[int, ...]) -> View:
        """A new temporary storage for the node's elements, its dimensions in `order` from the outermost on."""
        shape, dtype = shape_of(fake(node)), dtype_name(fake(node).dtype)
        return self._enter(name, "temp", View(name, dtype, shape, ordered_strides(shape, order)))

    def _enter(self, name: str, kind: Literal["temp", "input", "output"], view: View) -> View:
        size = to_size(numel(view.shape)) * DTYPE_BYTES[view.dtype]
        self.storages.append(Storage(name, size, kind))
        return View(name, view.dtype, view.shape, view.strides)

    def ordered_storages(self) -> tuple[Storage, ...]:
        """All storages; outputs come last, in the model's own order."""
        order = {name: i for i, name in enumerate(self.outputs, 1)}
        return tuple(sorted(self.storages, key=lambda s: order[s.name] if s.kind == "output" else 0))


def plain_view(node: Node) -> View:
    """A row-major view named after the node."""
    shape: Shape = shape_of(fake(node))
    return View(node.name, dtype_name(fake(node).dtype), shape, contiguous_strides(shape))
