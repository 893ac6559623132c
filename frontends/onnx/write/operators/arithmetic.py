"""Arithmetic, comparisons, logic and selections."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.decoded import decoded
from ullage.frontends.onnx.write.table import Call, aten, writes
from ullage.frontends.onnx.write.types import arithmetic, form


def _compared(name: str) -> Callable[[Call], Value]:
    def written(call: Call) -> Value:
        left, right = call.first(2)
        dtype = call.promoted(left, right)
        dtype = torch.int32 if dtype == torch.bool else dtype
        pair = call.value(left, dtype), call.value(right, dtype)
        return call.op("Not", call.op("Equal", *pair)) if name == "ne" else call.op(_COMPARISONS[name], *pair)

    return written


_COMPARISONS = {
    "eq": "Equal", "ne": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
}  # fmt: skip
for _name in _COMPARISONS:
    writes(getattr(aten, _name))(_compared(_name))


def _logic(name: str, bitwise: bool) -> Callable[[Call], Value]:
    def written(call: Call) -> Value:
        dtype = call.dtype if bitwise else torch.bool
        operator = name if dtype == torch.bool else f"Bitwise{name}"
        return call.op(operator, *(call.value(v, dtype) for v in call.first(2)))

    return written


for _name in ("And", "Or", "Xor"):
    writes(getattr(aten, f"bitwise_{_name.lower()}"), getattr(aten, f"__{_name.lower()}__"))(_logic(_name, True))
    writes(getattr(aten, f"logical_{_name.lower()}"))(_logic(_name, False))


@writes(aten.bitwise_left_shift, aten.__lshift__, aten.bitwise_right_shift, aten.__rshift__)
def _shift(call: Call) -> Value:
    """In 64 bits, which is the same for narrower types; ONNX shifts unsigned numbers, and by less than their width.

    x >> n of a negative number is ~(~x >> n).
    """
    if call.dtype.is_floating_point or call.dtype == torch.bool:
        raise call.refuse(f"of {str(call.dtype).removeprefix('torch.')}")
    x, count = (call.value(v, torch.int64) for v in call.first(2))
    zero, widest = call.value(0, torch.int64), call.value(63, torch.int64)
    beyond = call.op("Or", call.op("Less", count, zero), call.op("Greater", count, widest))
    steps = call.op("Where", beyond, widest, count)
    if "left" in str(call.node.target) or "lshift" in str(call.node.target):
        found = call.op("Where", beyond, zero, _shifted(call, x, steps, "LEFT"))
    else:
        negative = call.op("Less", x, zero)
        moved = _shifted(call, call.op("Where", negative, call.op("BitwiseNot", x), x), steps, "RIGHT")
        found = call.op("Where", negative, call.op("BitwiseNot", moved), moved)
    return found if call.dtype == torch.int64 else call.block.cast(found, call.dtype)


def _shifted(call: Call, x: Value, steps: Value, direction: str) -> Value:
    plain = (call.op("Cast", value, to=int(ir.DataType.UINT64)) for value in (x, steps))
    return call.block.cast(call.op("BitShift", *plain, direction=direction), torch.int64)


@writes(aten.logical_not, aten.bitwise_not)
def _not(call: Call) -> Value:
    if call.dtype == torch.bool:
        return call.op("Not", call.value(call["self"], torch.bool))
    return call.op("BitwiseNot", call.value(call["self"]))


def _times(call: Call, value: Value, factor: Any) -> Value:
    return value if factor == 1 else call.op("Mul", value, call.value(factor, call.dtype))


@writes(aten.add, aten.sub, aten.rsub)
def _add(call: Call) -> Value:
    left, right = call.first(2)
    alpha = 1 if call["alpha"] is None else call["alpha"]
    if call.dtype == torch.bool:
        return call.op("Or", call.value(left, torch.bool), call.value(right, torch.bool))
    if "rsub" in str(call.node.target):
        left, right = right, left
    operator = "Add" if str(call.node.target).startswith("aten.add") else "Sub"
    return call.elementwise((left, right), lambda a, b: call.op(operator, a, _times(call, b, alpha)))


@writes(aten.mul)
def _mul(call: Call) -> Value:
    weight = decoded(call)
    if weight is not None:
        return weight
    operator = "And" if call.dtype == torch.bool else "Mul"
    return call.elementwise(call.first(2), lambda a, b: call.op(operator, a, b))


@writes(aten.div, aten.floor_divide)
def _div(call: Call) -> Value:
    mode = "floor" if "floor_divide" in str(call.node.target) else call["rounding_mode"]

    def written(a: Value, b: Value) -> Value:
        quotient = call.op("Div", a, b)
        if not call.dtype.is_floating_point:
            return quotient if mode == "trunc" else _floored(call, quotient, a, b)
        if mode == "trunc":
            return truncated(call, quotient)
        return call.op("Floor", quotient) if mode == "floor" else quotient

    return call.elementwise(call.first(2), written)


def truncated(call: Call, x: Value) -> Value:
    """Rounded towards zero, which has no operator in ONNX."""
    negative = call.op("Less", x, call.value(0.0, call.dtype))
    return call.op("Where", negative, call.op("Ceil", x), call.op("Floor", x))


def _floored(call: Call, quotient: Value, a: Value, b: Value) -> Value:
    """An integer quotient that was rounded towards zero, rounded down."""
    rest = call.op("Sub", a, call.op("Mul", quotient, b))
    zero = call.op("Sub", rest, rest)
    uneven = call.op("Not", call.op("Equal", rest, zero))
    signs = call.op("Xor", call.op("Less", rest, zero), call.op("Less", b, zero))
    below = call.block.cast(call.op("And", uneven, signs), arithmetic(call.dtype))
    return call.op("Sub", quotient, below)


@writes(aten.fmod)
def _fmod(call: Call) -> Value:
    return call.elementwise(call.first(2), lambda a, b: call.op("Mod", a, b, fmod=1))


@writes(aten.remainder)
def _remainder(call: Call) -> Value:
    """The rest with the divisor's sign."""

    def written(a: Value, b: Value) -> Value:
        if not call.dtype.is_floating_point:
            return call.op("Mod", a, b)
        rest, zero = call.op("Mod", a, b, fmod=1), call.value(0.0, call.dtype)
        signs = call.op("Xor", call.op("Less", rest, zero), call.op("Less", b, zero))
        wrong = call.op("And", call.op("Not", call.op("Equal", rest, zero)), signs)
        return call.op("Where", wrong, call.op("Add", rest, b), rest)

    return call.elementwise(call.first(2), written)


@writes(aten.pow)
def _pow(call: Call) -> Value:
    base, exponent = call.first(2)
    special = _POWERS.get(exponent) if isinstance(exponent, int | float) else None
    if special is not None and (call.dtype.is_floating_point or exponent in (1, 2, 3)):
        return call.elementwise((base,), lambda x: special(call, x))
    return call.elementwise((base, exponent), lambda x, y: call.op("Pow", x, y))


_POWERS: dict[float, Callable[[Call, Value], Value]] = {
    0.5: lambda call, x: call.op("Sqrt", x),
    -0.5: lambda call, x: call.op("Reciprocal", call.op("Sqrt", x)),
    -1: lambda call, x: call.op("Reciprocal", x),
    1: lambda call, x: x,
    2: lambda call, x: call.op("Mul", x, x),
    3: lambda call, x: call.op("Mul", call.op("Mul", x, x), x),
}


@writes(aten.atan2)
def _atan2(call: Call) -> Value:
    """The angle of (|x|, |y|), mirrored for negative x and y (also −0) as the quadrant asks."""

    def written(y: Value, x: Value) -> Value:
        zero = call.value(0.0, call.dtype)
        rise, run = call.op("Abs", y), call.op("Abs", x)
        slope = call.op("Where", call.op("Equal", rise, run), call.op("Sign", rise), call.op("Div", rise, run))
        angle = call.op("Atan", slope)
        mirrored = call.op("Sub", call.value(math.pi, call.dtype), angle)
        angle = call.op("Where", call.op("Less", x, zero), mirrored, angle)
        minus_zero = call.op("And", call.op("Equal", y, zero), call.op("Less", call.op("Reciprocal", y), zero))
        below = call.op("Or", call.op("Less", y, zero), minus_zero)
        return call.op("Where", below, call.op("Neg", angle), angle)

    return call.elementwise(call.first(2), written)


@writes(aten.maximum.default, aten.minimum.default, aten.max.other, aten.min.other)
def _extreme(call: Call) -> Value:
    largest = "max" in str(call.node.target)
    if call.dtype == torch.bool:
        return call.elementwise(call.first(2), lambda a, b: call.op("Or" if largest else "And", a, b))
    return call.elementwise(call.first(2), lambda a, b: call.op("Max" if largest else "Min", a, b))


@writes(aten.fmax, aten.fmin)
def _number_if_any(call: Call) -> Value:
    """The other operand where one is NaN."""
    comparison = "Greater" if "fmax" in str(call.node.target) else "Less"

    def written(a: Value, b: Value) -> Value:
        chosen = call.op(comparison, a, b)
        if call.dtype.is_floating_point:
            chosen = call.op("Or", chosen, call.op("IsNaN", b))
        return call.op("Where", chosen, a, b)

    return call.elementwise(call.first(2), written)


@writes(aten.clamp, aten.clamp_min, aten.clamp_max, aten.hardtanh, aten.relu6)
def _clamp(call: Call) -> Value:
    low, high = (0, 6) if call.node.target is aten.relu6.default else (_limit(call, "min"), _limit(call, "max"))
    limits = [limit for limit in (low, high) if limit is not None]

    def written(x: Value, *given: Value) -> Value:
        bounds = list(given)
        x = x if low is None else call.op("Max", x, bounds.pop(0))
        return x if high is None else call.op("Min", x, bounds.pop(0))

    return call.elementwise((call["self"], *limits), written)


def _limit(call: Call, name: str) -> Any:
    found = call[name]
    return call[f"{name}_val"] if found is None else found


@writes(aten.where)
def _where(call: Call) -> Value:
    return _selected(call, call["condition"], call["self"], call["other"])


@writes(aten.masked_fill)
def _masked_fill(call: Call) -> Value:
    return _selected(call, call["mask"], call["value"], call["self"])


def _selected(call: Call, condition: Any, yes: Any, no: Any) -> Value:
    test = call.value(condition, torch.bool)
    if call.dtype != torch.bool:
        return call.elementwise((yes, no), lambda a, b: call.op("Where", test, a, b))
    chosen = call.op("And", test, call.value(yes, torch.bool))
    return call.op("Or", chosen, call.op("And", call.op("Not", test), call.value(no, torch.bool)))


@writes(aten._to_copy, aten.to)
def _to_copy(call: Call) -> Value:
    """A conversion; one to bfloat16 rounds."""
    found = call.value(call["self"])
    if call.result.dtype == call.fake(call["self"]).dtype:
        return found
    if call.result.dtype == torch.bfloat16:
        found = call.block.cast(found, torch.bfloat16)
    elif call.dtype == form(call.fake(call["self"]).dtype):
        return found
    return call.block.cast(found, call.dtype)


@writes(aten.lerp)
def _lerp(call: Call) -> Value:
    return call.elementwise(call.first(3), lambda a, b, w: call.op("Add", a, call.op("Mul", w, call.op("Sub", b, a))))


@writes(aten.addcmul, aten.addcdiv)
def _addcmul(call: Call) -> Value:
    operator = "Mul" if "addcmul" in str(call.node.target) else "Div"
    factor = call["value"]
    return call.elementwise(
        call.first(3), lambda x, a, b: call.op("Add", x, _times(call, call.op(operator, a, b), factor))
    )
