"""Lowering of running reductions: cumulative sums and products, and linear recurrences with what reads their states.

One outer point walks the steps in order. What is computed from the running values at the same step is computed on the
way, and so are sums over other dimensions, such as Mamba's y[t] = Σ_n C[t, n] · h[t, n] (Gu and Dao 2023): such a
dimension is unrolled, a running value for each of its elements, so that a whole state lives in registers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from torch.fx import Node

from ullage.codegen.loops.ir import Const, Expr, Ref, Scan, ScanOp, Stage, Store, Var
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.formulas import op
from ullage.codegen.lower.index import ONE, constant
from ullage.codegen.lower.reductions import dims_of, finish
from ullage.codegen.lower.shapes import Index, Shape, broadcast_index, reshape_index, shape_of, view_groups
from ullage.codegen.lower.table import TABLE, argument, aten, fake, int_of, operand, result_dtype
from ullage.codegen.lower.values import Lazy, NotFusable, View, cast, compute_dtype
from ullage.codegen.lower.views import Expand, Permute, Reshape, Slice, view_op, view_source
from ullage.graph.operators import CUMMAX, CUMMIN, LAST, LINEAR_SCAN

MAX_STATES = 64
"""Running values of one outer point: more would make long code that keeps little in registers."""
_OPS: dict[object, ScanOp] = {
    aten.cumsum.default: "sum", aten.cumprod.default: "prod", CUMMAX: "max", CUMMIN: "min", LINEAR_SCAN: "linear",
}  # fmt: skip


@TABLE.register("reduce", *_OPS)
def _scan(builder: Builder, node: Node) -> Lazy:
    raise NotFusable(f"{node.target} is lowered together with what reads its values")


@TABLE.register("reduce", LAST)
def _last(builder: Builder, node: Node) -> Lazy:
    source, dim = operand(builder, node.args[0]), int_of(node.args[1])
    dim, end = dim % len(source.shape), builder.math.sub(source.shape[dim], ONE)
    return Lazy(shape_of(fake(node)), result_dtype(node), lambda index: source.at((*index[:dim], end, *index[dim:])))


def scan_node(node: Node) -> bool:
    """Whether a node is a running reduction; a kernel holds at most one."""
    return node.target in _OPS


def lower_scan(builder: Builder, nodes: Sequence[Node], outputs: Sequence[tuple[Node, View]]) -> None:
    """Append the stage of a running reduction and its fellows; raises NotFusable if they do not walk together."""
    scan, *more = [node for node in nodes if scan_node(node)]
    if more:
        raise NotFusable("a kernel has one running reduction")
    along = next((node for node, _ in outputs if node.target is not LAST), scan)
    place = _place(along, nodes, {scan: _dim(scan)})
    if place is None:
        raise NotFusable("a result has no dimension of steps")
    shape = shape_of(fake(along))
    index, loops = builder.reduce_space(shape, (place,))
    walk = _Walk(builder, scan, index[place])
    for node in nodes:
        if node is scan:
            builder.define(node, walk.value())
        elif TABLE.kind(node) == "reduce" and node.target is not LAST:
            builder.define(node, _unrolled_sum(builder, node))
    stores = [_store(builder, builder.value(n), view, shape, index) for n, view in outputs if n.target is not LAST]
    if along is scan:
        builder.value(scan).at(index)
    ends = tuple(store for n, view in outputs if n.target is LAST for store in walk.ends(n, view))
    if loops:
        builder.stages.append(Stage(loops, (*walk.statements, *stores)))
        builder.stages += [Stage((), ends)] if ends else []
    else:
        builder.append((), (*stores, *ends))


def _dim(scan: Node) -> int:
    return int_of(argument(scan, 3 if scan.target is LINEAR_SCAN else 1, "dim")) % fake(scan).dim()


def _store(builder: Builder, value: Lazy, view: View, shape: Shape, index: Index) -> Store:
    if view_groups(value.shape, shape) is None:
        raise NotFusable(f"a running reduction and its fellow differ in size: {shape} and {value.shape}")
    at = reshape_index(builder.math, index, value.shape, shape)
    return builder.store(view, at, value.at(at))


class _Walk:
    """The running values of one outer point: a statement for each element that is asked for."""

    def __init__(self, builder: Builder, node: Node, time: Expr) -> None:
        self.builder, self.node, self.time = builder, node, time
        self.statements: list[Scan] = []
        self.known: dict[Index, Expr] = {}
        self.dtype = compute_dtype(result_dtype(node))
        self.is_linear = node.target is LINEAR_SCAN
        self.dim = _dim(node)

    def value(self) -> Lazy:
        """The running values; they are known at the present step only."""
        return Lazy(shape_of(fake(self.node)), result_dtype(self.node), self._at)

    def ends(self, node: Node, view: View) -> list[Store]:
        """Stores of the last values, all of which this kernel must have."""
        rows = {i for i in self.builder.row_index if isinstance(i, Var)}
        whole = all({i for i in at if isinstance(i, Var)} - {self.time} == rows for at in self.known)
        count = math.prod(constant(n) or 0 for n in (*(self.builder.row_shape or ()), Const(len(self.known))))
        if node.args[0] is not self.node or not whole or count != math.prod(constant(n) or -1 for n in view.shape):
            raise NotFusable("not all last values are known")
        return [
            self.builder.store(view, at[: self.dim] + at[self.dim + 1 :], value) for at, value in self.known.items()
        ]

    def _at(self, index: Index) -> Expr:
        if index[self.dim] != self.time:
            raise NotFusable("a running value is read at another step")
        if index not in self.known:
            self.known[index] = self._stepped(index)
        return self.known[index]

    def _stepped(self, index: Index) -> Expr:
        args, row = self.node.args, index[: self.dim] + index[self.dim + 1 :]
        value = self._part(args[1 if self.is_linear else 0], index)
        factor = self._part(args[0], index) if self.is_linear else None
        initial = self._part(args[2], row) if self.is_linear and args[2] is not None else None
        if not isinstance(self.time, Var):
            return value if factor is None or initial is None else op("add", op("mul", factor, initial), value)
        if len(self.statements) == MAX_STATES:
            raise NotFusable(f"more than {MAX_STATES} running values at one point")
        name = self.builder.fresh("t")
        self.statements.append(Scan(name, _OPS[self.node.target], value, factor, initial))
        return Ref(name, self.dtype)

    def _part(self, argument: object, index: Index) -> Expr:
        source = operand(self.builder, argument)
        return cast(source.at(broadcast_index(index, source.shape)), self.dtype)


def _unrolled_sum(builder: Builder, node: Node) -> Lazy:
    """A sum over few elements as one expression, added up pairwise."""
    if node.target is not aten.sum.dim_IntList:
        raise NotFusable(f"{node.target} of running values")
    source = operand(builder, node.args[0])
    dims = dims_of(argument(node, 1, "dim"), len(source.shape))
    sizes = [constant(source.shape[d]) for d in dims]
    dtype = compute_dtype(result_dtype(node))
    rest = tuple(n for d, n in enumerate(source.shape) if d not in dims)

    def at(row: Index) -> Expr:
        terms = [cast(source.at(_mixed(row, dims, point)), dtype) for point in _points(sizes)]
        while len(terms) > 1:
            pairs = zip(terms[::2], terms[1::2], strict=False)
            terms = [op("add", a, b) for a, b in pairs] + (terms[-1:] if len(terms) % 2 else [])
        return terms[0]

    return finish(node, Lazy(rest, dtype, at), dims, source.shape, lambda x: x)


def _points(sizes: Sequence[int | None]) -> list[Index]:
    """All indices below sizes, row-major."""
    known = [n for n in sizes if n is not None]
    if len(known) < len(sizes) or math.prod(known) > MAX_STATES:
        raise NotFusable(f"a sum over more than {MAX_STATES} running values")
    return [tuple(Const(i) for i in point) for point in product(*map(range, known))]


def _mixed(row: Index, dims: Sequence[int], point: Index) -> Index:
    """The index that is `point` in `dims` and `row` in the rest."""
    rest, inner = iter(row), dict(zip(dims, point, strict=True))
    return tuple(inner[d] if d in inner else next(rest) for d in range(len(row) + len(point)))


# ---- where the steps are ----------------------------------------------------------------------------------------
def _place(node: Node, nodes: Sequence[Node], known: dict[Node, int | None]) -> int | None:
    """The dimension of steps of a node that is computed from the scan; None if there is none."""
    if node not in known:
        is_view = view_source(node) is not None
        sources = node.all_input_nodes if is_view or node in nodes else []
        places = [(s, place) for s in sources if (place := _place(s, nodes, known)) is not None]
        move = _through_view if is_view else _through_operator
        known[node] = move(node, *places[0]) if places else None
    return known[node]


def _through_operator(node: Node, source: Node, dim: int) -> int | None:
    rank = fake(source).dim()
    if TABLE.kind(node) != "reduce":
        return dim + fake(node).dim() - rank
    dims = dims_of(argument(node, 1, "dim"), rank)
    kept = fake(node).dim() == rank
    return None if dim in dims else dim if kept else dim - sum(d < dim for d in dims)


def _through_view(node: Node, source: Node, dim: int) -> int | None:
    match view_op(node):
        case Permute(dims):
            return dims.index(dim)
        case Expand(old, new):
            return dim + len(new) - len(old)
        case Slice(cut, drop=drop):
            return None if cut == dim else dim - (drop and cut < dim)
        case Reshape(old, new):
            groups = view_groups(old, new) or ()
            return next((b[0] for a, b in groups if a == (dim,) and len(b) == 1), None)
