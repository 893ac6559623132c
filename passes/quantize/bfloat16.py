"""Products, attention and tables in bfloat16: half the bytes of weights, and products in half the time.

Operands are rounded to bfloat16; sums, biases and results stay float32, and so does everything between products. In an
attention queries, keys and values are rounded, and the softmax's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ullage.graph.captured import CapturedModel
from ullage.graph.recipes import convert, reshape
from ullage.passes.edit import Editor, argument, calls, is_call, is_tensor, value_of
from ullage.passes.manager import Pass, RewriteLog
from ullage.passes.quantize.widths import (
    filled_input,
    filled_weight,
    fills,
    float_weight,
    is_depthwise,
    waits_for_values,
)

aten = torch.ops.aten
NARROW = torch.bfloat16
_WORD = 2
_VIEWS = (aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int, aten.unsqueeze.default)
_PARTS = (aten.slice.Tensor, aten.select.int, aten.expand.default)
_LINEAR, _CONVOLUTION, _EMBEDDING = aten.linear.default, aten.convolution.default, aten.embedding.default
_ATTENTION = aten.scaled_dot_product_attention.default


@dataclass(frozen=True)
class Bfloat16(Pass):
    """Rounds operands of attention and of products with constant weights, and tables of embeddings, to bfloat16.

    `only` names the nodes to rewrite, separated by spaces; empty: all candidates.
    """

    name = "bfloat16"
    only: str = ""

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """Rewrite the chosen nodes in place."""
        only = frozenset(self.only.split())
        edit = Editor.of(model)
        chosen = [node for node in candidates(model) if not only or node.name in only]
        readers = frozenset(node for node in chosen if is_attention(node))
        for node in chosen:
            if log.allow("keep a table in bfloat16" if is_table(node) else "multiply in bfloat16", node.name):
                _narrow(edit.at(node), node, readers)
        edit.remove_dead()


def _narrow(edit: Editor, node: Node, readers: frozenset[Node]) -> None:
    if is_table(node):
        _narrow_table(edit, node)
    elif is_attention(node):
        _narrow_attention(edit, node, readers)
    else:
        _narrow_product(edit, node)


def is_table(node: Node) -> bool:
    """Whether a candidate is a lookup in a table, and no product."""
    return is_call(node, _EMBEDDING)


def is_attention(node: Node) -> bool:
    """Whether a candidate is an attention."""
    return is_call(node, _ATTENTION)


def candidates(model: CapturedModel) -> Iterator[Node]:
    """Embeddings in constant tables, linears and convolutions with constant weights, and attention, all of float32.

    Products whose sums do not run over pairs of values (`fills`) would be no faster and are left alone, but not
    depthwise convolutions: they wait for memory, which has half as much to deliver.
    """
    edit = Editor.of(model)
    for node in calls(model.module.graph):
        if is_call(node, _EMBEDDING):
            table = edit.constant(node.args[0])
            if table is not None and table.dtype == torch.float32:
                yield node
        elif (is_call(node, _LINEAR, _CONVOLUTION) and _pays(edit, node)) or (is_attention(node) and _is_float32(node)):
            yield node


def _is_float32(node: Node) -> bool:
    return all(is_tensor(x) and value_of(x).dtype == torch.float32 for x in node.args[:3])


def _pays(edit: Editor, node: Node) -> bool:
    ref = float_weight(edit, node)
    if ref is None:
        return False
    if is_depthwise(node, ref.shape):
        return waits_for_values(node, ref.shape)
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
    narrow_weight = convert(ref, NARROW)
    if not is_depthwise(node, ref.shape):
        narrow_weight = filled_weight(narrow_weight, _WORD)
        narrow_x = filled_input(edit, narrow_x, node, ref.shape[1], _WORD)
    rest = (None, *node.args[3:]) if is_call(node, _CONVOLUTION) else ()
    product = edit.call(node.target, narrow_x, edit.add_constant(narrow_weight), *rest)
    result = edit.call(aten._to_copy.default, product, dtype=torch.float32)
    if bias is not None:
        result = edit.call(aten.add.Tensor, result, as_offsets(edit, node, bias))
    node.replace_all_uses_with(result)


def _narrow_attention(edit: Editor, node: Node, readers: frozenset[Node]) -> None:
    def rounded_source(source: Node) -> Node:
        ref = edit.constant(source)
        if ref is not None:
            return edit.add_constant(convert(ref, NARROW))
        return edit.call(aten._to_copy.default, source, dtype=NARROW)

    operands = [behind_views(edit, x, rounded_source, readers) for x in node.args[:3] if isinstance(x, Node)]
    result = edit.call(_ATTENTION, *operands, *node.args[3:], **node.kwargs)
    node.replace_all_uses_with(edit.call(aten._to_copy.default, result, dtype=torch.float32))


def behind_views(
    edit: Editor, x: Node, rewrite: Callable[[Node], Node], readers: frozenset[Node] = frozenset(), zero: float = 0.0
) -> Node:
    """`rewrite` (pointwise) of x, put before the views, zeros around and concatenations between x and what computes it.

    There it can be part of the kernels that compute it. `zero` is what it makes of 0. Views that others read too are
    left alone, but for parts of a value that is read by nothing but `readers`, all of which get a bfloat16 form of it.
    """
    if is_call(x, aten.cat.default) and len(x.users) == 1:
        operands: Any = x.args[0]
        parts = [behind_views(edit, part, rewrite, readers, zero) for part in operands]
        return edit.call(x.target, parts, *x.args[1:])
    if _adds_zeros(x) and len(x.users) == 1:
        inner: Any = x.args[0]
        return edit.call(x.target, behind_views(edit, inner, rewrite, readers, zero), x.args[1], zero)
    alone = is_call(x, *_VIEWS) and len(x.users) == 1
    if not alone and not (is_call(x, *_VIEWS, *_PARTS) and _is_read_by(x.args[0], readers)):
        return rewrite(x)
    source = x.args[0]
    assert isinstance(source, Node)
    return edit.call(x.target, behind_views(edit, source, rewrite, readers, zero), *x.args[1:], **x.kwargs)


def _adds_zeros(node: Node) -> bool:
    return is_call(node, aten.constant_pad_nd.default) and node.args[2:] in ((), (0,))


def _is_read_by(node: object, readers: frozenset[Node]) -> bool:
    """Whether nothing reads a value, through views, but `readers` and conversions to bfloat16."""
    return isinstance(node, Node) and all(
        user in readers
        or (is_call(user, aten._to_copy.default) and user.kwargs == {"dtype": NARROW})
        or (is_call(user, *_VIEWS, *_PARTS) and _is_read_by(user, readers))
        for user in node.users
    )


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
