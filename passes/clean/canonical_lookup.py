"""One spelling for table look-ups: `embedding(table, index)`."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.index_facts import Affine, IndexFacts
from ullage.passes.clean.rules import Match, RuleTable
from ullage.passes.clean.sizes import Size, can_reshape, reshape_to
from ullage.passes.edit import Editor, args_of, argument, is_one, same_size, shape_of, value_of

aten = torch.ops.aten


def index_select(edit: Editor, node: Node) -> Match | None:
    """Rows of a matrix by an index, which PyTorch demands to be in range."""
    table, dim, index = args_of(node)
    if len(shape_of(table)) != 2 or dim % 2 != 0 or len(shape_of(index)) != 1:
        return None
    return Match("spell index_select as embedding", lambda: edit.call(aten.embedding.default, table, index))


def rows(edit: Editor, node: Node) -> Match | None:
    """`table[index]` with an index that is known not to count from the end."""
    table, places = args_of(node)
    if len(places) != 1 or len(shape_of(table)) != 2 or not _is_from_front(edit, places[0]):
        return None
    return Match("spell a look-up of rows as embedding", lambda: edit.call(aten.embedding.default, table, places[0]))


def _is_from_front(edit: Editor, index: Any) -> bool:
    if not isinstance(index, Node) or value_of(index).dtype not in (torch.int64, torch.int32):
        return False
    value = edit.small_value(index)
    if value is not None:
        return value.numel() == 0 or int(value.min()) >= 0
    fact = IndexFacts().affine(index)
    return fact is not None and fact.is_from_front


def everything(edit: Editor, node: Node) -> Match | None:
    """A look-up of every element at its own place, spread over more dimensions, is a reshape."""
    source, places = args_of(node)
    target = _dims_of_places(source, places, node)
    if target is None or target != sorted(target) or not can_reshape(edit, shape_of(source), shape_of(node)):
        return None
    kept = [n for d, n in enumerate(shape_of(node)) if d not in target]
    if not all(map(is_one, kept)):
        return None
    return Match("spell a look-up of everything as reshape", lambda: reshape_to(edit, source, shape_of(node)))


def _dims_of_places(source: Node, places: Any, node: Node) -> list[int] | None:
    """Per dimension of the source that is larger than 1: the dimension of the result that runs through it."""
    if len(places) != len(shape_of(source)):
        return None
    facts = IndexFacts()
    pairs = [(size, facts.affine(place)) for size, place in zip(shape_of(source), places, strict=True)]
    if any(fact is None or fact.offset or not fact.is_uniform for size, fact in pairs if is_one(size)):
        return None
    found = [_dim_of_place(size, fact, node) for size, fact in pairs if not is_one(size)]
    return None if None in found else [dim for dim in found if dim is not None]


def _dim_of_place(size: Size, fact: Affine | None, node: Node) -> int | None:
    dim = fact.varies_along() if fact is not None else None
    if fact is None or dim is None:
        return None
    position = dim + len(shape_of(node)) - len(fact.slopes)
    return position if same_size(shape_of(node)[position], size) else None


def embedding(edit: Editor, node: Node) -> Match | None:
    """An embedding without what only matters for its gradient."""
    if len(args_of(node)) == 2 and not node.kwargs:
        return None
    table, index = argument(node, "weight"), argument(node, "indices")
    return Match("spell embedding", lambda: edit.call(aten.embedding.default, table, index))


LOOKUP: RuleTable = {
    aten.index_select.default: (index_select,),
    aten.index.Tensor: (everything, rows),
    aten.embedding.default: (embedding,),
}
