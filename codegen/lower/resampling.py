"""Lowerings of operators that change the resolution of images."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from ullage.codegen.loops.ir import FLOATS, Cast, Const, Expr
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.formulas import (
    op,
)
from ullage.codegen.lower.shapes import Index, shape_of
from ullage.codegen.lower.table import (
    TABLE,
    aten,
    fake,
    float_of,
    int_of,
    operand,
    result_dtype,
)
from ullage.codegen.lower.values import Lazy, cast, compute_dtype, literal


@TABLE.register("move", aten.pixel_shuffle)
def _pixel_shuffle(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    factor = Const(int_of(node.args[1]))
    math = builder.math

    def at(index: Index) -> Expr:
        *lead, c, h, w = index
        inner = math.add(math.mul(math.mod(h, factor), factor), math.mod(w, factor))
        channel = math.add(math.mul(c, factor, factor), inner)
        return source.at((*lead, channel, math.floordiv(h, factor), math.floordiv(w, factor)))

    return Lazy(shape_of(fake(node)), result_dtype(node), at)


@TABLE.register("move", aten.upsample_nearest1d, aten.upsample_nearest2d)
def _upsample_nearest(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    shape = shape_of(fake(node))
    math = builder.math

    def at(index: Index) -> Expr:
        moved = list(index)
        for d in range(2, len(shape)):
            moved[d] = math.floordiv(math.mul(index[d], source.shape[d]), shape[d])
        return source.at(tuple(moved))

    return Lazy(shape, result_dtype(node), at)


@TABLE.register("move", aten.upsample_bilinear2d)
def _upsample_bilinear(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    shape = shape_of(fake(node))
    corners = bool(node.args[2])
    scales = node.args[3] if len(node.args) > 3 else None
    floating = result_dtype(node) in FLOATS
    dtype = compute_dtype(result_dtype(node)) if floating else "float32"
    given = [scales[0], scales[1]] if isinstance(scales, Sequence) else [*node.args[3:5], None, None][:2]

    def at(index: Index) -> Expr:
        rows = _linear_weights(index[2], source.shape[2], shape[2], corners, given[0], dtype)
        columns = _linear_weights(index[3], source.shape[3], shape[3], corners, given[1], dtype)
        total: Expr | None = None
        for y, wy in rows:
            line: Expr | None = None
            for x, wx in columns:
                term = op("mul", cast(source.at((index[0], index[1], y, x)), dtype), wx)
                line = term if line is None else op("add", line, term)
            assert line is not None
            term = op("mul", line, wy)
            total = term if total is None else op("add", total, term)
        assert total is not None
        return total if floating else cast(op("floor", op("add", total, literal(0.5, dtype))), result_dtype(node))

    return Lazy(shape, result_dtype(node), at)


def _linear_weights(
    i: Expr, size: Expr, out: Expr, corners: bool, scale: object, dtype: str
) -> list[tuple[Expr, Expr]]:
    position = _source_position(i, size, out, corners, scale, dtype)
    low = op("min", Cast(op("floor", position), "int64"), op("sub", size, Const(1)))
    high = op("min", op("add", low, Const(1)), op("sub", size, Const(1)))
    weight = op("sub", position, Cast(low, dtype))
    return [(low, op("sub", literal(1, dtype), weight)), (high, weight)]


def _source_position(i: Expr, size: Expr, out: Expr, corners: bool, scale: object, dtype: str) -> Expr:
    value, n, m = (Cast(e, dtype) for e in (i, size, out))
    if corners:
        one = literal(1, dtype)
        ratio = op("div", op("sub", n, one), op("max", op("sub", m, one), one))
        return op("mul", value, ratio)
    ratio = literal(1.0 / float_of(scale), dtype) if isinstance(scale, float) else op("div", n, m)
    half = literal(0.5, dtype)
    return op("max", op("sub", op("mul", op("add", value, half), ratio), half), literal(0, dtype))
