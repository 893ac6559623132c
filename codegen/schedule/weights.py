"""Weights of template kernels: packed constants."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from ullage.codegen.lower.geometry import Geometry
from ullage.codegen.lower.operands import Packed
from ullage.codegen.lower.table import int_of, node_of
from ullage.codegen.schedule.constants import ConstantPool
from ullage.codegen.schedule.facts import ModelFacts
from ullage.graph.operators import LINEAR_CODES


@dataclass(frozen=True)
class Weights:
    """Finds the packed form of a weight in the pool."""

    facts: ModelFacts
    pool: ConstantPool

    def linear(self, anchor: Node) -> Packed | None:
        """The panels of a linear's weight [outputs, inputs]; None if it is computed."""
        weight = node_of(anchor.args[1])
        if anchor.target is LINEAR_CODES:
            return self.pool.coded(str(weight.target), str(node_of(anchor.args[2]).target), int_of(anchor.args[3]))
        return self.pool.panels(str(weight.target), 0) if self.facts.is_constant(weight) else None

    def convolution(self, anchor: Node) -> Packed:
        """The packed weight of a convolution, which is a constant."""
        weight = node_of(anchor.args[1])
        geometry = Geometry.of(anchor)
        if geometry.depthwise:
            return self.pool.depthwise(str(weight.target))
        return self.pool.panels(str(weight.target), 1 if geometry.transposed else 0, geometry.groups)
