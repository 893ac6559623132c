"""Lowerings of functions of one tensor: elementary functions and activations."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.fx import Node

from ullage.codegen.loops.ir import Const, Expr
from ullage.codegen.lower.builder import Builder, Lowering
from ullage.codegen.lower.formulas import (
    acosh,
    asinh,
    atanh,
    clamp,
    const_like,
    gelu_erf,
    gelu_tanh,
    hardsigmoid,
    hardswish,
    is_float,
    op,
    relu,
    scaled,
    sigmoid,
    silu,
    softplus,
)
from ullage.codegen.lower.shapes import Index, shape_of
from ullage.codegen.lower.table import (
    TABLE,
    argument,
    aten,
    elementwise,
    fake,
    float_of,
    int_of,
    operand,
    promoted,
    result_dtype,
)
from ullage.codegen.lower.values import Lazy, cast, compute_dtype


def _applied(name: str) -> Callable[[Expr], Expr]:
    return lambda x: op(name, x)


_NAMED = (
    "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "sin", "cos", "tan", "asin", "acos", "atan",
    "sinh", "cosh", "tanh", "sigmoid", "erf", "reciprocal",
)  # fmt: skip
_FLOAT_UNARY: dict[object, Callable[[Expr], Expr]] = {
    **{getattr(aten, name): _applied(name) for name in _NAMED},
    aten.silu: silu,
    aten.hardswish: hardswish,
    aten.hardsigmoid: hardsigmoid,
    aten.mish: lambda x: op("mul", x, op("tanh", softplus(x))),
    aten.log10: lambda x: scaled(op("log", x), 1.0 / math.log(10.0)),
    aten.asinh: asinh,
    aten.acosh: acosh,
    aten.atanh: atanh,
    aten.erfc: lambda x: op("sub", const_like(1, x), op("erf", x)),
    aten.log_sigmoid: lambda x: op("neg", softplus(op("neg", x))),
}


_SAME_UNARY: dict[object, Callable[[Expr], Expr]] = {
    aten.neg: _applied("neg"),
    aten.abs: _applied("abs"),
    aten.relu: relu,
    aten.relu6: lambda x: clamp(x, const_like(0, x), const_like(6, x)),
    aten.sign: lambda x: x if x.dtype == "bool" else op("sign", x),
    aten.sgn: lambda x: x if x.dtype == "bool" else op("sign", x),
    aten.square: lambda x: op("mul", x, x),
    aten.floor: lambda x: op("floor", x) if is_float(x) else x,
    aten.ceil: lambda x: op("ceil", x) if is_float(x) else x,
    aten.round: lambda x: op("round", x) if is_float(x) else x,
    aten.trunc: lambda x: op("trunc", x) if is_float(x) else x,
    aten.bitwise_not: lambda x: op("not", x),
    aten.isnan: lambda x: op("isnan", x) if is_float(x) else Const(False, "bool"),
    aten.isinf: lambda x: op("isinf", x) if is_float(x) else Const(False, "bool"),
    aten.isfinite: lambda x: (
        op("not", op("or", op("isnan", x), op("isinf", x))) if is_float(x) else Const(True, "bool")
    ),
    aten.clone: lambda x: x,
    aten.alias: lambda x: x,
    aten.detach: lambda x: x,
    aten.contiguous: lambda x: x,
    aten.lift_fresh_copy: lambda x: x,
}


def _unary(fn: Callable[[Expr], Expr], dtype: Callable[[Node], str]) -> Lowering:
    return lambda builder, node: elementwise(builder, node, (node.args[0],), dtype(node), fn)


for _target, _fn in _FLOAT_UNARY.items():
    TABLE.register("pointwise", _target)(_unary(_fn, result_dtype))
for _target, _fn in _SAME_UNARY.items():
    TABLE.register("pointwise", _target)(_unary(_fn, lambda node: promoted(node.args[0])))


@TABLE.register("pointwise", aten.gelu)
def _gelu(builder: Builder, node: Node) -> Lazy:
    fn = gelu_tanh if node.kwargs.get("approximate", "none") == "tanh" else gelu_erf
    return elementwise(builder, node, (node.args[0],), result_dtype(node), fn)


@TABLE.register("pointwise", aten.leaky_relu)
def _leaky_relu(builder: Builder, node: Node) -> Lazy:
    slope = float_of(argument(node, 1, "negative_slope", 0.01))
    return elementwise(
        builder, node, (node.args[0],), result_dtype(node),
        lambda x: op("where", op("gt", x, const_like(0, x)), x, scaled(x, slope)),
    )  # fmt: skip


@TABLE.register("pointwise", aten.elu, aten.selu, aten.celu)
def _elu(builder: Builder, node: Node) -> Lazy:
    given = [float_of(a) for a in node.args[1:]]
    alpha, scale, inner = (*given, *(1.0, 1.0, 1.0)[len(given) :])
    if node.target == aten.selu.default:
        alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    if node.target == aten.celu.default:
        inner = 1.0 / alpha

    def fn(x: Expr) -> Expr:
        negative = scaled(op("expm1", scaled(x, inner)), alpha * scale)
        return op("where", op("gt", x, const_like(0, x)), scaled(x, scale), negative)

    return elementwise(builder, node, (node.args[0],), result_dtype(node), fn)


@TABLE.register("pointwise", aten.softplus)
def _softplus(builder: Builder, node: Node) -> Lazy:
    rest = [float_of(a) for a in node.args[1:]]
    return elementwise(builder, node, (node.args[0],), result_dtype(node), lambda x: softplus(x, *rest))


@TABLE.register("pointwise", aten.prelu)
def _prelu(builder: Builder, node: Node) -> Lazy:
    x, weight = operand(builder, node.args[0]), operand(builder, node.args[1])
    compute = compute_dtype(result_dtype(node))

    def at(index: Index) -> Expr:
        value = x.at(index)
        channel = (index[1],) if len(index) > 1 and len(weight.shape) else ()
        slope = weight.at(channel if weight.shape and weight.shape[0] != Const(1) else (Const(0),) * len(weight.shape))
        return op("where", op("gt", value, const_like(0, value)), value, op("mul", value, cast(slope, compute)))

    return Lazy(x.shape, x.dtype, at)


@TABLE.register("pointwise", aten.glu)
def _glu(builder: Builder, node: Node) -> Lazy:
    x = operand(builder, node.args[0])
    rank = len(x.shape)
    dim = (int_of(node.args[1]) if len(node.args) > 1 else -1) % rank
    shape = shape_of(fake(node))

    def at(index: Index) -> Expr:
        shifted = tuple(builder.math.add(i, shape[d]) if d == dim else i for d, i in enumerate(index))
        return op("mul", x.at(index), sigmoid(x.at(shifted)))

    return Lazy(shape, x.dtype, at)
