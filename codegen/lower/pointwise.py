"""Lowerings of pointwise arithmetic, comparisons, logic and selections."""

from __future__ import annotations

from collections.abc import Callable

from torch.fx import Node

from ullage.codegen.loops.ir import DTYPE_BYTES, Apply, Expr
from ullage.codegen.lower.builder import Builder, Lowering
from ullage.codegen.lower.formulas import (
    clamp,
    const_like,
    is_float,
    maximum,
    minimum,
    op,
    scaled,
)
from ullage.codegen.lower.shapes import Index, broadcast_index, shape_of
from ullage.codegen.lower.table import (
    TABLE,
    aten,
    elementwise,
    fake,
    float_of,
    operand,
    promoted,
    result_dtype,
)
from ullage.codegen.lower.values import Lazy, cast, compute_dtype
from ullage.errors import UnsupportedOperator


def _lowered_as(name: str, dtype: Callable[[Node], str], convert: str | None = None) -> Lowering:
    """A binary operator computed in a dtype, its operands converted to `convert` first."""

    def lower(builder: Builder, node: Node) -> Lazy:
        def fn(x: Expr, y: Expr) -> Expr:
            return op(name, x, y) if convert is None else op(name, cast(x, convert), cast(y, convert))

        return elementwise(builder, node, node.args[:2], dtype(node), fn)

    return lower


def _promoted_pair(node: Node) -> str:
    return promoted(*node.args[:2])


_OF_BOOLS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "lt": lambda x, y: op("and", op("not", x), y),
    "le": lambda x, y: op("or", op("not", x), y),
    "gt": lambda x, y: op("and", x, op("not", y)),
    "ge": lambda x, y: op("or", x, op("not", y)),
}


def _compared(name: str) -> Lowering:
    def fn(x: Expr, y: Expr) -> Expr:
        return _OF_BOOLS[name](x, y) if x.dtype == "bool" and name in _OF_BOOLS else op(name, x, y)

    return lambda builder, node: elementwise(builder, node, node.args[:2], _promoted_pair(node), fn)


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    TABLE.register("pointwise", getattr(aten, _name))(_compared(_name))
for _name in ("and", "or", "xor"):
    TABLE.register("pointwise", getattr(aten, f"bitwise_{_name}"))(_lowered_as(_name, result_dtype))
    TABLE.register("pointwise", getattr(aten, f"logical_{_name}"))(_lowered_as(_name, _promoted_pair, "bool"))
for _name, _targets in {
    "shl": (aten.bitwise_left_shift, aten.__lshift__), "shr": (aten.bitwise_right_shift, aten.__rshift__),
    "and": (aten.__and__,), "or": (aten.__or__,), "xor": (aten.__xor__,),
}.items():  # fmt: skip
    TABLE.register("pointwise", *_targets)(_lowered_as(_name, result_dtype))
for _name in ("fmod", "atan2"):
    TABLE.register("pointwise", getattr(aten, _name))(_lowered_as(_name, result_dtype))


def _not(x: Expr) -> Expr:
    return op("not", cast(x, "bool"))


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
        return op(name, x, y if alpha == 1 else scaled(y, float_of(alpha)))

    return elementwise(builder, node, node.args[:2], result_dtype(node), fn)


@TABLE.register("pointwise", aten.rsub)
def _rsub(builder: Builder, node: Node) -> Lazy:
    alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
    return elementwise(
        builder,
        node,
        node.args[:2],
        result_dtype(node),
        lambda x, y: op("sub", y, scaled(x, float_of(alpha))),
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


def _number_if_any(name: str) -> Callable[[Expr, Expr], Expr]:
    """fmax and fmin: the other operand where one is NaN."""
    return lambda x, y: op("where", op("or", op(name, x, y), op("ne", y, y)), x, y)


_EXTREMES: dict[object, Callable[[Expr, Expr], Expr]] = {
    aten.maximum.default: maximum, aten.minimum.default: minimum,
    aten.fmax.default: _number_if_any("gt"), aten.fmin.default: _number_if_any("lt"),
}  # fmt: skip


@TABLE.register("pointwise", *_EXTREMES)
def _extreme(builder: Builder, node: Node) -> Lazy:
    return elementwise(builder, node, node.args[:2], result_dtype(node), _EXTREMES[node.target])


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


@TABLE.register("pointwise", aten.where)
def _where(builder: Builder, node: Node) -> Lazy:
    return _select(builder, node, node.args[0], node.args[1], node.args[2])


@TABLE.register("pointwise", aten.masked_fill)
def _masked_fill(builder: Builder, node: Node) -> Lazy:
    return _select(builder, node, node.args[1], node.args[2], node.args[0])


def _select(builder: Builder, node: Node, condition: object, yes: object, no: object) -> Lazy:
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


@TABLE.register("pointwise", aten.view.dtype)
def _bits(builder: Builder, node: Node) -> Lazy:
    """The same bits as another dtype of equal size."""
    source, dtype = operand(builder, node.args[0]), result_dtype(node)
    if DTYPE_BYTES[source.dtype] != DTYPE_BYTES[dtype]:
        raise UnsupportedOperator({f"aten.view.dtype from {source.dtype} to {dtype}": [node.name]})
    if "bool" in (source.dtype, dtype):
        return Lazy(source.shape, dtype, lambda index: cast(source.at(index), dtype))

    def at(index: Index) -> Expr:
        return cast(Apply("bits", (cast(source.at(index), source.dtype),), dtype), compute_dtype(dtype))

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
        return op("add", x, product if scale == 1.0 else scaled(product, scale))

    return elementwise(builder, node, node.args[:3], result_dtype(node), fn)
