"""Products in dtypes that no matrix kernel takes (float64 and integers): a multiplication and a sum, one loop kernel.

The terms are never in memory: lowering computes them where they are summed. Integers wrap as they are multiplied and
added, which any order gives alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from ullage.passes.clean.rules import Match, RulePass, RuleTable
from ullage.passes.edit import Editor, args_of, argument, is_tensor, shape_of, value_of
from ullage.passes.split.plain_attention import KERNEL_DTYPES, attention, total_of_products, unsqueezed

aten = torch.ops.aten


@dataclass(frozen=True)
class PlainProducts(RulePass):
    """Rewrite linear, mm, bmm and attention in other dtypes; after `flatten_products`."""

    name: ClassVar[str] = "plain_products"

    def table(self) -> RuleTable:
        """One rule per form."""
        return {
            aten.mm.default: (_rule(_mm),),
            aten.bmm.default: (_rule(_bmm),),
            aten.linear.default: (_rule(_linear),),
            aten.matmul.default: (_rule(_matmul),),
            aten.scaled_dot_product_attention.default: (attention,),
        }


def _rule(build: Callable[[Editor, Node], Node]) -> Callable[[Editor, Node], Match | None]:
    def rule(edit: Editor, node: Node) -> Match | None:
        if value_of(args_of(node)[0]).dtype in KERNEL_DTYPES:
            return None
        return Match("spell a product as a sum", lambda: build(edit, node))

    return rule


def _mm(edit: Editor, node: Node) -> Node:
    left, right = args_of(node)
    return total_of_products(edit, unsqueezed(edit, left, 2), unsqueezed(edit, right, 0), 1)


def _bmm(edit: Editor, node: Node) -> Node:
    left, right = args_of(node)
    return total_of_products(edit, unsqueezed(edit, left, 3), unsqueezed(edit, right, 1), 2)


def _matmul(edit: Editor, node: Node) -> Node:
    left, right = args_of(node)
    if len(shape_of(right)) == 1:
        return total_of_products(edit, left, right, -1)
    if len(shape_of(left)) == 1:
        return total_of_products(edit, unsqueezed(edit, left, -1), right, -2)
    return total_of_products(edit, unsqueezed(edit, left, -1), unsqueezed(edit, right, -3), -2)


def _linear(edit: Editor, node: Node) -> Node:
    x, weight = args_of(node)[:2]
    bias = argument(node, "bias")
    result = total_of_products(edit, unsqueezed(edit, x, -2), weight, -1)
    return edit.call(aten.add.Tensor, result, bias) if is_tensor(bias) else result
