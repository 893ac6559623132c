"""Products and tables in bfloat16: half the bytes of their weights, and products in half the time.

Operands are rounded to bfloat16; sums, biases and results stay float32, and so does everything between products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ullage.graph.captured import CapturedModel
from ullage.graph.recipes import convert, reshape
from ullage.passes.edit import Editor, argument, calls, is_call, value_of
from ullage.passes.manager import Pass, RewriteLog
from ullage.passes.quantize.widths import filled_input, filled_weight, fills, float_weight

aten = torch.ops.aten
NARROW = torch.bfloat16
_WORD = 2
_VIEWS = (aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int, aten.unsqueeze.default)
_LINEAR, _CONVOLUTION, _EMBEDDING = aten.linear.default, aten.convolution.default, aten.embedding.default


@dataclass(frozen=True)
class Bfloat16(Pass):
    """Rounds the operands of products with constant weights, and tables of embeddings, to bfloat16.

    `only` names the nodes to rewrite, separated by spaces; empty: all candidates.
    """

    name = "bfloat16"
    only: str = ""

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """Rewrite the chosen nodes in place."""
        chosen = frozenset(self.only.split())
        edit = Editor.of(model)
        for node in list(candidates(model)):
            if chosen and node.name not in chosen:
                continue
            table = is_table(node)
            if log.allow("keep a table in bfloat16" if table else "multiply in bfloat16", node.name):
                (_narrow_table if table else _narrow_product)(edit.at(node), node)
        edit.remove_dead()


def is_table(node: Node) -> bool:
    """Whether a candidate is a lookup in a table, and no product."""
    return is_call(node, _EMBEDDING)


def candidates(model: CapturedModel) -> Iterator[Node]:
    """Embeddings in constant float32 tables, and float32 linears and convolutions with constant weights.

    Products whose sums do not run over pairs of values (`fills`) would be no faster and are left alone.
    """
    edit = Editor.of(model)
    for node in calls(model.module.graph):
        if is_call(node, _EMBEDDING):
            table = edit.constant(node.args[0])
            if table is not None and table.dtype == torch.float32:
                yield node
        elif is_call(node, _LINEAR, _CONVOLUTION) and _pays(edit, node):
            yield node


def _pays(edit: Editor, node: Node) -> bool:
    ref = float_weight(edit, node)
    if ref is None:
        return False
    inputs = ref.shape[0] if _transposed(node) else ref.shape[1]
    return fills(node, inputs // _groups_of_inputs(node), _WORD)


def _transposed(node: Node) -> bool:
    return is_call(node, _CONVOLUTION) and bool(argument(node, "transposed"))


def _groups_of_inputs(node: Node) -> int:
    """What the weight's input dimension is to be divided by: it counts all groups in transposed convolutions only."""
    return int(argument(node, "groups")) if _transposed(node) else 1


def _narrow_table(edit: Editor, node: Node) -> None:
    ref = edit.constant(node.args[0])
    assert ref is not None
    rows = edit.call(node.target, edit.add_constant(convert(ref, NARROW)), *node.args[1:], **node.kwargs)
    node.replace_all_uses_with(edit.call(aten._to_copy.default, rows, dtype=torch.float32))


def _narrow_product(edit: Editor, node: Node) -> None:
    x, weight, bias = node.args[:3] if len(node.args) > 2 else (*node.args, None)
    ref = edit.constant(weight)
    assert ref is not None and isinstance(x, Node)
    narrow_x = behind_views(edit, x, lambda source: edit.call(aten._to_copy.default, source, dtype=NARROW))
    narrow_weight = edit.add_constant(filled_weight(convert(ref, NARROW), _WORD))
    narrow_x = filled_input(edit, narrow_x, node, ref.shape[1], _WORD)
    rest = (None, *node.args[3:]) if is_call(node, _CONVOLUTION) else ()
    product = edit.call(node.target, narrow_x, narrow_weight, *rest)
    result = edit.call(aten._to_copy.default, product, dtype=torch.float32)
    if bias is not None:
        result = edit.call(aten.add.Tensor, result, as_offsets(edit, node, bias))
    node.replace_all_uses_with(result)


def behind_views(edit: Editor, x: Node, rewrite: Callable[[Node], Node]) -> Node:
    """`rewrite` (pointwise) of x, put before the views that lie between x and what computes it.

    There it can be part of the kernel that computes it. Views that others read too are left alone.
    """
    if not is_call(x, *_VIEWS) or len(x.users) != 1:
        return rewrite(x)
    source = x.args[0]
    assert isinstance(source, Node)
    return edit.call(x.target, behind_views(edit, source, rewrite), *x.args[1:], **x.kwargs)


def as_offsets(edit: Editor, node: Node, bias: object) -> object:
    """The bias in a shape that is added to the result."""
    if is_call(node, _LINEAR):
        return bias
    spatial = (1,) * (value_of(node).dim() - 2)
    ref = edit.constant(bias)
    if ref is None:
        return edit.call(aten.view.default, bias, [-1, *spatial])
    return edit.add_constant(reshape(ref, (*ref.shape, *spatial)))


def rounded(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of a product or lookup with its floating operands (the first two: biases stay) rounded to bfloat16."""
    return (*map(_rounded, args[:2]), *args[2:])


def _rounded(value: Any) -> Any:
    wide = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.to(NARROW).float() if wide else value
