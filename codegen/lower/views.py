"""View operators: how each moves strides (when memory can be shared) and indices (always)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.fx import Node

from ullage.codegen.loops.ir import Const, Expr
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.index import ONE, ZERO, IndexMath
from ullage.codegen.lower.shapes import Index, Shape, reshape_index, reshape_strides, shape_of
from ullage.codegen.lower.table import GETITEM, TABLE, aten, fake, int_of, result_dtype, scalar
from ullage.codegen.lower.values import Lazy, NotFusable, View

_PLAIN = IndexMath({}, {})


@dataclass(frozen=True, slots=True)
class Reshape:
    """Same elements in row-major order, another shape."""

    old: Shape
    new: Shape

    def view(self, base: View) -> View | None:
        """The shared-memory result, or None if elements must move."""
        strides = reshape_strides(self.old, base.strides, self.new)
        return None if strides is None else base.with_shape(self.new, strides)

    def index(self, math: IndexMath, index: Index) -> Index:
        """The source index of a result index."""
        return reshape_index(math, index, self.old, self.new)


@dataclass(frozen=True, slots=True)
class Permute:
    """Dimension d of the result is dimension `dims[d]` of the source."""

    dims: tuple[int, ...]

    def view(self, base: View) -> View:
        """Always shares memory."""
        return base.with_shape(tuple(base.shape[d] for d in self.dims), tuple(base.strides[d] for d in self.dims))

    def index(self, math: IndexMath, index: Index) -> Index:
        """The source index of a result index."""
        out: list[Expr] = [ZERO] * len(index)
        for position, dim in enumerate(self.dims):
            out[dim] = index[position]
        return tuple(out)


@dataclass(frozen=True, slots=True)
class Expand:
    """Broadcast to `new` (leading dimensions may be added)."""

    old: Shape
    new: Shape

    def view(self, base: View) -> View:
        """Always shares memory (stride 0)."""
        lead = len(self.new) - len(self.old)
        strides = [ZERO] * lead + [
            ZERO if a == ONE and b != ONE else s
            for a, b, s in zip(self.old, self.new[lead:], base.strides, strict=True)
        ]
        return base.with_shape(self.new, tuple(strides))

    def index(self, math: IndexMath, index: Index) -> Index:
        """The source index of a result index."""
        tail = index[len(self.new) - len(self.old) :]
        return tuple(ZERO if n == ONE else i for n, i in zip(self.old, tail, strict=True))


@dataclass(frozen=True, slots=True)
class Slice:
    """Elements `start + i·step` along one dimension; `drop` removes it (select)."""

    dim: int
    start: Expr
    step: int
    new: Shape
    drop: bool = False

    def view(self, base: View) -> View:
        """Always shares memory."""
        offset = _PLAIN.add(base.offset, _PLAIN.mul(self.start, base.strides[self.dim]))
        strides = list(base.strides)
        strides[self.dim] = _PLAIN.mul(strides[self.dim], Const(self.step))
        if self.drop:
            del strides[self.dim]
        return base.with_shape(self.new, tuple(strides), offset)

    def index(self, math: IndexMath, index: Index) -> Index:
        """The source index of a result index."""
        if self.drop:
            return (*index[: self.dim], self.start, *index[self.dim :])
        moved = math.add(self.start, math.mul(index[self.dim], Const(self.step)))
        return (*index[: self.dim], moved, *index[self.dim + 1 :])


ViewOp = Reshape | Permute | Expand | Slice
Reader = Callable[[Node], ViewOp | None]

_RESHAPES = (
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.squeeze.dim,
    aten.squeeze.dims, aten.squeeze.default, aten.flatten.using_ints, aten.unflatten.int, aten._reshape_alias.default,
    aten.view_as.default, aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default,
    aten.pixel_shuffle.default,
)  # fmt: skip


def view_source(node: Node) -> Node | None:
    """The node that a view looks at, or None if the node is no view operator."""
    if node.op != "call_function":
        return None
    if node.target is GETITEM:
        parent = node.args[0]
        return _node(parent.args[0]) if isinstance(parent, Node) and parent.target in _SPLITS else None
    return _node(node.args[0]) if node.target in _VIEWS else None


def root(node: Node) -> Node:
    """The node whose elements a chain of views shows (the node itself if it is no view)."""
    while (source := view_source(node)) is not None:
        node = source
    return node


def view_op(node: Node) -> ViewOp:
    """The view that a node makes of `view_source(node)`."""
    if node.target is GETITEM:
        parent = node.args[0]
        assert isinstance(parent, Node)
        return _SPLITS[parent.target](parent, int_of(node.args[1]), node)
    return _VIEWS[node.target](node)


def _node(value: object) -> Node:
    assert isinstance(value, Node)
    return value


def _source_shape(node: Node) -> Shape:
    return shape_of(fake(_node(node.args[0])))


def _reshape(node: Node) -> ViewOp:
    return Reshape(_source_shape(node), shape_of(fake(node)))


def _permute(node: Node) -> ViewOp:
    rank = len(_source_shape(node))
    dims = node.args[1]
    assert isinstance(dims, Sequence)
    return Permute(tuple(int_of(d) % rank for d in dims))


def _transpose(node: Node) -> ViewOp:
    rank = len(_source_shape(node))
    dims = list(range(rank))
    first, second = (0, 1) if node.target is aten.t.default else (int_of(d) % rank for d in node.args[1:3])
    if rank > 1:
        dims[first], dims[second] = dims[second], dims[first]
    return Permute(tuple(dims))


def _expand(node: Node) -> ViewOp:
    return Expand(_source_shape(node), shape_of(fake(node)))


def _slice(node: Node) -> ViewOp:
    shape = _source_shape(node)
    args = [*node.args[1:], *(0, 0, None, 1)[len(node.args) - 1 :]]
    dim = int_of(args[0] or 0) % len(shape)
    start = _from_end(args[1] if args[1] is not None else 0, shape[dim])
    step = int_of(args[3]) if args[3] is not None else 1
    return Slice(dim, start, step, shape_of(fake(node)))


def _from_end(value: object, size: Expr) -> Expr:
    expr = scalar(value)
    assert expr is not None
    if not isinstance(expr, Const):
        return expr
    number = int(expr.value)
    if number < 0:
        return (
            _PLAIN.add(size, Const(number)) if not isinstance(size, Const) else Const(max(0, int(size.value) + number))
        )
    return Const(min(number, int(size.value))) if isinstance(size, Const) else Const(number)


def _select(node: Node) -> ViewOp:
    shape = _source_shape(node)
    dim = int_of(node.args[1]) % len(shape)
    return Slice(dim, _from_end(node.args[2], shape[dim]), 1, shape_of(fake(node)), drop=True)


def _split_part(parent: Node, part: int, node: Node) -> ViewOp:
    shape = _source_shape(parent)
    dim = int_of(parent.args[2] if len(parent.args) > 2 else parent.kwargs.get("dim", 0)) % len(shape)
    starts: list[Expr] = [ZERO]
    for piece in parent.meta["val"]:
        starts.append(_PLAIN.add(starts[-1], shape_of(piece)[dim]))
    return Slice(dim, starts[part], 1, shape_of(fake(node)))


def _unbind_part(parent: Node, part: int, node: Node) -> ViewOp:
    shape = _source_shape(parent)
    dim = int_of(parent.args[1] if len(parent.args) > 1 else parent.kwargs.get("dim", 0)) % len(shape)
    return Slice(dim, Const(part % len(parent.meta["val"])), 1, shape_of(fake(node)), drop=True)


_VIEWS: dict[object, Callable[[Node], ViewOp]] = {
    **{target: _reshape for target in _RESHAPES if target is not aten.pixel_shuffle.default},
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.t.default: _transpose,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
}
_SPLITS: dict[object, Callable[[Node, int, Node], ViewOp]] = {
    aten.split.Tensor: _split_part,
    aten.split_with_sizes.default: _split_part,
    aten.chunk.default: _split_part,
    aten.unbind.int: _unbind_part,
}


def lower_view(builder: Builder, node: Node) -> Lazy:
    """A view read through its index map."""
    source = view_source(node)
    if source is None:
        raise NotFusable(f"{node} is no view")
    base, view = builder.value(source), view_op(node)
    return Lazy(shape_of(fake(node)), result_dtype(node), lambda index: base.at(view.index(builder.math, index)))


for _target in (*_VIEWS, GETITEM):
    TABLE.register("view", _target)(lower_view)
