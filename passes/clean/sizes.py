"""Size arguments that hold for every shape: integers, at most one -1, or nodes that give the symbolic sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.edit import Editor, same_size, shape_of

aten = torch.ops.aten
Size = int | torch.SymInt
LONG_MAX = 2**63 - 1


def reshape_to(edit: Editor, source: Node, shape: Sequence[Size], given: Sequence[Any] = ()) -> Node:
    """A reshape of `source` to `shape`; `given` are known size arguments. ValueError where `can_reshape` is False."""
    return edit.call(aten.reshape.default, source, reshape_sizes(edit, source, shape, given))


def reshape_sizes(edit: Editor, source: Node, shape: Sequence[Size], given: Sequence[Any] = ()) -> list[Any]:
    """The size arguments of `reshape_to`: -1 for the only symbolic size, or for the only one without a node."""
    if _count_symbolic(shape) <= 1:
        return [int(n) if isinstance(n, int) else -1 for n in shape]
    sizes = [_size(edit, n, source, _at(given, i)) for i, n in enumerate(shape)]
    if sizes.count(None) > 1:
        raise ValueError(f"more than one size of {tuple(shape)} has no node")
    return [-1 if size is None else size for size in sizes]


def can_reshape(edit: Editor, sources: Sequence[Size], shape: Sequence[Size], given: Sequence[Any] = ()) -> bool:
    """Whether a tensor with the sizes `sources` can be reshaped to `shape` by arguments that hold for every shape."""
    if _count_symbolic(shape) <= 1:
        return True
    missing = [
        n
        for i, n in enumerate(shape)
        if not isinstance(n, int)
        and not _is_usable(_at(given, i), n)
        and find_size(edit, n) is None
        and not any(same_size(own, n) for own in sources)
    ]
    return len(missing) <= 1


def expand_sizes(
    edit: Editor, source: Sequence[Size], shape: Sequence[Size], given: Sequence[Any] = ()
) -> list[Any] | None:
    """Arguments for an expand to `shape`: -1 where a symbolic size is kept, else what was given or a node of that size.

    None if a size has no node.
    """
    offset = len(shape) - len(source)
    sizes: list[Any] = []
    for i, n in enumerate(shape):
        kept = i >= offset and same_size(source[i - offset], n)
        own = _at(given, i) if _is_usable(_at(given, i), n) else None
        sizes.append(int(n) if isinstance(n, int) else -1 if kept else own or find_size(edit, n))
    return None if None in sizes else sizes


def find_size(edit: Editor, size: Size) -> Node | None:
    """A node before the anchor that holds this symbolic size."""
    node: Node
    for node in edit.graph.nodes:
        if node is edit.anchor:
            return None
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) and same_size(value, size):
            return node
    return None


def dims_of(value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Dimensions counted from the front; all of them if none is given."""
    if value is None or (isinstance(value, list | tuple) and not value):
        return tuple(range(rank))
    given = (value,) if isinstance(value, int) else value
    return tuple(d % rank if rank else 0 for d in given)


def _count_symbolic(shape: Sequence[Size]) -> int:
    return sum(not isinstance(n, int) for n in shape)


def _at(given: Sequence[Any], index: int) -> Any:
    return given[index] if index < len(given) else None


def _is_usable(given: Any, size: Size) -> bool:
    return isinstance(given, Node) and same_size(given.meta["val"], size)


def _size(edit: Editor, size: Size, source: Node, given: Any) -> Any:
    if isinstance(size, int):
        return size
    if _is_usable(given, size):
        return given
    known = find_size(edit, size)
    if known is not None:
        return known
    dim = next((d for d, own in enumerate(shape_of(source)) if same_size(own, size)), None)
    return edit.call(aten.sym_size.int, source, dim) if dim is not None else None
