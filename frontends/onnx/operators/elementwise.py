"""Operators on single elements."""

from __future__ import annotations

import operator as python
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from ullage.frontends.onnx.narrow import Narrow, NarrowType, decoded, encoded, narrow_type
from ullage.frontends.onnx.read import torch_dtype
from ullage.frontends.onnx.table import Call, operator
from ullage.frontends.onnx.values import Known, NotAhead, known, within_limit

Tensor = torch.Tensor
Unary = Callable[[Tensor], Tensor]

UNARY: dict[str, Unary] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "IsNaN": torch.isnan, "Log": torch.log,
    "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Sqrt": torch.sqrt,
    "Tan": torch.tan, "Tanh": torch.tanh, "Relu": torch.relu, "Softplus": F.softplus, "Softsign": F.softsign,
    "Mish": F.mish, "HardSwish": F.hardswish, "BitwiseNot": torch.bitwise_not,
}  # fmt: skip


def _register_unary(name: str, function: Unary) -> None:
    host: Callable[[Call], Known] | None = None
    if name == "Neg":
        host = lambda call: _like(call, -call.known(0).array)  # noqa: E731
    operator(name, host=host)(lambda call: function(call.tensor()))


def _like(call: Call, array: np.ndarray) -> Known:
    return known(array, call.known(0).dtype)


for _name, _function in UNARY.items():
    _register_unary(_name, _function)


def _aligned(call: Call) -> tuple[Tensor, Tensor]:
    """Both operands; before opset 7 the second one may be placed along an `axis` of the first."""
    a, b = call.tensor(0), call.tensor(1)
    broadcast, axis = (call.attribute("broadcast", 0), call.attribute("axis")) if call.version < 7 else (0, None)
    if broadcast and axis is not None:
        axis = axis % a.dim()
        b = b.reshape(*b.shape, *[1] * (a.dim() - axis - b.dim()))
    return a, b


def _divided(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b) if a.is_floating_point() or a.is_complex() else torch.div(a, b, rounding_mode="trunc")


def _truncated(a: Any, b: Any) -> Any:
    """Integer division of the standard: towards zero."""
    quotient = abs(a) // abs(b)
    return quotient if (a >= 0) == (b >= 0) else -quotient


def _binary(name: str, function: Callable[[Tensor, Tensor], Tensor], host: Callable[[Any, Any], Any] | None) -> None:
    def on_host(call: Call) -> Known:
        a, b = call.known(0), call.known(1)
        return known(_each(host, a.array, b.array), a.dtype)

    operator(name, host=on_host if host else None)(lambda call: function(*_aligned(call)))


def _each(function: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A function of two Python numbers on all pairs of elements."""
    within_limit(np.broadcast_shapes(a.shape, b.shape))
    a, b = np.broadcast_arrays(np.asarray(a, object), np.asarray(b, object))
    out = np.empty(a.shape, object)
    for index in np.ndindex(*a.shape):
        out[index] = function(_number(a[index]), _number(b[index]))
    return out


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _host_divided(a: Any, b: Any) -> Any:
    return a / b if isinstance(a, float) or isinstance(b, float) else _truncated(a, b)


_binary("Add", torch.add, python.add)
_binary("Sub", torch.sub, python.sub)
_binary("Mul", torch.mul, python.mul)
_binary("Div", _divided, _host_divided)
_binary("BitwiseAnd", torch.bitwise_and, None)
_binary("BitwiseOr", torch.bitwise_or, None)
_binary("BitwiseXor", torch.bitwise_xor, None)


def _comparison(name: str, function: Callable[[Tensor, Tensor], Tensor], host: Callable[[Any, Any], Any]) -> None:
    def on_host(call: Call) -> Known:
        return known(_each(lambda a, b: bool(host(a, b)), call.known(0).array, call.known(1).array), torch.bool)

    operator(name, host=on_host)(lambda call: function(*_aligned(call)))


_comparison("Equal", torch.eq, python.eq)
_comparison("Less", torch.lt, python.lt)
_comparison("Greater", torch.gt, python.gt)
_comparison("LessOrEqual", torch.le, python.le)
_comparison("GreaterOrEqual", torch.ge, python.ge)
_comparison("And", torch.logical_and, lambda a, b: a and b)
_comparison("Or", torch.logical_or, lambda a, b: a or b)
_comparison("Xor", torch.logical_xor, lambda a, b: bool(a) != bool(b))


@operator("Pow")
def _pow(call: Call) -> Tensor:
    base, exponent = _aligned(call)
    if not base.is_floating_point() and exponent.is_floating_point():
        return torch.pow(base.double(), exponent.double()).to(base.dtype)
    if base.is_floating_point() and call.has(1) and isinstance(call.value(1), Known) and exponent.numel() == 1:
        value = call.scalar(1)
        if exponent.dim() <= base.dim():
            return torch.pow(base, value)
    return torch.pow(base, exponent.to(base.dtype))


@operator("Mod")
def _mod(call: Call) -> Tensor:
    a, b = call.tensor(0), call.tensor(1)
    return torch.fmod(a, b) if call.attribute("fmod", 0) else torch.remainder(a, b)


@operator("BitShift")
def _shift(call: Call) -> Tensor:
    a, b = call.tensor(0), call.tensor(1)
    left = call.attribute("direction") == "LEFT"
    wide = a.to(torch.int64)
    moved = torch.bitwise_left_shift(wide, b.long()) if left else torch.bitwise_right_shift(wide, b.long())
    return moved.to(a.dtype)


@operator("Min", "Max", "Sum", "Mean", host=lambda call: _folded_on_host(call))
def _folded(call: Call) -> Tensor:
    values = [call.tensor(i) for i in range(call.count)]
    name = call.node.op_type
    function = {"Min": torch.minimum, "Max": torch.maximum}.get(name, torch.add)
    total = reduce(function, values)
    return total / len(values) if name == "Mean" else total


def _folded_on_host(call: Call) -> Known:
    arrays = [call.known(i).array for i in range(call.count)]
    name = call.node.op_type
    function: Any = {"Min": min, "Max": max}.get(name, python.add)
    total = reduce(lambda a, b: _each(function, a, b), arrays)
    return _like(call, np.asarray(total / len(arrays) if name == "Mean" else total))


@operator("Where", host=lambda call: _where_on_host(call))
def _where(call: Call) -> Tensor:
    return torch.where(call.tensor(0), call.tensor(1), call.tensor(2))


def _where_on_host(call: Call) -> Known:
    test, a, b = (call.known(i).array for i in range(3))
    within_limit(np.broadcast_shapes(test.shape, a.shape, b.shape))
    return known(np.where(test.astype(bool), a.astype(object), b.astype(object)), call.known(1).dtype)


@operator("Identity", host=lambda call: call.value(0))
def _identity(call: Call) -> Any:
    return call.value(0)


@operator("Cast", "CastLike", host=lambda call: _cast_on_host(call))
def _cast(call: Call) -> Tensor | Narrow:
    target, value = _target(call), call.value(0)
    saturate, round_mode = bool(call.attribute("saturate", 1)), call.attribute("round_mode", "up")
    x = decoded(value) if isinstance(value, Narrow) else call.tensor()
    return encoded(x, target, saturate, round_mode) if isinstance(target, NarrowType) else x.to(target)


def _target(call: Call) -> torch.dtype | NarrowType:
    if call.node.op_type == "CastLike":
        like = call.value(1)
        return like.kind if isinstance(like, Narrow) else call.tensor(1).dtype
    to = call.attribute("to")
    dtype = ir.DataType[to] if isinstance(to, str) else ir.DataType(to)
    return narrow_type(dtype) or torch_dtype(dtype, call.place())


def _cast_on_host(call: Call) -> Known:
    value, dtype = call.known(0), _target(call)
    call.attribute("saturate")
    call.attribute("round_mode")
    if isinstance(dtype, NarrowType):
        raise NotAhead
    if value.symbolic:
        if dtype.is_floating_point:
            array = _each(lambda a, _: torch.sym_float(a), value.array, np.zeros((), object))  # type: ignore[no-untyped-call]
            return Known(array, dtype)
        return known(value.array, dtype)
    plain = value.array if value.array.dtype != object else value.array.astype(np.float64)
    tensor = torch.from_numpy(np.array(plain)).to(dtype)
    return Known(tensor.float().numpy() if dtype == torch.bfloat16 else tensor.numpy(), dtype)


@operator("Clip", host=None)
def _clip(call: Call) -> Tensor:
    """Bounds are attributes before opset 11, then inputs."""
    x = call.tensor()
    if call.version < 11:
        return torch.clamp(
            x, call.attribute("min", -3.4028234663852886e38), call.attribute("max", 3.4028234663852886e38)
        )
    if all(not call.has(i) or isinstance(call.value(i), Known) for i in (1, 2)):
        low, high = call.scalar(1, None), call.scalar(2, None)
        return x if low is None and high is None else torch.clamp(x, low, high)
    low, high = call.optional(1), call.optional(2)
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@operator("LeakyRelu")
def _leaky_relu(call: Call) -> Tensor:
    return F.leaky_relu(call.tensor(), call.attribute("alpha", 0.01))


@operator("PRelu")
def _prelu(call: Call) -> Tensor:
    x, slope = call.tensor(0), call.tensor(1)
    if call.version < 7 and slope.dim() == 1 and x.dim() > 1 and slope.numel() > 1:
        slope = slope.reshape(-1, *[1] * (x.dim() - 2))
    return torch.where(x < 0, slope * x, x)


@operator("Elu")
def _elu(call: Call) -> Tensor:
    return F.elu(call.tensor(), call.attribute("alpha", 1.0))


@operator("Celu")
def _celu(call: Call) -> Tensor:
    return F.celu(call.tensor(), call.attribute("alpha", 1.0))


@operator("Selu")
def _selu(call: Call) -> Tensor:
    x, alpha, gamma = (
        call.tensor(),
        call.attribute("alpha", 1.6732632423543772),
        call.attribute("gamma", 1.0507009873554805),
    )
    y: Tensor = gamma * torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))
    return y


@operator("ThresholdedRelu")
def _thresholded(call: Call) -> Tensor:
    x = call.tensor()
    return torch.where(x > call.attribute("alpha", 1.0), x, torch.zeros_like(x))


@operator("HardSigmoid")
def _hard_sigmoid(call: Call) -> Tensor:
    return torch.clamp(call.tensor() * call.attribute("alpha", 0.2) + call.attribute("beta", 0.5), 0, 1)


@operator("Shrink")
def _shrink(call: Call) -> Tensor:
    x, bias, limit = call.tensor(), call.attribute("bias", 0.0), call.attribute("lambd", 0.5)
    low, high = torch.where(x < -limit, x + bias, torch.zeros_like(x)), x - bias
    return torch.where(x > limit, high, low).to(x.dtype)


@operator("Gelu")
@operator("Gelu", domain="com.microsoft")
def _gelu(call: Call) -> Tensor:
    return F.gelu(call.tensor(), approximate=call.attribute("approximate", "none"))


@operator("FastGelu", domain="com.microsoft")
def _fast_gelu(call: Call) -> Tensor:
    x, bias = call.tensor(0), call.optional(1)
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain="com.microsoft")
@operator("Swish")
def _quick_gelu(call: Call) -> Tensor:
    x = call.tensor()
    default = 1.702 if call.node.domain else 1.0
    return x * torch.sigmoid(call.attribute("alpha", default) * x)


@operator("BiasGelu", domain="com.microsoft")
def _bias_gelu(call: Call) -> Tensor:
    return F.gelu(call.tensor(0) + call.tensor(1))


@operator("SwiGLU")
def _swiglu(call: Call) -> Tensor:
    gate = call.tensor(0)
    return gate * torch.sigmoid(call.attribute("alpha", 1.0) * gate) * call.tensor(1)


@operator("BitCast")
def _bit_cast(call: Call) -> Tensor:
    return call.tensor().view(torch_dtype(ir.DataType(call.attribute("to")), call.place()))


@operator("IsInf")
def _is_inf(call: Call) -> Tensor:
    x = call.tensor()
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.attribute("detect_positive", 1):
        found = found | (x == float("inf"))
    if call.attribute("detect_negative", 1):
        found = found | (x == -float("inf"))
    return found


@operator("Softmax", "LogSoftmax", "Hardmax", since=13)
def _softmax(call: Call) -> Tensor:
    return _over(call, call.tensor(), call.attribute("axis", -1))


@operator("Softmax", "LogSoftmax", "Hardmax", since=1)
def _softmax_of_matrix(call: Call) -> Tensor:
    """Before opset 13: over all dimensions from `axis` on."""
    x = call.tensor()
    axis = call.attribute("axis", 1) % max(1, x.dim())
    flat = x.reshape(*x.shape[:axis], -1)
    return _over(call, flat, -1).reshape(x.shape)


def _over(call: Call, x: Tensor, axis: int) -> Tensor:
    match call.node.op_type:
        case "Softmax":
            return torch.softmax(x, axis)
        case "LogSoftmax":
            return torch.log_softmax(x, axis)
    best = torch.argmax(x, axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, 1)


@operator("Dropout", ignores=("seed", "ratio"))
def _dropout(call: Call) -> tuple[Tensor, Tensor]:
    """In inference, or where it drops nothing, the result is the input; its mask is all true."""
    x = call.tensor()
    call.value(1)
    training = call.scalar(2, False) if call.version >= 12 else call.version < 7 and not call.attribute("is_test", 0)
    if training and (call.version < 12 or call.scalar(1, 0.5) != 0):
        raise call.error("dropout in training mode is not supported")
    mask = torch.ones_like(x, dtype=torch.bool)
    return x, mask if call.version >= 10 else mask.to(x.dtype)
