"""Lowerings of normalisations and softmax."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from ullage.codegen.loops.ir import Const, Expr, Load, Loop, Store
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.formulas import (
    const_like,
    op,
)
from ullage.codegen.lower.index import ONE, ZERO
from ullage.codegen.lower.reductions import count, moments, reduce_dims
from ullage.codegen.lower.shapes import Index
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


@TABLE.register("reduce", aten.layer_norm, aten.native_layer_norm)
def _layer_norm(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    normalized = node.args[1]
    assert isinstance(normalized, Sequence)
    rank, width = len(source.shape), len(normalized)
    dims = tuple(range(rank - width, rank))
    weight, bias = (operand(builder, a) if a is not None else None for a in _optional(node, 2, 4))
    eps = float_of(argument(node, 4, "eps", 1e-5))
    mean, variance = moments(builder, source, dims)

    def at(index: Index) -> Expr:
        row, inner = tuple(index[: rank - width]), tuple(index[rank - width :])
        value = _normalised(source.at(index), mean.at(row), variance.at(row), eps)
        return _affine(value, weight, bias, inner)

    return Lazy(source.shape, source.dtype, at)


def _optional(node: Node, start: int, stop: int) -> list[object]:
    found: list[object] = [*node.args[start:stop], *[None] * (stop - start)]
    return found[: stop - start]


def _normalised(x: Expr, mean: Expr, variance: Expr, eps: float) -> Expr:
    scale = op("div", const_like(1.0, x), op("sqrt", op("add", variance, const_like(eps, variance))))
    return op("mul", op("sub", x, mean), scale)


def _affine(value: Expr, weight: Lazy | None, bias: Lazy | None, index: Index) -> Expr:
    if weight is not None:
        value = op("mul", value, cast(weight.at(index), value.dtype))
    return value if bias is None else op("add", value, cast(bias.at(index), value.dtype))


@TABLE.register("reduce", aten.rms_norm, aten._fused_rms_norm)
def _rms_norm(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    normalized = node.args[1]
    assert isinstance(normalized, Sequence)
    rank, width = len(source.shape), len(normalized)
    dims = tuple(range(rank - width, rank))
    (given,) = _optional(node, 2, 3)
    weight = operand(builder, given) if given is not None else None
    eps = argument(node, 3, "eps")
    dtype = compute_dtype(source.dtype)
    epsilon = 1.1920929e-07 if eps is None else float_of(eps)
    squares, _ = reduce_dims(builder, source, dims, "sum", dtype, lambda x: op("mul", x, x))
    size = count(source.shape, dims, dtype)

    def at(index: Index) -> Expr:
        mean = op("div", squares.at(tuple(index[: rank - width])), size)
        scale = op("div", const_like(1.0, mean), op("sqrt", op("add", mean, const_like(epsilon, mean))))
        return _affine(op("mul", source.at(index), scale), weight, None, tuple(index[rank - width :]))

    return Lazy(source.shape, source.dtype, at)


@TABLE.register("reduce", aten.group_norm, aten.native_group_norm)
def _group_norm(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    if node.target == aten.group_norm.default:
        groups, (given_w, given_b), eps = int_of(node.args[1]), _optional(node, 2, 4), argument(node, 4, "eps", 1e-5)
    else:
        groups, (given_w, given_b), eps = int_of(node.args[6]), _optional(node, 1, 3), node.args[7]
    weight, bias = (operand(builder, a) if a is not None else None for a in (given_w, given_b))
    batch, channels, *spatial = source.shape
    math = builder.math
    per_group = math.floordiv(channels, Const(groups))
    split = (batch, Const(groups), per_group, *spatial)

    def split_at(index: Index) -> Expr:
        n, g, c, *rest = index
        return source.at((n, math.add(math.mul(g, per_group), c), *rest))

    grouped = Lazy(split, source.dtype, split_at)
    mean, variance = moments(builder, grouped, tuple(range(2, len(split))))

    def at(index: Index) -> Expr:
        row = (index[0], math.floordiv(index[1], per_group) if per_group != ONE else index[1])
        value = _normalised(source.at(index), mean.at(row), variance.at(row), float_of(eps))
        return _affine(value, weight, bias, (index[1],))

    return Lazy(source.shape, source.dtype, at)


@TABLE.register("pointwise", aten.batch_norm, aten._native_batch_norm_legit_no_training, aten.native_batch_norm)
def _batch_norm(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    weight, bias, mean, variance = (operand(builder, a) if a is not None else None for a in node.args[1:5])
    short = node.target == aten._native_batch_norm_legit_no_training.default
    if not short and node.args[5]:
        raise NotFusable("batch norm in training mode")
    eps = float_of(node.args[6 if short else 7])
    assert mean is not None and variance is not None

    def at(index: Index) -> Expr:
        channel = (index[1],)
        x = source.at(index)
        centre, spread = cast(mean.at(channel), x.dtype), cast(variance.at(channel), x.dtype)
        return _affine(_normalised(x, centre, spread, eps), weight, bias, channel)

    return Lazy(source.shape, source.dtype, at)


@TABLE.register("reduce", aten._softmax, aten.softmax, aten._log_softmax, aten.log_softmax, aten._safe_softmax)
def _softmax(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dims = (int_of(node.args[1]) % max(1, len(source.shape)),) if source.shape else ()
    dtype = compute_dtype(result_dtype(node))
    rest = [d for d in range(len(source.shape)) if d not in dims]
    top, index = reduce_dims(builder, source, dims, "max", dtype, lambda x: cast(x, dtype))
    row = tuple(index[d] for d in rest)
    shifted = op("sub", cast(source.at(index), dtype), top.at(row))
    width = tuple(source.shape[d] for d in dims)
    log = "log_softmax" in str(node.target)
    name, _ = builder.local(dtype, width)
    kept = shifted if log else op("exp", shifted)
    store = Store(name, index[dims[0]] if dims else ZERO, kept)
    loops = tuple(Loop(f"r{d}", source.shape[d]) for d in dims if source.shape[d] != ONE) or (
        Loop(builder.fresh("one"), ONE),
    )
    total = builder.reduce("sum", op("exp", shifted), loops, dtype, (store,))
    sums = builder.at_row(tuple(source.shape[d] for d in rest), total)

    def at(position: Index) -> Expr:
        value = Load(name, position[dims[0]] if dims else ZERO, dtype)
        scale = sums.at(tuple(position[d] for d in rest))
        if log:
            return op("sub", value, op("log", scale))
        return op("mul", value, op("div", const_like(1.0, scale), scale))

    return Lazy(source.shape, result_dtype(node), at)
