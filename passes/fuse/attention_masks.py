"""Masks of attention: brought to [batch, heads, queries, keys] and combined in the order in which they apply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ullage.graph.regroup import groups
from ullage.passes.clean.sizes import reshape_to
from ullage.passes.edit import Editor, is_one, same_size, shape_of, value_of
from ullage.passes.fuse.attention_scores import Mask, Scores, Size

aten = torch.ops.aten


def four_batch(batch: Sequence[Size]) -> tuple[Size, Size]:
    """Batch and heads of attention over any number of batch dimensions: the last one is the heads."""
    if len(batch) < 2:
        return (batch[0] if batch else 1, 1)
    return (math.prod(batch[:-1]), batch[-1])


def can_regroup(mask: Mask, batch: Sequence[Size]) -> bool:
    """Whether `to_four` can bring the mask to the four dimensions of attention over `batch`."""
    same = len(mask.batch) == len(batch) and all(map(same_size, mask.batch, batch))
    static = all(isinstance(n, int) and n > 0 for n in (*mask.batch, *batch))
    return static or (same and len(batch) <= 2)


def to_four(edit: Editor, mask: Mask, batch: Sequence[Size]) -> Node:
    """The mask with four dimensions that broadcast to [batch, heads, queries, keys]."""
    shape = shape_of(mask.node)
    padded = [*([1] * (len(mask.batch) + 2 - len(shape))), *shape]
    own, matrix = padded[:-2], padded[-2:]
    if len(mask.batch) == 2 and len(batch) == 2:
        return _reshaped(edit, mask.node, [*own, *matrix])
    if len(mask.batch) < 2 and len(batch) < 2:
        return _reshaped(edit, mask.node, [*(own or [1]), 1, *matrix])
    return _regrouped(edit, mask, own, matrix, four_batch(batch))


def _regrouped(edit: Editor, mask: Mask, own: list[Any], matrix: list[Any], four: tuple[Any, Any]) -> Node:
    """Groups of batch dimensions that merge are expanded first, unless the mask does not depend on any of them."""
    wide: list[Any] = []
    target: list[Any] = []
    sizes: tuple[Any, ...] = mask.batch
    for old, new in groups(sizes, four):
        mine = own[len(wide) : len(wide) + len(old)]
        is_free = all(map(is_one, mine))
        is_whole = len(old) == len(new) == 1
        wide.extend(mine if is_free or is_whole else old)
        target.extend([1] * len(new) if is_free else mine if is_whole else new)
    aligned = _reshaped(edit, mask.node, [*own, *matrix])
    if wide != own:
        aligned = edit.call(aten.expand.default, aligned, [*wide, *matrix])
    return _reshaped(edit, aligned, [*target, *matrix])


def _reshaped(edit: Editor, node: Node, shape: list[Any]) -> Node:
    return node if list(shape_of(node)) == shape else reshape_to(edit, node, shape)


def combined_mask(edit: Editor, scores: Scores, dtype: torch.dtype) -> Node | None:
    """One mask that does what all of them do: boolean if each only excludes with -inf, else added to the scores."""
    if not scores.masks:
        return None
    four = [_upright(edit, mask, to_four(edit, mask, scores.batch)) for mask in scores.masks]
    if all(mask.fill == -math.inf for mask in scores.masks):
        return _conjunction(edit, four)
    total: Node | None = None
    for mask, node in zip(scores.masks, four, strict=True):
        total = _applied(edit, total, mask, node, dtype)
    return total


def _upright(edit: Editor, mask: Mask, node: Node) -> Node:
    return edit.call(aten.logical_not.default, node) if mask.is_inverted else node


def _conjunction(edit: Editor, nodes: list[Node]) -> Node:
    total = nodes[0]
    for node in nodes[1:]:
        total = edit.call(aten.logical_and.default, total, node)
    return total


def _applied(edit: Editor, total: Node | None, mask: Mask, node: Node, dtype: torch.dtype) -> Node:
    if mask.fill is not None:
        nothing = total if total is not None else edit.call(aten.full.default, [], 0.0, dtype=dtype)
        fill = edit.call(aten.full.default, [], mask.fill, dtype=dtype)
        return edit.call(aten.where.self, node, nothing, fill)
    added = node if value_of(node).dtype == dtype else edit.call(aten._to_copy.default, node, dtype=dtype)
    if mask.factor != 1.0:
        added = edit.call(aten.mul.Tensor, added, mask.factor)
    return added if total is None else edit.call(aten.add.Tensor, total, added)
