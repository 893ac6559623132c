"""One spelling for table look-ups: `embedding(table, index)`."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.index_facts import IndexFacts
from ullage.passes.clean.rules import Match, RuleTable
from ullage.passes.edit import Editor, args_of, argument, shape_of, value_of

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
    return fact is not None and fact.offset >= 0 and min(fact.slopes, default=0) >= 0


def embedding(edit: Editor, node: Node) -> Match | None:
    """An embedding without what only matters for its gradient."""
    if len(args_of(node)) == 2 and not node.kwargs:
        return None
    table, index = argument(node, "weight"), argument(node, "indices")
    return Match("spell embedding", lambda: edit.call(aten.embedding.default, table, index))


LOOKUP: RuleTable = {
    aten.index_select.default: (index_select,),
    aten.index.Tensor: (rows,),
    aten.embedding.default: (embedding,),
}
