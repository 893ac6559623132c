"""Views: compose chains, cancel inverses, and move views over operators where that makes them meet.

chains     reshape of reshape, permute of permute, expand of expand, slice of slice, slice of cat
no-ops     views that change nothing; a permute that only moves dimensions of size 1 is a reshape
cancelled  permute (reshape) of elementwise operators on permuted (reshaped) operands, if nothing remains of it
moved      reshape behind linear and softmax, expand behind elementwise operators and table look-ups
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ullage.passes.clean.rules import Match, RulePass, RuleTable, fits, merge_tables, use
from ullage.passes.clean.sizes import can_reshape, expand_sizes, reshape_to
from ullage.passes.clean.views_moved import MOVED
from ullage.passes.edit import Editor, args_of, is_call, is_one, same_shape, shape_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Views(RulePass):
    """Leave as few views as possible."""

    name: ClassVar[str] = "views"

    def table(self) -> RuleTable:
        """All view rules."""
        return _TABLE


def reshape_chain(edit: Editor, node: Node) -> Match | None:
    """The shape between two reshapes does not matter."""
    inner, sizes = args_of(node)
    if not is_call(inner, aten.reshape.default):
        return None
    source, shape = args_of(inner)[0], shape_of(node)
    if not can_reshape(edit, shape_of(source), shape, sizes):
        return None
    return Match("compose reshapes", lambda: reshape_to(edit, source, shape, sizes))


def same(edit: Editor, node: Node) -> Match | None:
    """A reshape or expand to the shape that the operand has."""
    source = args_of(node)[0]
    return use("remove a view without effect", source) if same_shape(source, node) else None


def permute_chain(edit: Editor, node: Node) -> Match | None:
    """Two permutes are one."""
    inner, outer_order = args_of(node)
    if not is_call(inner, aten.permute.default):
        return None
    source, order = args_of(inner)
    composed = [order[d] for d in outer_order]
    return Match("compose permutes", lambda: edit.call(aten.permute.default, source, composed))


def permute_of_little(edit: Editor, node: Node) -> Match | None:
    """A permute that keeps the order of the dimensions larger than 1 moves no element."""
    source, order = args_of(node)
    if list(order) == sorted(order):
        return use("remove a view without effect", source)
    moved = [d for d in order if not is_one(shape_of(source)[d])]
    if moved != sorted(moved) or not can_reshape(edit, shape_of(source), shape_of(node)):
        return None
    return Match("spell a permute that moves nothing as reshape", lambda: reshape_to(edit, source, shape_of(node)))


def expand_chain(edit: Editor, node: Node) -> Match | None:
    """Two expands are one."""
    inner, given = args_of(node)
    if not is_call(inner, aten.expand.default):
        return None
    source = args_of(inner)[0]
    sizes = expand_sizes(edit, shape_of(source), shape_of(node), given)
    return Match("compose expands", lambda: edit.call(aten.expand.default, source, sizes)) if sizes else None


def slice_chain(edit: Editor, node: Node) -> Match | None:
    """Two static slices along one dimension are one."""
    inner, *outer = args_of(node)
    if not is_call(inner, aten.slice.Tensor) or len(outer) != 4 or len(args_of(inner)) != 5:
        return None
    source, dim, start, _stop, step = args_of(inner)
    static = all(isinstance(v, int) and v >= 0 for v in (*outer, *args_of(inner)[1:]))
    if dim != outer[0] or not static or not isinstance(shape_of(inner)[dim], int):
        return None
    first = start + outer[1] * step
    count = shape_of(node)[dim]
    together = step * outer[3]
    stop = first + max(0, (count - 1) * together + 1)
    return Match("compose slices", lambda: edit.call(aten.slice.Tensor, source, dim, first, stop, together))


def slice_of_cat(edit: Editor, node: Node) -> Match | None:
    """A slice that lies inside one part of a cat reads that part."""
    whole, *rest = args_of(node)
    if not is_call(whole, aten.cat.default) or len(rest) != 4 or not all(isinstance(v, int) for v in rest):
        return None
    dim, start, stop, step = rest
    if args_of(whole)[1:] != (dim,) or start < 0:
        return None
    found = _part_at(whole, dim, start, stop)
    if found is None:
        return None
    part, offset = found
    args = (part, dim, start - offset, stop - offset, step)
    return Match("read a part instead of a cat", lambda: edit.call(aten.slice.Tensor, *args))


def _part_at(whole: Node, dim: int, start: int, stop: int) -> tuple[Node, int] | None:
    offset = 0
    for part in args_of(whole)[0]:
        length = shape_of(part)[dim]
        if not isinstance(length, int):
            return None
        if offset <= start and stop <= offset + length:
            return (part, offset) if part.meta["val"].dtype == whole.meta["val"].dtype else None
        offset += length
    return None


def slice_of_all(edit: Editor, node: Node) -> Match | None:
    """A slice with step 1 that keeps the size keeps everything."""
    source = args_of(node)[0]
    if len(args_of(node)) == 5 and args_of(node)[4] == 1 and fits(node, source) and _is_static(node):
        return use("remove a view without effect", source)
    return None


def _is_static(node: Node) -> bool:
    dim = args_of(node)[1]
    return isinstance(shape_of(node)[dim], int)


def cat_of_slices(edit: Editor, node: Node) -> Match | None:
    """Neighbouring parts that are neighbouring slices of one tensor are one slice."""
    parts, dim = args_of(node)[0], args_of(node)[1] if len(args_of(node)) > 1 else 0
    joined: list[Any] = []
    for part in parts:
        merged = _join(joined[-1], _span(part, dim), dim) if joined else None
        joined[-1:] = [merged] if merged is not None else [*joined[-1:], _span(part, dim)]
    if len(joined) == len(parts):
        return None

    def build() -> Node:
        pieces = [s if isinstance(s, Node) else edit.call(aten.slice.Tensor, s[0], dim, s[1], s[2], 1) for s in joined]
        return edit.call(aten.cat.default, pieces, dim) if len(pieces) > 1 else pieces[0]

    return Match("join neighbouring slices", build)


def _span(part: Node, dim: int) -> Any:
    args = args_of(part)
    is_span = is_call(part, aten.slice.Tensor) and len(args) == 5 and args[1] == dim and args[4] == 1
    is_static = is_span and all(isinstance(v, int) and v >= 0 for v in args[2:4])
    return (args[0], args[2], args[3]) if is_static and isinstance(shape_of(args[0])[dim], int) else part


def _join(left: Any, right: Any, dim: int) -> Any:
    if isinstance(left, Node) or isinstance(right, Node) or left[0] is not right[0] or left[2] != right[1]:
        return None
    return (left[0], left[1], right[2])


CHAINS: RuleTable = {
    aten.reshape.default: (same, reshape_chain),
    aten.permute.default: (permute_chain, permute_of_little),
    aten.expand.default: (same, expand_chain),
    aten.slice.Tensor: (slice_of_all, slice_chain, slice_of_cat),
    aten.cat.default: (cat_of_slices,),
}
_TABLE = merge_tables(CHAINS, MOVED)
