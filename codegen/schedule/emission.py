"""From groups to steps, in order: operands are brought into shape, kernels lowered and launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch.fx import Node

from ullage.codegen.loops.ir import DTYPE_BYTES
from ullage.codegen.loops.sizes import to_size
from ullage.codegen.lower.index import ONE, ZERO
from ullage.codegen.lower.operands import (
    AttentionOperands,
    ConvolutionOperands,
    LinearOperands,
    Operands,
    ProductOperands,
    Requirement,
    anything,
    channels_contiguous,
    either_contiguous,
    inner_contiguous,
)
from ullage.codegen.lower.shapes import numel, shape_of
from ullage.codegen.lower.table import argument, fake, node_of
from ullage.codegen.lower.templates import ATTENTION, CONVOLUTIONS, LINEARS
from ullage.codegen.lower.values import NotFusable, View
from ullage.codegen.lower.views import Expand
from ullage.codegen.schedule.concat import part_view, parts_of
from ullage.codegen.schedule.facts import origin
from ullage.codegen.schedule.groups import Group
from ullage.codegen.schedule.layout import channels_last
from ullage.codegen.schedule.lowered import Lowered, Pending
from ullage.codegen.schedule.lowering import lower_group, outside, source_of
from ullage.codegen.schedule.memory import Memory
from ullage.codegen.schedule.weights import Weights
from ullage.errors import UnsupportedOperator
from ullage.plan.steps import Gather, Operand


@dataclass
class Emission:
    """Turns groups into lowered kernels (and gathers) over the memory of their nodes."""

    memory: Memory
    weights: Weights
    steps: list[Pending] = field(default_factory=list)

    def group(self, group: Group) -> None:
        """Append the steps of one group."""
        if group.kind == "gather":
            self._gather(group.nodes[0])
        elif group.kind == "concat":
            self._concat(group.nodes[0])
        else:
            operands = self._operands(group) if group.kind == "template" else None
            outputs = [(node, self.memory.realise(node)) for node in group.outputs]
            self._launch("+".join(n.name for n in group.outputs), group.nodes, outputs, operands)

    def outputs(self) -> None:
        """Copy the outputs that no group wrote in place: inputs, constants, views and repeated leaves."""
        for name, leaf in zip(self.memory.outputs, self.memory.facts.leaves, strict=True):
            view = self.memory.resolve(leaf)
            if view is None or view.storage != name:
                self._copy(leaf, self.memory.output(name, leaf), f"{name}.copy")

    def _launch(
        self, name: str, nodes: Sequence[Node], outputs: Sequence[tuple[Node, View]], operands: Operands | None
    ) -> None:
        resolve = outside(nodes, self.memory.resolve)
        try:
            spec, builder = lower_group(nodes, outputs, operands, resolve, self.memory.facts.dim_max)
        except NotFusable as reason:
            places = [origin(node) for node in nodes]
            raise UnsupportedOperator({f"{nodes[0].target} ({reason})" if nodes else name: places}) from reason
        self.steps.append(Lowered.of(name, spec, builder))

    def _copy(self, node: Node, target: View, name: str) -> None:
        self._launch(name, (), [(node, target)], None)

    def _operand(self, node: Node, requirement: Requirement, order: Sequence[int] | None = None) -> View:
        """The memory of a template's operand; copied (with dimensions in `order`) if it does not meet the need."""
        view = self.memory.resolve(node)
        if view is not None and requirement(view):
            return view
        dims = tuple(order or range(fake(node).dim()))
        copy = self.memory.scratch(f"{node.name}.copy{len(self.memory.storages)}", node, dims)
        self._copy(node, copy, copy.storage)
        if view is None:
            self.memory.views[node] = copy
        return copy

    def _concat(self, node: Node) -> None:
        whole = self.memory.whole(node)
        for number, part in enumerate(parts_of(node, self.memory.facts.math)):
            if self.memory.parts.get(part.node) != part:
                self._copy(part.node, part_view(part, whole), f"{node.name}.part{number}")

    def _gather(self, node: Node) -> None:
        table, ids = node_of(node.args[0]), node_of(node.args[1])
        source = self._operand(ids, self._gathers_by)
        name = self.weights.pool.table(str(table.target))
        out = self.memory.realise(node)
        if not out.contiguous:
            raise AssertionError("a gathered table is always written contiguously")
        self.steps.append(Gather(
            node.name, name, _whole(source, "r"), _ids_dtype(source), _whole(out, "w"), to_size(numel(source.shape)),
        ))  # fmt: skip

    def _gathers_by(self, view: View) -> bool:
        """Indices are read by the runtime, which reads storages only: constant ones are copied first."""
        return view.contiguous and any(view.storage == s.name for s in self.memory.storages)

    def _operands(self, group: Group) -> Operands:
        anchor = group.anchor
        first, second = source_of(anchor, group.nodes), node_of(anchor.args[1])
        if anchor.target in LINEARS:
            x = self._operand(first, inner_contiguous)
            return LinearOperands(x, self.weights.linear(anchor) or self._operand(second, either_contiguous))
        if anchor.target in CONVOLUTIONS:
            x = self._operand(first, channels_contiguous, channels_last(fake(first).dim()))
            return ConvolutionOperands(x, self.weights.convolution(anchor))
        if anchor.target is ATTENTION:
            q, k, v = (self._operand(node_of(a), inner_contiguous) for a in anchor.args[:3])
            return AttentionOperands(q, k, v, self._mask(anchor))
        return ProductOperands(self._operand(first, inner_contiguous), self._operand(second, either_contiguous))

    def _mask(self, anchor: Node) -> View | None:
        """The mask as a view of [batch, heads, queries, keys] (broadcast dimensions have stride 0)."""
        mask = argument(anchor, 3, "attn_mask")
        if not isinstance(mask, Node):
            return None
        view = self._operand(mask, anything)
        q, k = fake(node_of(anchor.args[0])), fake(node_of(anchor.args[1]))
        lead = shape_of(fake(anchor))[:-2] if q.dim() == 4 else (shape_of(q)[0], ONE)
        if q.dim() == 3 and len(view.shape) == 3:
            view = view.with_shape((view.shape[0], ONE, *view.shape[1:]), (view.strides[0], ZERO, *view.strides[1:]))
        return Expand(view.shape, (*lead, shape_of(q)[-2], shape_of(k)[-2])).view(view)


def _whole(view: View, access: Literal["r", "w"]) -> Operand:
    return Operand(view.storage, access, to_size(view.offset) * DTYPE_BYTES[view.dtype])


def _ids_dtype(view: View) -> Literal["int64", "int32"]:
    if view.dtype == "int32":
        return "int32"
    assert view.dtype == "int64", f"rows are indexed by int64 or int32, not {view.dtype}"
    return "int64"
