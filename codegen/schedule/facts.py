"""What a captured model says about itself: constants, inputs, output leaves, bounds of dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch.fx import Node

from ullage.codegen.lower.index import IndexMath
from ullage.graph.captured import ORIGIN, CapturedModel


@dataclass(frozen=True)
class ModelFacts:
    """Read-only answers about a captured model."""

    captured: CapturedModel

    @cached_property
    def dim_max(self) -> dict[str, int]:
        """Upper bound of each dimension."""
        return {d.symbol: d.maximum for d in self.captured.dims}

    @cached_property
    def math(self) -> IndexMath:
        """Index arithmetic over the model's dimensions."""
        return IndexMath({}, self.dim_max)

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        """The placeholders of the user's inputs, in order."""
        placeholders = self.captured.module.graph.find_nodes(op="placeholder")
        by_name = {key: n for n in placeholders for key in (n.name, str(n.target))}
        return tuple(by_name[name] for name in self.captured.input_nodes)

    @cached_property
    def leaves(self) -> tuple[Node, ...]:
        """The nodes that the model returns, in order."""
        (output,) = self.captured.module.graph.find_nodes(op="output")
        leaves = output.args[0]
        assert isinstance(leaves, tuple | list)
        return tuple(n for n in leaves if isinstance(n, Node))

    def is_constant(self, node: Node) -> bool:
        """Whether a node is a weight or buffer."""
        return node.op == "placeholder" and node.target in self.captured.constants


def origin(node: Node) -> str:
    """Where in the model a node comes from: its node in an ONNX graph, or the path of its module and its name."""
    if ORIGIN in node.meta.get("custom", {}):
        return str(node.meta["custom"][ORIGIN])
    stack = node.meta.get("nn_module_stack")
    path = list(stack.values())[-1][0] if stack else ""
    return f"{path}.{node.name}" if path else node.name
