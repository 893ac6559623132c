"""Lowerings of pointwise operators."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.fx import Node

from ullage.codegen.loops.ir import Apply, Const, Expr
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.shapes import Index, shape_of
from ullage.codegen.lower.table import (
    TABLE,
    aten,
    elementwise,
    fake,
    float_of,
    int_of,
    operand,
    promoted,
    result_dtype,
    scalar,
)
from ullage.codegen.lower.values import Lazy, cast, compute_dtype, literal


def op(name: str, *args: Expr) -> Expr:
    """An operator applied to expressions of one dtype."""
    dtype = "bool" if name in ("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf") else args[-1].dtype
    return Apply(name, args, dtype)


def const_like(value: float, like: Expr) -> Const:
    """A number in another expression's dtype."""
    return literal(value, like.dtype)


def is_float(expr: Expr) -> bool:
    """Whether an expression has a floating point dtype."""
    return expr.dtype.startswith("float")


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger one; NaN if either is NaN, as in torch."""
    if not is_float(a):
        return op("max", a, b)
    return op("where", op("or", op("gt", a, b), op("ne", a, a)), a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller one; NaN if either is NaN, as in torch."""
    if not is_float(a):
        return op("min", a, b)
    return op("where", op("or", op("lt", a, b), op("ne", a, a)), a, b)


def relu(x: Expr) -> Expr:
    """max(x, 0) that keeps NaN."""
    return op("where", op("lt", x, const_like(0, x)), const_like(0, x), x)


def clamp(x: Expr, low: Expr | None, high: Expr | None) -> Expr:
    """min(max(x, low), high) that keeps NaN."""
    if low is not None:
        x = op("where", op("lt", x, low), low, x)
    return x if high is None else op("where", op("gt", x, high), high, x)


def _scaled(x: Expr, factor: float) -> Expr:
    return op("mul", x, const_like(factor, x))


def _plus(x: Expr, term: float) -> Expr:
    return op("add", x, const_like(term, x))


def gelu_erf(x: Expr) -> Expr:
    """x·Φ(x) by the error function."""
    return op("mul", _scaled(x, 0.5), _plus(op("erf", _scaled(x, math.sqrt(0.5))), 1.0))


def gelu_tanh(x: Expr) -> Expr:
    """The tanh approximation of GELU (Hendrycks and Gimpel 2016)."""
    cubed = op("mul", op("mul", x, x), x)
    inner = _scaled(op("add", x, _scaled(cubed, 0.044715)), math.sqrt(2.0 / math.pi))
    return op("mul", _scaled(x, 0.5), _plus(op("tanh", inner), 1.0))


def sigmoid(x: Expr) -> Expr:
    """The logistic function."""
    return op("sigmoid", x)


def silu(x: Expr) -> Expr:
    """x·sigmoid(x)."""
    return op("mul", x, sigmoid(x))


def softplus(x: Expr, beta: float = 1.0, threshold: float = 20.0) -> Expr:
    """log(1 + exp(beta·x)) / beta, linear above the threshold."""
    scaled = _scaled(x, beta)
    soft = op("div", op("log1p", op("exp", scaled)), const_like(beta, x))
    return op("where", op("gt", scaled, const_like(threshold, x)), x, soft)


def hardsigmoid(x: Expr) -> Expr:
    """relu6(x + 3) / 6."""
    return op("div", clamp(_plus(x, 3.0), const_like(0, x), const_like(6, x)), const_like(6, x))


def hardswish(x: Expr) -> Expr:
    """x·relu6(x + 3) / 6."""
    return op("div", op("mul", x, clamp(_plus(x, 3.0), const_like(0, x), const_like(6, x))), const_like(6, x))


def _not(x: Expr) -> Expr:
    return op("not", cast(x, "bool"))


def _sign(x: Expr) -> Expr:
    return op("sign", x)


_FLOAT_UNARY: dict[object, Callable[[Expr], Expr]] = {
    getattr(aten, name): (lambda x, n=name: op(n, x))
    for name in [
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log1p",
        "sqrt",
        "rsqrt",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "sigmoid",
        "erf",
        "reciprocal",
    ]
} | {
    aten.silu: silu,
    aten.hardswish: hardswish,
    aten.hardsigmoid: hardsigmoid,
    aten.mish: lambda x: op("mul", x, op("tanh", softplus(x))),
    aten.log10: lambda x: _scaled(op("log", x), 1.0 / math.log(10.0)),
    aten.erfc: lambda x: op("sub", const_like(1, x), op("erf", x)),
    aten.log_sigmoid: lambda x: op("neg", softplus(op("neg", x))),
}

_SAME_UNARY: dict[object, Callable[[Expr], Expr]] = {
    aten.neg: lambda x: op("neg", x),
    aten.abs: lambda x: op("abs", x),
    aten.relu: relu,
    aten.relu6: lambda x: clamp(x, const_like(0, x), const_like(6, x)),
    aten.sign: _sign,
    aten.sgn: _sign,
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


def _register_unary() -> None:
    for target, fn in _FLOAT_UNARY.items():
        TABLE.register("pointwise", target)(lambda b, n, fn=fn: elementwise(b, n, (n.args[0],), result_dtype(n), fn))
    for target, fn in _SAME_UNARY.items():
        TABLE.register("pointwise", target)(
            lambda b, n, fn=fn: elementwise(b, n, (n.args[0],), promoted(n.args[0]), fn)
        )


_register_unary()

_COMPARE = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}
for _name, _op in _COMPARE.items():
    TABLE.register("pointwise", getattr(aten, _name))(
        lambda b, n, o=_op: elementwise(b, n, n.args[:2], promoted(*n.args[:2]), lambda x, y: op(o, x, y))
    )

_BITWISE = {"bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor"}
for _name, _op in _BITWISE.items():
    TABLE.register("pointwise", getattr(aten, _name))(
        lambda b, n, o=_op: elementwise(b, n, n.args[:2], result_dtype(n), lambda x, y: op(o, x, y))
    )
for _name, _op in {"logical_and": "and", "logical_or": "or", "logical_xor": "xor"}.items():
    TABLE.register("pointwise", getattr(aten, _name))(
        lambda b, n, o=_op: elementwise(
            b, n, n.args[:2], promoted(*n.args[:2]), lambda x, y: op(o, cast(x, "bool"), cast(y, "bool"))
        )
    )


@TABLE.register("pointwise", aten.logical_not)
def _logical_not(builder: Builder, node: Node) -> Lazy:
    return elementwise(builder, node, (node.args[0],), promoted(node.args[0]), _not)


@TABLE.register("pointwise", aten.add, aten.sub)
def _add_sub(builder: Builder, node: Node) -> Lazy:
    name = "sub" if node.target in (aten.sub.Tensor, aten.sub.Scalar) else "add"
    alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)

    def fn(x: Expr, y: Expr) -> Expr:
        if x.dtype == "bool":
            return op("or", x, y)
        return op(name, x, y if alpha == 1 else _scaled(y, float_of(alpha)))

    return elementwise(builder, node, node.args[:2], result_dtype(node), fn)


@TABLE.register("pointwise", aten.rsub)
def _rsub(builder: Builder, node: Node) -> Lazy:
    alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
    return elementwise(
        builder,
        node,
        node.args[:2],
        result_dtype(node),
        lambda x, y: op("sub", y, _scaled(x, float_of(alpha))),
    )


@TABLE.register("pointwise", aten.mul)
def _mul(builder: Builder, node: Node) -> Lazy:
    dtype = result_dtype(node)
    name = "and" if dtype == "bool" else "mul"
    return elementwise(builder, node, node.args[:2], dtype, lambda x, y: op(name, x, y))


@TABLE.register("pointwise", aten.div)
def _div(builder: Builder, node: Node) -> Lazy:
    mode = node.kwargs.get("rounding_mode")

    def fn(x: Expr, y: Expr) -> Expr:
        if is_float(x):
            quotient = op("div", x, y)
            return quotient if mode is None else op("floor" if mode == "floor" else "trunc", quotient)
        return op("floordiv" if mode == "floor" else "truncdiv", x, y)

    return elementwise(builder, node, node.args[:2], result_dtype(node), fn)


@TABLE.register("pointwise", aten.floor_divide)
def _floor_divide(builder: Builder, node: Node) -> Lazy:
    def fn(x: Expr, y: Expr) -> Expr:
        return op("floor", op("div", x, y)) if is_float(x) else op("floordiv", x, y)

    return elementwise(builder, node, node.args[:2], result_dtype(node), fn)


@TABLE.register("pointwise", aten.remainder)
def _remainder(builder: Builder, node: Node) -> Lazy:
    def fn(x: Expr, y: Expr) -> Expr:
        if not is_float(x):
            return op("mod", x, y)
        rest = op("fmod", x, y)
        zero = const_like(0, x)
        wrong = op("and", op("ne", rest, zero), op("ne", op("lt", rest, zero), op("lt", y, zero)))
        return op("where", wrong, op("add", rest, y), rest)

    return elementwise(builder, node, node.args[:2], result_dtype(node), fn)


@TABLE.register("pointwise", aten.fmod)
def _fmod(builder: Builder, node: Node) -> Lazy:
    return elementwise(builder, node, node.args[:2], result_dtype(node), lambda x, y: op("fmod", x, y))


@TABLE.register("pointwise", aten.atan2)
def _atan2(builder: Builder, node: Node) -> Lazy:
    return elementwise(builder, node, node.args[:2], result_dtype(node), lambda x, y: op("atan2", x, y))


@TABLE.register("pointwise", aten.pow)
def _pow(builder: Builder, node: Node) -> Lazy:
    base, exponent = node.args[:2]
    special = _POWERS.get(exponent) if isinstance(exponent, int | float) else None
    if special is not None and (result_dtype(node).startswith(("float", "bfloat")) or exponent in (2, 3, 4)):
        return elementwise(builder, node, (base,), result_dtype(node), special)
    return elementwise(builder, node, (base, exponent), result_dtype(node), lambda x, y: op("pow", x, y))


_POWERS: dict[float, Callable[[Expr], Expr]] = {
    0.5: lambda x: op("sqrt", x),
    -0.5: lambda x: op("rsqrt", x),
    -1.0: lambda x: op("reciprocal", x),
    1.0: lambda x: x,
    2.0: lambda x: op("mul", x, x),
    3.0: lambda x: op("mul", op("mul", x, x), x),
    4.0: lambda x: op("mul", op("mul", x, x), op("mul", x, x)),
}


@TABLE.register("pointwise", aten.maximum, aten.minimum, aten.fmax, aten.fmin)
def _extreme(builder: Builder, node: Node) -> Lazy:
    fn = maximum if node.target == aten.maximum.default else minimum
    if node.target == aten.fmax.default:
        fn = lambda x, y: op("where", op("or", op("gt", x, y), op("ne", y, y)), x, y)  # noqa: E731
    if node.target == aten.fmin.default:
        fn = lambda x, y: op("where", op("or", op("lt", x, y), op("ne", y, y)), x, y)  # noqa: E731
    return elementwise(builder, node, node.args[:2], result_dtype(node), fn)


@TABLE.register("pointwise", aten.clamp, aten.clamp_min, aten.clamp_max, aten.hardtanh)
def _clamp(builder: Builder, node: Node) -> Lazy:
    low, high = _clamp_limits(node)
    present = [v for v in (low, high) if v is not None]

    def fn(x: Expr, *limits: Expr) -> Expr:
        rest = list(limits)
        lower = rest.pop(0) if low is not None else None
        return clamp(x, lower, rest.pop(0) if high is not None else None)

    return elementwise(builder, node, (node.args[0], *present), result_dtype(node), fn)


def _clamp_limits(node: Node) -> tuple[object, object]:
    given = [*node.args[1:], None, None]
    if node.target == aten.hardtanh.default:
        return (-1.0 if given[0] is None else given[0]), (1.0 if given[1] is None else given[1])
    low = node.kwargs.get("min", given[0])
    high = node.kwargs.get("max", given[1])
    if node.target in (aten.clamp_max.default, aten.clamp_max.Tensor):
        return None, given[0]
    return low, (None if node.target in (aten.clamp_min.default, aten.clamp_min.Tensor) else high)


@TABLE.register("pointwise", aten.gelu)
def _gelu(builder: Builder, node: Node) -> Lazy:
    fn = gelu_tanh if node.kwargs.get("approximate", "none") == "tanh" else gelu_erf
    return elementwise(builder, node, (node.args[0],), result_dtype(node), fn)


@TABLE.register("pointwise", aten.leaky_relu)
def _leaky_relu(builder: Builder, node: Node) -> Lazy:
    slope = float_of(node.args[1]) if len(node.args) > 1 else 0.01
    return elementwise(
        builder, node, (node.args[0],), result_dtype(node),
        lambda x: op("where", op("gt", x, const_like(0, x)), x, _scaled(x, slope)),
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
        negative = _scaled(op("expm1", _scaled(x, inner)), alpha * scale)
        return op("where", op("gt", x, const_like(0, x)), _scaled(x, scale), negative)

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


@TABLE.register("pointwise", aten.where)
def _where(builder: Builder, node: Node) -> Lazy:
    return _select(builder, node, node.args[0], node.args[1], node.args[2])


@TABLE.register("pointwise", aten.masked_fill)
def _masked_fill(builder: Builder, node: Node) -> Lazy:
    return _select(builder, node, node.args[1], node.args[2], node.args[0])


def _select(builder: Builder, node: Node, condition: object, yes: object, no: object) -> Lazy:
    from ullage.codegen.lower.shapes import broadcast_index

    test, a, b = (operand(builder, v) for v in (condition, yes, no))
    dtype = result_dtype(node)
    compute = compute_dtype(dtype)

    def at(index: Index) -> Expr:
        parts = [cast(v.at(broadcast_index(index, v.shape)), compute) for v in (a, b)]
        return op("where", cast(test.at(broadcast_index(index, test.shape)), "bool"), *parts)

    return Lazy(shape_of(fake(node)), dtype, at)


@TABLE.register("pointwise", aten._to_copy, aten.to)
def _to_copy(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dtype = result_dtype(node)

    def at(index: Index) -> Expr:
        return cast(cast(source.at(index), dtype), compute_dtype(dtype))

    return Lazy(source.shape, dtype, at)


@TABLE.register("pointwise", aten.lerp)
def _lerp(builder: Builder, node: Node) -> Lazy:
    return elementwise(
        builder, node, node.args[:3], result_dtype(node), lambda a, b, w: op("add", a, op("mul", w, op("sub", b, a)))
    )


@TABLE.register("pointwise", aten.addcmul, aten.addcdiv)
def _addcmul(builder: Builder, node: Node) -> Lazy:
    name = "mul" if node.target == aten.addcmul.default else "div"
    scale = float_of(node.kwargs.get("value", 1))

    def fn(x: Expr, a: Expr, b: Expr) -> Expr:
        product = op(name, a, b)
        return op("add", x, product if scale == 1.0 else _scaled(product, scale))

    return elementwise(builder, node, node.args[:3], result_dtype(node), fn)


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


@TABLE.register(
    "pointwise", aten.full, aten.full_like, aten.zeros, aten.zeros_like, aten.ones, aten.ones_like, aten.scalar_tensor,
    aten.new_zeros, aten.new_ones, aten.new_full, aten.fill,
)  # fmt: skip
def _full(builder: Builder, node: Node) -> Lazy:
    dtype = result_dtype(node)
    name = str(node.target)
    if "full" in name or "fill" in name:
        value = operand(builder, node.args[1])
    elif "scalar_tensor" in name:
        value = operand(builder, node.args[0])
    else:
        value = operand(builder, 1 if "ones" in name else 0)
    return Lazy(shape_of(fake(node)), dtype, lambda _i: cast(value.at(()), compute_dtype(dtype)))


@TABLE.register("pointwise", aten.arange)
def _arange(builder: Builder, node: Node) -> Lazy:
    dtype = result_dtype(node)
    compute = compute_dtype(dtype)
    numbers = [scalar(a) for a in node.args]
    start = numbers[0] if len(numbers) > 1 else Const(0)
    step = numbers[2] if len(numbers) > 2 else Const(1)
    assert start is not None and step is not None

    def at(index: Index) -> Expr:
        if dtype == "int64" and start.dtype == "int64":
            return builder.math.add(start, builder.math.mul(index[0], step))
        return op("add", cast(start, compute), op("mul", cast(index[0], compute), cast(step, compute)))

    return Lazy(shape_of(fake(node)), dtype, at)
