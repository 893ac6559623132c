"""Attention: products around a softmax, in their common spellings, become `scaled_dot_product_attention`.

    scores   q @ kᵀ; a factor or divisor on q, k or the scores; any number of additive masks, `where` with a fill value;
             3-d, 4-d and 5-d operands, rows regrouped in between; casts to float32 and back around the softmax
    values   softmax @ v
    heads    repeated key and value heads (unsqueeze, expand, reshape) become `enable_gqa=True`
    masks    all-true and all-zero masks disappear, causal ones become `is_causal=True`

A row that `where(…, -inf)` excludes as a whole gives 0, as attention defines it, and not NaN.
The canonical call is `(q, k, v, mask or None, 0.0, is_causal)` with `scale` as a float and, if needed, `enable_gqa`.
`explain` says why a softmax was left alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ullage.graph.captured import CapturedModel
from ullage.passes.clean.rules import Match, RulePass, RuleTable
from ullage.passes.clean.sizes import reshape_to
from ullage.passes.edit import Editor, args_of, calls, is_call, is_one, same_shape, same_size, shape_of, value_of
from ullage.passes.fuse.attention_calls import CALL_RULES
from ullage.passes.fuse.attention_masks import can_regroup, combined_mask, four_batch
from ullage.passes.fuse.attention_scores import PRODUCTS, Refused, Scores, Size, find_scores, keeps_matrix, peeled

aten = torch.ops.aten


@dataclass(frozen=True)
class Attention(RulePass):
    """Make every attention one operator."""

    name: ClassVar[str] = "attention"

    def table(self) -> RuleTable:
        """Products with a softmax on the left, and existing calls."""
        return {**{product: (recognise,) for product in PRODUCTS}, **CALL_RULES}


@dataclass(frozen=True, slots=True)
class Found:
    """A whole attention: its scores, its values, and the product that makes the result."""

    scores: Scores
    values: Node
    result: Node


def recognise(edit: Editor, node: Node) -> Match | None:
    """`softmax(scores) @ v` as one call."""
    softmax = _softmax_behind(args_of(node)[0])
    found = find(edit, softmax) if softmax is not None else None
    if not isinstance(found, Found) or found.result is not node:
        return None
    return Match("make products around a softmax one attention", lambda: _build(edit, found))


def explain(model: CapturedModel) -> dict[str, str]:
    """For every softmax that is no part of an attention call: its name and the reason."""
    edit = Editor.of(model)
    results = {n.name: find(edit.at(n), n) for n in calls(edit.graph) if is_call(n, aten._softmax.default)}
    return {name: result.reason for name, result in results.items() if isinstance(result, Refused)}


def find(edit: Editor, softmax: Node) -> Found | Refused:
    """The attention around a softmax, or why there is none."""
    scores = find_scores(edit, softmax)
    if isinstance(scores, Refused):
        return scores
    product = _product_after(softmax)
    if isinstance(product, Refused):
        return product
    found = Found(scores, args_of(product)[1], product)
    return _illegal(edit, found) or found


def _illegal(edit: Editor, found: Found) -> Refused | None:
    scores, batch = found.scores, found.scores.batch
    operands = (scores.query, scores.transposed, found.values)
    if len({value_of(tensor).dtype for tensor in (*operands, found.result)}) > 1:
        return Refused("query, key and value have different dtypes")
    if not all(_reaches(tensor, batch) for tensor in operands):
        return Refused("an operand has other batch dimensions than the scores")
    if not all(can_regroup(mask, batch) for mask in scores.masks):
        return Refused("a mask on symbolic batch dimensions would have to be regrouped")
    if len(batch) > 2 and not all(isinstance(n, int) for n in batch):
        return Refused("more than two batch dimensions with symbolic sizes")
    return None


def _reaches(tensor: Node, batch: Sequence[Size]) -> bool:
    """Whether an operand broadcasts to the batch dimensions, or holds as many rows in another grouping."""
    own = shape_of(tensor)[:-2]
    if len(own) == len(batch) and all(is_one(n) or same_size(n, m) for n, m in zip(own, batch, strict=True)):
        return True
    return same_size(math.prod(own), math.prod(batch))


def _softmax_behind(node: Node) -> Node | None:
    while is_call(node, aten._to_copy.default, aten.reshape.default):
        node = args_of(node)[0]
    return node if is_call(node, aten._softmax.default) else None


def _product_after(node: Node) -> Node | Refused:
    while True:
        if len(node.users) != 1:
            return Refused("the probabilities are used elsewhere")
        (user,) = node.users
        if is_call(user, *PRODUCTS):
            return user if args_of(user)[0] is node else Refused("the probabilities are the right operand of a product")
        is_cast = is_call(user, aten._to_copy.default)
        if not is_cast and not (is_call(user, aten.reshape.default) and keeps_matrix(node, user)):
            return Refused(f"{user.target} stands between the softmax and the product with the values")
        node = user


def _build(edit: Editor, found: Found) -> Node:
    scores, batch = peeled(edit, found.scores), found.scores.batch
    key = _transposed(edit, scores.transposed)
    query = _four(edit, scores.query, batch, keep_one_head=False)
    is_shared = _has_one_head(key, batch) and _has_one_head(found.values, batch)
    keys = _four(edit, key, batch, is_shared)
    values = _four(edit, found.values, batch, is_shared)
    mask = combined_mask(edit, scores, value_of(query).dtype)
    options: dict[str, Any] = {"scale": scores.scale, **({"enable_gqa": True} if is_shared else {})}
    target = aten.scaled_dot_product_attention.default
    result = edit.call(target, query, keys, values, mask, 0.0, False, **options)
    shape = shape_of(found.result)
    return result if same_shape(result, found.result) else reshape_to(edit, result, shape)


def _transposed(edit: Editor, node: Node) -> Node:
    """The operand with its last two dimensions swapped; a permute that it came from is composed with that."""
    source, order = args_of(node) if is_call(node, aten.permute.default) else (node, list(range(len(shape_of(node)))))
    swapped = [*order[:-2], order[-1], order[-2]]
    return source if swapped == sorted(order) else edit.call(aten.permute.default, source, swapped)


def _has_one_head(tensor: Node, batch: Sequence[Size]) -> bool:
    shape = shape_of(tensor)
    return len(batch) == 2 and len(shape) == 4 and is_one(shape[1]) and not is_one(batch[1])


def _four(edit: Editor, tensor: Node, batch: Sequence[Size], keep_one_head: bool) -> Node:
    """The operand as [batch, heads, rows, columns]; missing repeats are made, but for one head shared by all."""
    shape = shape_of(tensor)
    if len(shape) == len(batch) + 2:
        wanted = [batch[0], 1] if keep_one_head else list(batch)
        if not all(map(same_size, shape[:-2], wanted)):
            sizes = [n if isinstance(n, int) else -1 for n in (*wanted, *shape[-2:])]
            tensor = edit.call(aten.expand.default, tensor, sizes)
    if len(shape) == 4 and len(batch) == 2:
        return tensor
    return reshape_to(edit, tensor, (*four_batch(batch), *shape[-2:]))
