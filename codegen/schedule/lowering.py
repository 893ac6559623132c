"""Lowering of one group, for real and as a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.fx import Node

from ullage.codegen.emit import Spec
from ullage.codegen.lower.builder import Builder, Lowering, Resolver
from ullage.codegen.lower.geometry import Surround
from ullage.codegen.lower.operands import (
    AttentionOperands,
    ConvolutionOperands,
    LinearOperands,
    Operands,
    ProductOperands,
)
from ullage.codegen.lower.region import Output, lower_loops
from ullage.codegen.lower.table import TABLE, node_of
from ullage.codegen.lower.templates import ATTENTION, CONVOLUTIONS, LINEARS, anchor_of, lower_template
from ullage.codegen.lower.values import NotFusable, View
from ullage.codegen.lower.views import lower_view, root, view_source
from ullage.codegen.schedule.memory import plain_view
from ullage.codegen.schedule.weights import Weights


def lower_group(
    nodes: Sequence[Node], outputs: Sequence[Output], operands: Operands | None, resolve: Resolver,
    dim_max: Mapping[str, int],
) -> tuple[Spec, Builder]:  # fmt: skip
    """The specification of a group's kernel: a template if there are operands for one, else loops."""
    builder = Builder(nodes, resolve, _lowering, dim_max)
    if operands is None:
        return lower_loops(builder, nodes, outputs), builder
    return lower_template(builder, anchor_of(nodes), outputs, operands), builder


def _lowering(node: Node) -> Lowering:
    return lower_view if view_source(node) is not None else TABLE.find(node)


def outside(nodes: Sequence[Node], resolve: Resolver) -> Resolver:
    """Memory of what a group reads; views of its own members have none, they are read through their index maps."""
    members = frozenset(nodes)
    return lambda node: None if root(node) in members else resolve(node)


@dataclass(frozen=True)
class TrialLowering:
    """The test of legality for fusion: lowers with every outside value taken as row-major."""

    weights: Weights
    dim_max: Mapping[str, int]

    def __call__(self, nodes: Sequence[Node], outputs: Sequence[Node], kind: str) -> None:
        """Lower and throw away; raises NotFusable if the nodes do not make one kernel."""
        operands = self._operands(_fed_from_outside(nodes), nodes) if kind == "template" else None
        lower_group(nodes, [(n, plain_view(n)) for n in outputs], operands, _plain_or_view, self.dim_max)

    def _operands(self, anchor: Node, nodes: Sequence[Node]) -> Operands:
        first, second = source_of(anchor, nodes), node_of(anchor.args[1])
        x = plain_view(first)
        if anchor.target in LINEARS:
            return LinearOperands(x, self.weights.linear(anchor) or plain_view(second))
        if anchor.target in CONVOLUTIONS:
            return ConvolutionOperands(x, self.weights.convolution(anchor))
        if anchor.target is ATTENTION:
            return AttentionOperands(x, plain_view(second), plain_view(node_of(anchor.args[2])), None)
        return ProductOperands(x, plain_view(second))


def source_of(anchor: Node, nodes: Sequence[Node]) -> Node:
    """The first operand of a group's anchor; that of its padding, if the group has taken that in."""
    around = Surround.of(anchor) if anchor.target in CONVOLUTIONS else None
    return around.source if around is not None and around.node in nodes else node_of(anchor.args[0])


def _fed_from_outside(nodes: Sequence[Node]) -> Node:
    """The anchor; NotFusable if it would read a tensor that its own epilogue computes (epilogues see one element)."""
    anchor = anchor_of(nodes)
    if any(root(source) in nodes for source in (source_of(anchor, nodes), node_of(anchor.args[1]))):
        raise NotFusable("a template's operand must be in memory")
    return anchor


def _plain_or_view(node: Node) -> View | None:
    return None if view_source(node) is not None else plain_view(node)
