"""Products of a recurrence's states with one vector per step: sums, which the recurrence's kernel takes in.

A matrix product would read from memory all states of all steps, each of which it uses once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from ullage.graph.operators import LINEAR_SCAN
from ullage.passes.clean.rules import Match, RulePass, RuleTable
from ullage.passes.edit import Editor, args_of, is_call, is_one, shape_of
from ullage.passes.fuse.batched import vector_product

aten = torch.ops.aten
_VIEWS = (aten.permute.default, aten.reshape.default, aten.slice.Tensor, aten.expand.default, aten._to_copy.default)


@dataclass(frozen=True)
class StateProducts(RulePass):
    """Spell products of states with vectors as sums."""

    name: ClassVar[str] = "state_products"

    def table(self) -> RuleTable:
        """One rule for products."""
        return {aten.matmul.default: (state_product,)}


def state_product(edit: Editor, node: Node) -> Match | None:
    """A product of states with a column, or of a row with states."""
    left, right = args_of(node)[:2]
    if len(shape_of(left)) < 2 or len(shape_of(right)) < 2:
        return None
    row, column = map(is_one, shape_of(node)[-2:])
    if not (column and _shows_states(left)) and not (row and _shows_states(right)):
        return None
    is_column = column and _shows_states(left)
    return Match(
        "spell a product of states with a vector as a sum", lambda: vector_product(edit, left, right, is_column)
    )


def _shows_states(node: object) -> bool:
    while is_call(node, *_VIEWS):
        node = args_of(node)[0]
    return is_call(node, LINEAR_SCAN)
