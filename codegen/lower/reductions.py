"""Lowerings of reductions over dimensions, and what norms and pools share with them."""

from __future__ import annotations

import math as pymath
from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from ullage.codegen.loops.ir import Expr, Loop, ReduceOp
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.formulas import (
    const_like,
    op,
)
from ullage.codegen.lower.index import ONE
from ullage.codegen.lower.shapes import Index, Shape, numel, shape_of
from ullage.codegen.lower.table import (
    TABLE,
    argument,
    aten,
    float_of,
    int_of,
    operand,
    result_dtype,
)
from ullage.codegen.lower.values import Lazy, NotFusable, cast, compute_dtype


def dims_of(value: object, rank: int) -> tuple[int, ...]:
    """Normalised reduction dimensions (None or empty: all)."""
    if value is None or (isinstance(value, Sequence) and not value):
        return tuple(range(rank))
    given = value if isinstance(value, Sequence) else [value]
    return tuple(sorted(int_of(d) % rank for d in given)) if rank else ()


def count(shape: Shape, dims: Sequence[int], dtype: str) -> Expr:
    """The number of reduced elements as a value of `dtype`."""
    return cast(numel(tuple(shape[d] for d in dims)), dtype)


def reduce_dims(
    builder: Builder, source: Lazy, dims: Sequence[int], kind: ReduceOp, dtype: str,
    value: Callable[[Expr], Expr] = lambda x: x,
) -> tuple[Lazy, Index]:  # fmt: skip
    """Reduce over dimensions; the result has the remaining dimensions (row shape), also returns the space index."""
    index, loops = builder.reduce_space(source.shape, dims)
    rows = tuple(n for d, n in enumerate(source.shape) if d not in dims)
    if not loops:
        loops = (Loop(builder.fresh("one"), ONE),)
    ref = builder.reduce(kind, value(source.at(index)), loops, dtype)
    return builder.at_row(rows, ref), index


def finish(node: Node, reduced: Lazy, dims: Sequence[int], shape: Shape, fn: Callable[[Expr], Expr]) -> Lazy:
    """The node's result from a tensor reduced over `dims` of `shape`: dimensions kept if the node keeps them."""
    out = shape_of(first_tensor(node))
    rest = [d for d in range(len(shape)) if d not in dims]
    kept = len(out) == len(shape) and bool(dims)

    def at(index: Index) -> Expr:
        row = tuple(index[d] for d in rest) if kept else tuple(index)
        return cast(fn(reduced.at(row)), compute_dtype(result_dtype(node)))

    return Lazy(out, result_dtype(node), at)


_KINDS: dict[str, ReduceOp] = {
    "sum": "sum", "mean": "sum", "prod": "prod", "amax": "max", "amin": "min", "any": "any", "all": "all",
}  # fmt: skip


@TABLE.register("reduce", aten.sum, aten.mean, aten.prod, aten.amax, aten.amin, aten.any, aten.all)
def _reduce(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dims = dims_of(argument(node, 1, "dim"), len(source.shape))
    name = str(node.target).split(".")[1]
    kind = _KINDS[name]
    result = compute_dtype(result_dtype(node))
    dtype = "bool" if name in ("any", "all") else result
    reduced, _ = reduce_dims(builder, source, dims, kind, dtype, lambda x: cast(x, dtype))
    if name != "mean":
        return finish(node, reduced, dims, source.shape, lambda x: x)
    total = count(source.shape, dims, dtype)
    return finish(node, reduced, dims, source.shape, lambda x: op("div", x, total))


@TABLE.register("reduce", aten.argmax, aten.argmin)
def _arg_extreme(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dims = dims_of(argument(node, 1, "dim"), len(source.shape))
    kind: ReduceOp = "argmax" if node.target == aten.argmax.default else "argmin"
    reduced, _ = reduce_dims(builder, source, dims, kind, "int64", _ordered)
    return finish(node, reduced, dims, source.shape, lambda x: x)


def _ordered(x: Expr) -> Expr:
    """A value that has extremes: booleans as numbers."""
    return cast(x, "int32") if x.dtype == "bool" else x


@TABLE.register("reduce", aten.var, aten.var_mean, aten.std)
def _variance(builder: Builder, node: Node) -> Lazy:
    if node.target not in (aten.var.correction, aten.var.dim, aten.std.correction, aten.std.dim):
        raise NotFusable(f"{node.target} has several results")
    source = operand(builder, node.args[0])
    dims = dims_of(argument(node, 1, "dim"), len(source.shape))
    correction = node.kwargs.get("correction", 1)
    if node.target in (aten.var.dim, aten.std.dim):
        correction = 1 if argument(node, 2, "unbiased", True) else 0
    _, variance = moments(builder, source, dims, 1.0 if correction is None else float_of(correction))
    root = "std" in str(node.target)
    return finish(node, variance, dims, source.shape, lambda x: op("sqrt", x) if root else x)


def moments(builder: Builder, source: Lazy, dims: Sequence[int], correction: float = 0.0) -> tuple[Lazy, Lazy]:
    """Mean and variance by two passes (the centred second pass avoids cancellation)."""
    dtype = compute_dtype(source.dtype)
    total, _ = reduce_dims(builder, source, dims, "sum", dtype)
    size = count(source.shape, dims, dtype)
    rest = [d for d in range(len(source.shape)) if d not in dims]
    mean = Lazy(total.shape, dtype, lambda i: op("div", total.at(i), size))
    index, _ = builder.reduce_space(source.shape, dims)
    centre = mean.at(tuple(index[d] for d in rest))

    def squared(x: Expr) -> Expr:
        delta = op("sub", x, centre)
        return op("mul", delta, delta)

    squares, _ = reduce_dims(builder, source, dims, "sum", dtype, squared)
    divisor = size if correction == 0 else op("sub", size, const_like(correction, size))
    return mean, Lazy(squares.shape, dtype, lambda i: op("div", squares.at(i), divisor))


@TABLE.register("reduce", aten.logsumexp)
def _logsumexp(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dims = dims_of(node.args[1], len(source.shape))
    dtype = compute_dtype(source.dtype)
    rest = [d for d in range(len(source.shape)) if d not in dims]
    top, index = reduce_dims(builder, source, dims, "max", dtype)
    row = tuple(index[d] for d in rest)
    sums, _ = reduce_dims(builder, source, dims, "sum", dtype, lambda x: op("exp", op("sub", x, top.at(row))))
    joined = Lazy(sums.shape, dtype, lambda i: op("add", op("log", sums.at(i)), top.at(i)))
    return finish(node, joined, dims, source.shape, lambda x: x)


@TABLE.register("reduce", aten.linalg_vector_norm)
def _vector_norm(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    order = float_of(argument(node, 1, "ord", 2))
    dims = dims_of(argument(node, 2, "dim"), len(source.shape))
    dtype = compute_dtype(result_dtype(node))
    if order in (pymath.inf, -pymath.inf):
        kind: ReduceOp = "max" if order > 0 else "min"
        reduced, _ = reduce_dims(builder, source, dims, kind, dtype, lambda x: op("abs", x))
        return finish(node, reduced, dims, source.shape, lambda x: x)
    if order == 2:
        reduced, _ = reduce_dims(builder, source, dims, "sum", dtype, lambda x: op("mul", x, x))
        return finish(node, reduced, dims, source.shape, lambda x: op("sqrt", x))
    if order == 1:
        reduced, _ = reduce_dims(builder, source, dims, "sum", dtype, lambda x: op("abs", x))
        return finish(node, reduced, dims, source.shape, lambda x: x)
    reduced, _ = reduce_dims(
        builder, source, dims, "sum", dtype, lambda x: op("pow", op("abs", x), const_like(order, x))
    )
    return finish(node, reduced, dims, source.shape, lambda x: op("pow", x, const_like(1.0 / order, x)))


@TABLE.register("reduce", aten.max, aten.min)
def _max(builder: Builder, node: Node) -> Lazy:
    kind: ReduceOp = "max" if "max" in str(node.target) else "min"
    if node.target in (aten.max.default, aten.min.default):
        source = operand(builder, node.args[0])
        dims = tuple(range(len(source.shape)))
        reduced, _ = reduce_dims(builder, source, dims, kind, compute_dtype(source.dtype))
        return finish(node, reduced, dims, source.shape, lambda x: x)
    if node.target in (aten.max.other, aten.min.other):
        raise NotFusable("elementwise max is spelled maximum")
    source = operand(builder, node.args[0])
    dims = dims_of(node.args[1], len(source.shape))
    reduced, _ = reduce_dims(builder, source, dims, kind, compute_dtype(source.dtype))
    return finish(node, reduced, dims, source.shape, lambda x: x)


def first_tensor(node: Node) -> torch.Tensor:
    """The fake tensor of a node, or the first of several."""
    value = node.meta["val"]
    tensor = value[0] if isinstance(value, tuple | list) else value
    assert isinstance(tensor, torch.Tensor), f"{node} gives no tensor"
    return tensor
