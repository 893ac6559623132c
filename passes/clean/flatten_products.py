"""Products in the form that kernels take: `mm` for matrices, `bmm` with one batch dimension for all others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ullage.passes.clean.rules import Match, RulePass, RuleTable
from ullage.passes.clean.sizes import can_reshape, expand_sizes, reshape_to
from ullage.passes.edit import Editor, args_of, same_size, shape_of

aten = torch.ops.aten


@dataclass(frozen=True)
class FlattenProducts(RulePass):
    """The last pass: what earlier ones see as one `matmul` becomes `mm` or `bmm`."""

    name: ClassVar[str] = "flatten_products"

    def table(self) -> RuleTable:
        """One rule."""
        return {aten.matmul.default: (flatten,)}


def flatten(edit: Editor, node: Node) -> Match | None:
    """`matmul` of at least matrices with its batch dimensions merged into one."""
    left, right = args_of(node)[:2]
    batch, ranks = shape_of(node)[:-2], (len(shape_of(left)), len(shape_of(right)))
    if min(ranks) < 2:
        return None
    if ranks == (2, 2):
        return Match("spell a product of matrices as mm", lambda: edit.call(aten.mm.default, left, right))
    if not all(_can_batch(edit, operand, batch) for operand in (left, right)):
        return None

    def build() -> Node:
        product = edit.call(aten.bmm.default, _batched(edit, left, batch), _batched(edit, right, batch))
        return product if len(batch) == 1 else reshape_to(edit, product, shape_of(node))

    return Match("spell a product as bmm", build)


def _wide(operand: Node, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*batch, *shape_of(operand)[-2:])


def _can_batch(edit: Editor, operand: Node, batch: tuple[Any, ...]) -> bool:
    """Whether missing repeats are of static size, so that an expand can say them."""
    wide = _wide(operand, batch)
    sizes = expand_sizes(edit, shape_of(operand), wide)
    return sizes is not None and can_reshape(edit, wide, _flat(wide))


def _flat(wide: tuple[Any, ...]) -> tuple[Any, ...]:
    return (math.prod(wide[:-2]), *wide[-2:])


def _batched(edit: Editor, operand: Node, batch: tuple[Any, ...]) -> Node:
    wide = _wide(operand, batch)
    if len(shape_of(operand)) != len(wide) or not all(map(same_size, shape_of(operand), wide)):
        operand = edit.call(aten.expand.default, operand, expand_sizes(edit, shape_of(operand), wide))
    return operand if len(batch) == 1 else reshape_to(edit, operand, _flat(wide))
