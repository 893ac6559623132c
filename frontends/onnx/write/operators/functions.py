"""Functions of one tensor: elementary functions and activations."""

from __future__ import annotations

import math
from collections.abc import Callable

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.operators.arithmetic import truncated
from ullage.frontends.onnx.write.table import Call, aten, writes
from ullage.frontends.onnx.write.types import arithmetic

_OPERATORS = {
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin",
    "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "tanh": "Tanh", "sigmoid": "Sigmoid", "erf": "Erf",
    "reciprocal": "Reciprocal", "neg": "Neg", "abs": "Abs", "sign": "Sign", "sgn": "Sign", "hardswish": "HardSwish",
    "mish": "Mish", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
}  # fmt: skip
"""Functions that ONNX has by another name."""


def _named(operator: str) -> Callable[[Call], Value]:
    return lambda call: call.elementwise((call["self"],), lambda x: call.op(operator, x))


for _name, _operator in _OPERATORS.items():
    writes(getattr(aten, _name))(_named(_operator))


def _number(call: Call, value: float) -> Value:
    return call.value(float(value), call.dtype)


def _scaled(call: Call, x: Value, factor: float) -> Value:
    return x if factor == 1 else call.op("Mul", x, _number(call, factor))


def expm1(call: Call, x: Value) -> Value:
    """exp(x) − 1 without cancellation: 2 sinh(x / 2) exp(x / 2); below −60 it is −1."""
    half = _scaled(call, call.op("Max", x, _number(call, -60)), 0.5)
    return _scaled(call, call.op("Mul", call.op("Sinh", half), call.op("Exp", half)), 2)


def _log1p(call: Call, x: Value) -> Value:
    """log(1 + x), near 0 as 2 artanh(x / (2 + x))."""
    near = _scaled(call, call.op("Atanh", call.op("Div", x, call.op("Add", x, _number(call, 2)))), 2)
    small = call.op("Less", call.op("Abs", x), _number(call, 0.5))
    return call.op("Where", small, near, call.op("Log", call.op("Add", x, _number(call, 1))))


def _silu(call: Call, x: Value) -> Value:
    return call.op("Mul", x, call.op("Sigmoid", x))


_FORMULAS: dict[str, Callable[[Call, Value], Value]] = {
    "exp2": lambda call, x: call.op("Pow", _number(call, 2), x),
    "expm1": expm1,
    "log1p": _log1p,
    "log2": lambda call, x: _scaled(call, call.op("Log", x), 1 / math.log(2)),
    "log10": lambda call, x: _scaled(call, call.op("Log", x), 1 / math.log(10)),
    "rsqrt": lambda call, x: call.op("Reciprocal", call.op("Sqrt", x)),
    "silu": _silu,
    "hardsigmoid": lambda call, x: call.op("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "erfc": lambda call, x: call.op("Sub", _number(call, 1), call.op("Erf", x)),
    "log_sigmoid": lambda call, x: call.op("Neg", call.op("Softplus", call.op("Neg", x))),
    "square": lambda call, x: call.op("Mul", x, x),
    "relu": lambda call, x: _relu(call, x),
}


def _relu(call: Call, x: Value) -> Value:
    if call.dtype.is_floating_point:
        return call.op("Relu", x)
    return call.op("Max", x, call.block.number(0, arithmetic(call.dtype)))


def _formula(formula: Callable[[Call, Value], Value]) -> Callable[[Call], Value]:
    return lambda call: call.elementwise((call["self"],), lambda x: formula(call, x))


for _name, _written in _FORMULAS.items():
    writes(getattr(aten, _name))(_formula(_written))


_ROUNDINGS = {"floor": "Floor", "ceil": "Ceil", "round": "Round"}


@writes(aten.floor, aten.ceil, aten.trunc, aten.round)
def _rounded(call: Call) -> Value:
    """Rounded to whole numbers, `round` to even ones; integers stay."""
    name = str(call.node.target).split(".")[1]
    x = call.value(call["self"])
    if not call.dtype.is_floating_point:
        return x
    if call["decimals"]:
        factor = 10.0 ** call["decimals"]
        return call.op("Div", call.op("Round", _scaled(call, x, factor)), _number(call, factor))
    return truncated(call, x) if name == "trunc" else call.op(_ROUNDINGS[name], x)


@writes(aten.isnan, aten.isinf, aten.isfinite)
def _classified(call: Call) -> Value:
    x, name = call.value(call["self"]), str(call.node.target).split(".")[1]
    if not call.fake(call["self"]).is_floating_point():
        return call.op("Equal", x, x) if name == "isfinite" else call.op("Not", call.op("Equal", x, x))
    tests: dict[str, Callable[[], Value]] = {"isnan": lambda: call.op("IsNaN", x), "isinf": lambda: call.op("IsInf", x)}
    if name in tests:
        return tests[name]()
    return call.op("Not", call.op("Or", *(test() for test in tests.values())))


@writes(aten.clone, aten.contiguous, aten.alias, aten.detach, aten.lift_fresh_copy)
def _same(call: Call) -> Value:
    return call.value(call["self"])


@writes(aten.gelu)
def _gelu(call: Call) -> Value:
    return call.elementwise((call["self"],), lambda x: call.op("Gelu", x, approximate=call["approximate"]))


@writes(aten.leaky_relu)
def _leaky_relu(call: Call) -> Value:
    slope = float(call["negative_slope"])
    return call.elementwise((call["self"],), lambda x: call.op("LeakyRelu", x, alpha=slope))


@writes(aten.elu, aten.selu, aten.celu)
def _elu(call: Call) -> Value:
    if call.node.target is aten.selu.default:
        return call.elementwise((call["self"],), lambda x: call.op("Selu", x))
    alpha = float(call["alpha"])
    if call.node.target is aten.celu.default:
        return call.elementwise((call["self"],), lambda x: call.op("Celu", x, alpha=alpha))
    scale, inner = float(call["scale"]), float(call["input_scale"])
    if scale == inner == 1:
        return call.elementwise((call["self"],), lambda x: call.op("Elu", x, alpha=alpha))

    def written(x: Value) -> Value:
        negative = _scaled(call, expm1(call, _scaled(call, x, inner)), alpha * scale)
        return call.op("Where", call.op("Greater", x, _number(call, 0)), _scaled(call, x, scale), negative)

    return call.elementwise((call["self"],), written)


@writes(aten.softplus)
def _softplus(call: Call) -> Value:
    beta, threshold = float(call["beta"]), float(call["threshold"])

    def written(x: Value) -> Value:
        steep = _scaled(call, x, beta)
        soft = _scaled(call, call.op("Softplus", steep), 1 / beta)
        if threshold >= 20:
            return soft
        return call.op("Where", call.op("Greater", steep, _number(call, threshold)), x, soft)

    return call.elementwise((call["self"],), written)


@writes(aten.prelu)
def _prelu(call: Call) -> Value:
    rank, weight = call.fake().dim(), call.fake(call["weight"])
    slope = call.value(call["weight"], call.dtype)
    if weight.dim() == 1 and rank > 1:
        slope = call.op("Reshape", slope, call.block.ints(-1, *[1] * (rank - 2)))
    return call.op("PRelu", call.value(call["self"]), slope)


@writes(aten.glu)
def _glu(call: Call) -> Value:
    axis = call["dim"] % call.fake().dim()
    first, second = call.block.ops("Split", call.value(call["self"]), outputs=2, axis=axis, num_outputs=2)
    return call.op("Mul", first, call.op("Sigmoid", second))
