"""Scalar formulas of the functions that models are made of."""

from __future__ import annotations

import math

from ullage.codegen.loops.ir import Apply, Const, Expr
from ullage.codegen.lower.values import literal


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
    return clamp(x, const_like(0, x), None)


def clamp(x: Expr, low: Expr | None, high: Expr | None) -> Expr:
    """min(max(x, low), high) that keeps NaN."""
    if low is not None:
        x = op("max", x, low) if _is_float_number(low) else op("where", op("lt", x, low), low, x)
    if high is None:
        return x
    return op("min", x, high) if _is_float_number(high) else op("where", op("gt", x, high), high, x)


def _is_float_number(bound: Expr) -> bool:
    """Whether a bound of floats is known and no NaN: one instruction, which keeps NaN."""
    return isinstance(bound, Const) and is_float(bound) and bound.value == bound.value


def scaled(x: Expr, factor: float) -> Expr:
    return op("mul", x, const_like(factor, x))


def plus(x: Expr, term: float) -> Expr:
    return op("add", x, const_like(term, x))


def gelu_erf(x: Expr) -> Expr:
    """x·Φ(x) by the error function."""
    return op("mul", scaled(x, 0.5), plus(op("erf", scaled(x, math.sqrt(0.5))), 1.0))


def gelu_tanh(x: Expr) -> Expr:
    """The tanh approximation of GELU (Hendrycks and Gimpel 2016)."""
    cubed = op("mul", op("mul", x, x), x)
    inner = scaled(op("add", x, scaled(cubed, 0.044715)), math.sqrt(2.0 / math.pi))
    return op("mul", scaled(x, 0.5), plus(op("tanh", inner), 1.0))


def sigmoid(x: Expr) -> Expr:
    """The logistic function."""
    return op("sigmoid", x)


def silu(x: Expr) -> Expr:
    """x·sigmoid(x)."""
    return op("mul", x, sigmoid(x))


def softplus(x: Expr, beta: float = 1.0, threshold: float = 20.0) -> Expr:
    """log(1 + exp(beta·x)) / beta, linear above the threshold."""
    steep = scaled(x, beta)
    soft = op("div", op("log1p", op("exp", steep)), const_like(beta, x))
    return op("where", op("gt", steep, const_like(threshold, x)), x, soft)


def hardsigmoid(x: Expr) -> Expr:
    """relu6(x + 3) / 6."""
    return op("div", clamp(plus(x, 3.0), const_like(0, x), const_like(6, x)), const_like(6, x))


def hardswish(x: Expr) -> Expr:
    """x·relu6(x + 3) / 6."""
    return op("div", op("mul", x, clamp(plus(x, 3.0), const_like(0, x), const_like(6, x))), const_like(6, x))


_SQUARE_IS_HUGE = 1e9
"""From here on √(x² ± 1) is x in float64, and x² is still finite in float32."""


def _far(x: Expr, near: Expr) -> Expr:
    """log 2x where x is so large that an inverse hyperbolic function is that."""
    far = plus(op("log", x), math.log(2.0))
    return op("where", op("gt", x, const_like(_SQUARE_IS_HUGE, x)), far, near)


def asinh(x: Expr) -> Expr:
    """±log1p(|x| + x² / (1 + √(x² + 1))), which loses nothing near 0."""
    size = op("abs", x)
    square = op("mul", x, x)
    rest = op("div", square, plus(op("sqrt", plus(square, 1.0)), 1.0))
    value = _far(size, op("log1p", op("add", size, rest)))
    return op("where", op("lt", x, const_like(0, x)), op("neg", value), value)


def acosh(x: Expr) -> Expr:
    """log1p(t + √(t² + 2t)) with t = x − 1, which loses nothing near 1."""
    t = plus(x, -1.0)
    root = op("sqrt", op("mul", t, plus(t, 2.0)))
    return _far(x, op("log1p", op("add", t, root)))


def atanh(x: Expr) -> Expr:
    """±½ log1p(2|x| / (1 − |x|))."""
    size = op("abs", x)
    quotient = op("div", op("add", size, size), op("sub", const_like(1, x), size))
    value = scaled(op("log1p", quotient), 0.5)
    return op("where", op("lt", x, const_like(0, x)), op("neg", value), value)
