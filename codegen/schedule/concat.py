"""Concatenation in place: producers write their part of the whole."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from torch.fx import Node

from ullage.codegen.loops.ir import Const, Expr
from ullage.codegen.lower.index import IndexMath
from ullage.codegen.lower.shapes import shape_of
from ullage.codegen.lower.table import argument, fake, int_of, list_of, node_of
from ullage.codegen.lower.values import View
from ullage.codegen.lower.views import Slice
from ullage.codegen.schedule.groups import Group


@dataclass(frozen=True, slots=True)
class Part:
    """Operand `node` of the concatenation `whole`, from `start` on along `dim`."""

    node: Node
    whole: Node
    start: Expr
    dim: int


def parts_of(whole: Node, math: IndexMath) -> tuple[Part, ...]:
    """The operands of a concatenation and where each begins (legacy empty 1-d operands are left out)."""
    rank = fake(whole).dim()
    dim = int_of(argument(whole, 1, "dim", 0)) % rank
    found: list[Part] = []
    start: Expr = Const(0)
    for node in (node_of(t) for t in list_of(whole.args[0])):
        if fake(node).dim() == rank:
            found.append(Part(node, whole, start, dim))
            start = math.add(start, shape_of(fake(node))[dim])
    return tuple(found)


def part_view(part: Part, whole: View) -> View:
    """The part's elements inside the memory of the whole."""
    return Slice(part.dim, part.start, 1, shape_of(fake(part.node))).view(whole)


def parts_in_place(groups: Sequence[Group], homes: Container[Node], math: IndexMath) -> dict[Node, Part]:
    """The computed values that are written straight into a concatenation: those without a home, each into one."""
    computed = {n for g in groups if g.kind in ("template", "loops") for n in g.outputs}
    found: dict[Node, Part] = {}
    for group in groups:
        if group.kind != "concat":
            continue
        for part in parts_of(group.nodes[0], math):
            if part.node in computed and part.node not in homes:
                found.setdefault(part.node, part)
    return found
