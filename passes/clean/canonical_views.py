"""One spelling for views: reshape, permute, expand, slice (with a step of at least 1), cat."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.rules import Match, RuleTable, use
from ullage.passes.clean.sizes import LONG_MAX, can_reshape, dims_of, expand_sizes, reshape_to
from ullage.passes.edit import Editor, args_of, argument, same_shape, shape_of, value_of

aten = torch.ops.aten


def to_reshape(edit: Editor, node: Node) -> Match | None:
    """Any view that keeps the order of elements is a reshape to the shape that it has."""
    source, given = args_of(node)[0], args_of(node)[1] if node.target in _SIZED else ()
    shape = shape_of(node)
    if _is_spelled(node, shape) or not can_reshape(edit, shape_of(source), shape, given):
        return None
    return Match("spell as reshape", lambda: reshape_to(edit, source, shape, given))


def _is_spelled(node: Node, shape: Sequence[Any]) -> bool:
    if node.target is not aten.reshape.default:
        return False
    sizes = args_of(node)[1]
    symbolic = sum(not isinstance(n, int) for n in shape)
    if symbolic > 1:
        return all(isinstance(s, Node) if not isinstance(n, int) else s == n for s, n in zip(sizes, shape, strict=True))
    return list(sizes) == [n if isinstance(n, int) else -1 for n in shape]


def transpose(edit: Editor, node: Node) -> Match:
    """`t`, `transpose`, `movedim` … as a permute."""
    order = list(range(len(shape_of(node))))
    first, second = dims_of((argument(node, "dim0"), argument(node, "dim1")), len(order))
    order[first], order[second] = order[second], order[first]
    return Match("spell as permute", lambda: edit.call(aten.permute.default, args_of(node)[0], order))


def matrix_transpose(edit: Editor, node: Node) -> Match:
    """`t` swaps the two dimensions of a matrix and leaves a vector alone."""
    order = list(reversed(range(len(shape_of(node)))))
    return Match("spell as permute", lambda: edit.call(aten.permute.default, args_of(node)[0], order))


def permute(edit: Editor, node: Node) -> Match | None:
    """Dimensions of a permute counted from the front."""
    source, given = args_of(node)[:2]
    order = list(dims_of(given, len(shape_of(node))))
    if order == list(given):
        return None
    return Match("count dimensions from the front", lambda: edit.call(aten.permute.default, source, order))


def expand(edit: Editor, node: Node) -> Match | None:
    """Expand with explicit sizes; -1 only where a symbolic dimension is kept; gone where nothing changes."""
    source, given = args_of(node)[:2]
    if same_shape(source, node):
        return use("remove an expand to the same shape", source)
    sizes = expand_sizes(edit, shape_of(source), shape_of(node), given)
    if sizes is None or sizes == list(given):
        return None
    return Match("spell the sizes of expand", lambda: edit.call(aten.expand.default, source, sizes))


def slice_(edit: Editor, node: Node) -> Match | None:
    """Slices with all five arguments, bounds inside the static size; gone where they take everything."""
    source, rank = args_of(node)[0], len(shape_of(node))
    dim = dims_of(argument(node, "dim", 0), rank)[0]
    size = shape_of(source)[dim]
    step = argument(node, "step", 1)
    start, stop = _bounds(argument(node, "start"), argument(node, "end"), size)
    if step == 1 and start == 0 and same_shape(source, node):
        return use("remove a slice of everything", source)
    args = (dim, start, stop, step)
    if tuple(args_of(node)[1:]) == args:
        return None
    return Match("spell the bounds of slice", lambda: edit.call(aten.slice.Tensor, source, *args))


def _bounds(start: Any, stop: Any, size: int | torch.SymInt) -> tuple[Any, Any]:
    start, stop = 0 if start is None else start, LONG_MAX if stop is None else stop
    if not isinstance(size, int):
        return start, stop
    low, high = (_clamp(b, size) if isinstance(b, int) else b for b in (start, stop))
    return low, high


def _clamp(bound: int, size: int) -> int:
    return max(0, min(size, bound + size if bound < 0 else bound))


def select(edit: Editor, node: Node) -> Match | None:
    """A select is a slice of one and a reshape that drops the dimension."""
    source, index = args_of(node)[0], argument(node, "index")
    dim = dims_of(argument(node, "dim"), len(shape_of(source)))[0]
    if not isinstance(index, int) or not can_reshape(edit, shape_of(source), shape_of(node)):
        return None

    def build() -> Node:
        stop = LONG_MAX if index == -1 else index + 1
        return reshape_to(edit, edit.call(aten.slice.Tensor, source, dim, index, stop, 1), shape_of(node))

    return Match("spell select as slice and reshape", build)


def narrow(edit: Editor, node: Node) -> Match | None:
    """`narrow` is a slice."""
    source, start, length = args_of(node)[0], argument(node, "start"), argument(node, "length")
    if not (isinstance(start, int) and isinstance(length, int)) or start < 0:
        return None
    args = (source, argument(node, "dim"), start, start + length, 1)
    return Match("spell narrow as slice", lambda: edit.call(aten.slice.Tensor, *args))


def piece(edit: Editor, node: Node) -> Match | None:
    """One result of a split, chunk or unbind as a slice (and a reshape for unbind)."""
    parent, index = args_of(node)
    if not isinstance(parent, Node) or parent.target not in _SPLITS:
        return None
    source, shape = args_of(parent)[0], shape_of(node)
    dim = dims_of(argument(parent, "dim", 0), len(shape_of(source)))[0]
    if parent.target is aten.unbind.int:
        return Match("spell unbind as select", lambda: edit.call(aten.select.int, source, dim, index))
    lengths = [value.shape[dim] for value in value_of(parent)][: index + 1]
    if not all(isinstance(n, int) for n in lengths):
        return None
    start = sum(lengths[:-1])
    args = (source, dim, start, start + shape[dim], 1)
    return Match("spell a piece of a split as slice", lambda: edit.call(aten.slice.Tensor, *args))


_SPLITS = frozenset({
    aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int, aten.split.sizes,
    aten.unsafe_split.Tensor, aten.unsafe_chunk.default, aten.unsafe_split_with_sizes.default,
})  # fmt: skip


def stack(edit: Editor, node: Node) -> Match | None:
    """A stack is a cat of reshaped parts."""
    parts: Sequence[Node] = args_of(node)[0]
    dim = dims_of(argument(node, "dim", 0), len(shape_of(node)))[0]
    shape = list(shape_of(parts[0]))
    shape.insert(dim, 1)
    if not can_reshape(edit, shape_of(parts[0]), shape):
        return None

    def build() -> Node:
        return edit.call(aten.cat.default, [reshape_to(edit, part, shape) for part in parts], dim)

    return Match("spell stack as cat", build)


def cat(edit: Editor, node: Node) -> Match | None:
    """A cat without empty parts, its dimension counted from the front; one part alone is itself."""
    parts = [part for part in args_of(node)[0] if shape_of(part) != (0,)]
    given = argument(node, "dim", 0)
    dim = dims_of(given, len(shape_of(node)))[0]
    kept = [part for part in parts if shape_of(part)[dim] != 0]
    if len(kept) == 1 and value_of(kept[0]).dtype == value_of(node).dtype:
        return use("remove a cat of one part", kept[0])
    if not kept or (kept == list(args_of(node)[0]) and tuple(args_of(node)[1:]) == (dim,)):
        return None
    return Match("spell cat", lambda: edit.call(aten.cat.default, kept, dim))


def repeat(edit: Editor, node: Node) -> Match | None:
    """A static repeat is an expand between two reshapes (one where every repeated dimension has size 1)."""
    source, counts = args_of(node)[0], argument(node, "repeats")
    shape = [1] * (len(counts) - len(shape_of(source))) + list(shape_of(source))
    if not all(isinstance(n, int) for n in (*counts, *shape)) or 0 in (*counts, *shape):
        return None
    split = [size for count, n in zip(counts, shape, strict=True) for size in (1, n)]
    wide = [size for count, n in zip(counts, shape, strict=True) for size in (count, n)]

    def build() -> Node:
        apart = edit.call(aten.reshape.default, source, split)
        repeated = edit.call(aten.expand.default, apart, wide)
        return edit.call(aten.reshape.default, repeated, list(shape_of(node)))

    return Match("spell repeat as expand", build)


def identity(edit: Editor, node: Node) -> Match | None:
    """Operators that only concern layout, aliasing or gradients return their operand."""
    return use("remove an operator without effect on values", args_of(node)[0])


def dropout(edit: Editor, node: Node) -> Match | None:
    """Dropout outside training, or with probability 0, does nothing."""
    if argument(node, "train") and argument(node, "p") != 0:
        return None
    return use("remove dropout", args_of(node)[0])


_SIZED = (aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default)
_RESHAPES = (
    *_SIZED, aten.unsqueeze.default, aten.squeeze.dim,
    aten.squeeze.dims, aten.squeeze.default, aten.flatten.using_ints, aten.unflatten.int, aten.view_as.default,
    aten.ravel.default,
)  # fmt: skip
_IDENTITIES = (
    aten.clone.default, aten.contiguous.default, aten.detach.default, aten.alias.default, aten.lift_fresh.default,
    aten.lift_fresh_copy.default, aten.positive.default, aten.resolve_conj.default, aten.resolve_neg.default,
)  # fmt: skip

VIEWS: RuleTable = {
    **{target: (to_reshape,) for target in _RESHAPES},
    **{target: (identity,) for target in _IDENTITIES},
    aten.transpose.int: (transpose,),
    aten.t.default: (matrix_transpose,),
    aten.permute.default: (permute,),
    aten.expand.default: (expand,),
    aten.slice.Tensor: (slice_,),
    aten.select.int: (select,),
    aten.narrow.default: (narrow,),
    aten.stack.default: (stack,),
    aten.cat.default: (cat,),
    aten.repeat.default: (repeat,),
    aten.dropout.default: (dropout,),
    operator.getitem: (piece,),
}
