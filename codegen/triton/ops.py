"""Triton text of scalar operators, conversions and literals, and the helper functions that some of them call.

Values of float16 and bfloat16 are held as float32 that was rounded; bool is int1; other dtypes hold themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ullage.codegen.loops.ir import FLOATS

HALVES = frozenset({"float16", "bfloat16"})
_NARROW = frozenset({"int16", "int8", "uint8", "uint16"})
_NEVER_ROUNDS = frozenset({"max", "min", "neg", "abs", "where", "sign", "floor", "ceil", "round", "trunc"})
POINTER_TYPES: Mapping[str, str] = {
    "float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int64": "i64", "int32": "i32",
    "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "i1",
    "uint64": "u64", "uint32": "u32", "uint16": "u16",
}  # fmt: skip


def type_text(dtype: str) -> str:
    """The Triton type of a dtype in memory."""
    return f"tl.{'int1' if dtype == 'bool' else dtype}"


def held_text(dtype: str) -> str:
    """The Triton type that values of a dtype are held in."""
    return "tl.float32" if dtype in HALVES else type_text(dtype)


def literal(value: int | float | bool, dtype: str) -> str:
    """A scalar of the held type."""
    if dtype not in FLOATS:
        return f"tl.full((), {bool(value) if dtype == 'bool' else int(value)}, {held_text(dtype)})"
    number = repr(float(value))
    text = number if number[-1].isdigit() else f'float("{number}")'
    return rounded(f"tl.full((), {text}, {held_text(dtype)})", dtype)


def rounded(text: str, dtype: str) -> str:
    """The held value rounded to a half type (other dtypes: as it is)."""
    return f"{halved(text, dtype)}.to(tl.float32)" if dtype in HALVES else text


def halved(text: str, dtype: str) -> str:
    """A float32 value in a half type, rounded to nearest even."""
    return f"({text}).to({type_text(dtype)})"


def loaded(text: str, dtype: str) -> str:
    """The held value of what a `tl.load` gave."""
    return f"{text}.to(tl.float32)" if dtype in HALVES else text


def cast(text: str, source: str, target: str) -> str:
    """A conversion between held values."""
    if source == target:
        return text
    if target == "bool":
        return f"({text} != 0)"
    if source in FLOATS and target in _NARROW:
        text = f"{text}.to(tl.int64)"
    if target in HALVES:
        return rounded(f"{text}.to(tl.float32)", target)
    return f"{text}.to({held_text(target)})"


_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip
_BITS = {"and": "&", "or": "|", "xor": "^"}
_SHARED = {
    "where": "tl.where({0}, {1}, {2})", "max": "ull_max({0}, {1})", "min": "ull_min({0}, {1})",
    "sign": "ull_sign({0})", "bits": "{0}",
    **{name: f"({{0}} {symbol} {{1}})" for name, symbol in _INFIX.items()},
}  # fmt: skip
_LIBDEVICE = {
    "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2", "log1p": "log1p", "sin": "sin",
    "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "erf": "erf", "floor": "floor", "ceil": "ceil", "round": "rint", "trunc": "trunc",
}  # fmt: skip
_FLOAT = {
    **_SHARED,
    **{op: f"libdevice.{name}({{0}})" for op, name in _LIBDEVICE.items()},
    "pow": "libdevice.pow({0}, {1})", "fmod": "libdevice.fmod({0}, {1})", "atan2": "libdevice.atan2({0}, {1})",
    "div": "ull_div({0}, {1})", "reciprocal": "ull_div(ull_one({0}), {0})", "sqrt": "ull_sqrt({0})",
    "rsqrt": "ull_div(ull_one({0}), ull_sqrt({0}))", "sigmoid": "ull_sigmoid({0})", "neg": "({0} * -1)",
    "abs": "tl.abs({0})", "isnan": "({0} != {0})", "isinf": '(tl.abs({0}) == float("inf"))',
}  # fmt: skip
_INT = {
    **_SHARED,
    **{op: f"({{0}} {symbol} {{1}})" for op, symbol in _BITS.items()},
    "not": "({0} ^ -1)", "neg": "({0} * -1)", "abs": "tl.where({0} < 0, {0} * -1, {0})",
    "div": "ull_truncdiv({0}, {1})", "truncdiv": "ull_truncdiv({0}, {1})", "fmod": "ull_fmod({0}, {1})",
    "floordiv": "ull_floordiv({0}, {1})", "mod": "ull_mod({0}, {1})", "pow": "ull_pow({0}, {1})",
    "shl": "ull_shl({0}, {1}, {bits})", "shr": "ull_shr({0}, {1}, {bits})",
    "floor": "{0}", "ceil": "{0}", "round": "{0}", "trunc": "{0}",
}  # fmt: skip
_BOOL = {
    "and": "({0} & {1})", "or": "({0} | {1})", "xor": "({0} ^ {1})", "not": "({0} == 0)", "add": "({0} | {1})",
    "mul": "({0} & {1})", "max": "({0} | {1})", "min": "({0} & {1})", "eq": "({0} == {1})", "ne": "({0} != {1})",
    "where": "tl.where({0}, {1}, {2})",
    **{op: f"({{0}}.to(tl.int32) {_INFIX[op]} {{1}}.to(tl.int32))" for op in ("lt", "le", "gt", "ge")},
}  # fmt: skip


def template(op: str, dtype: str) -> str | None:
    """The text of an operator on arguments of a dtype, with numbered places, or None if Triton has none."""
    table = _FLOAT if dtype in FLOATS else _BOOL if dtype == "bool" else _INT
    return table.get(op)


def apply(op: str, argument_dtype: str, dtype: str, args: list[str]) -> str:
    """An operator applied to held values; results of halves are rounded, narrow integers wrap."""
    if op == "bits":
        stored = halved(args[0], argument_dtype) if argument_dtype in HALVES else args[0]
        return loaded(f"({stored}).to({type_text(dtype)}, bitcast=True)", dtype)
    text = template(op, argument_dtype)
    assert text is not None, f"{op} on {argument_dtype}"
    bits = 64 if argument_dtype in ("int64", "uint64") else 32
    if argument_dtype in _NARROW:
        args = [f"{a}.to(tl.int32)" for a in args] if op != "where" else args
    result = text.format(*args, bits=bits)
    if dtype in _NARROW:
        return f"({result}).to({held_text(dtype)})"
    return result if op in _NEVER_ROUNDS else rounded(result, dtype)


@dataclass(frozen=True, slots=True)
class Helper:
    """A device function and the helpers that it calls."""

    text: str
    needs: tuple[str, ...] = ()


def _function(signature: str, *lines: str) -> str:
    return "\n".join(["@triton.jit", f"def {signature}:", *("    " + line for line in lines), ""])


HELPERS: Mapping[str, Helper] = {
    "ull_max": Helper(_function("ull_max(a, b)", "return tl.where((a > b) | (a != a), a, b)")),
    "ull_min": Helper(_function("ull_min(a, b)", "return tl.where((a < b) | (a != a), a, b)")),
    "ull_sum": Helper(_function("ull_sum(a, b)", "return a + b")),
    "ull_prod": Helper(_function("ull_prod(a, b)", "return a * b")),
    "ull_linear": Helper(_function("ull_linear(a, b, c, d)", "return a * c, c * b + d")),
    "ull_one": Helper(_function("ull_one(x)", "return tl.full((), 1, x.dtype)")),
    "ull_sign": Helper(_function("ull_sign(x)", "return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)")),
    "ull_div": Helper(
        _function(
            "ull_div(a, b)",
            "if b.dtype == tl.float64:",
            "    return a / b",
            "else:",
            "    return tl.div_rn(a, b)",
        )
    ),
    "ull_sqrt": Helper(
        _function(
            "ull_sqrt(x)",
            "if x.dtype == tl.float64:",
            "    return libdevice.sqrt(x)",
            "else:",
            "    return tl.sqrt_rn(x)",
        )
    ),
    "ull_sigmoid": Helper(
        _function(
            "ull_sigmoid(x)",
            "z = libdevice.exp(tl.abs(x) * -1)",
            "return ull_div(tl.where(x < 0, z, ull_one(x)), z + 1)",
        ),
        ("ull_div", "ull_one"),
    ),
    "ull_truncdiv": Helper(
        _function(
            "ull_truncdiv(a, b)",
            "safe = (b != 0) & (b != -1)",
            "quotient = a // tl.where(safe, b, 1)",
            "return tl.where(b == 0, quotient * 0, tl.where(b == -1, a * -1, quotient))",
        )
    ),
    "ull_fmod": Helper(
        _function("ull_fmod(a, b)", "return tl.where(b == 0, b, a - ull_truncdiv(a, b) * b)"), ("ull_truncdiv",)
    ),
    "ull_floordiv": Helper(
        _function(
            "ull_floordiv(a, b)",
            "rest = ull_fmod(a, b)",
            "return ull_truncdiv(a, b) - ((rest != 0) & ((rest < 0) != (b < 0))).to(a.dtype)",
        ),
        ("ull_fmod", "ull_truncdiv"),
    ),
    "ull_mod": Helper(
        _function(
            "ull_mod(a, b)",
            "rest = ull_fmod(a, b)",
            "return tl.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)",
        ),
        ("ull_fmod",),
    ),
    "ull_pow": Helper(
        _function(
            "ull_pow(a, b)",
            "power = a * 0 + 1 + b * 0",
            "base = a + b * 0",
            "for bit in tl.static_range(0, 63 if b.dtype == tl.int64 else 31):",
            "    power = tl.where((b >> bit) & 1 != 0, power * base, power)",
            "    base = base * base",
            "unit = tl.where(a == 1, 1, tl.where(a == -1, 1 - 2 * (b & 1), 0)).to(power.dtype)",
            "return tl.where(b < 0, unit, power)",
        )
    ),
    "ull_shl": Helper(
        _function(
            "ull_shl(a, b, bits: tl.constexpr)",
            "inside = (b >= 0) & (b < bits)",
            "return tl.where(inside, a << tl.where(inside, b, 0), a * 0)",
        )
    ),
    "ull_shr": Helper(
        _function(
            "ull_shr(a, b, bits: tl.constexpr)",
            "inside = (b >= 0) & (b < bits)",
            "return tl.where(inside, a >> tl.where(inside, b, 0), (a < 0).to(a.dtype) * -1)",
        )
    ),
    "ull_argmax": Helper(
        _function(
            "ull_argmax(a, i, b, j)",
            "better = (a > b) | ((a != a) & (b == b))",
            "equal = (a == b) | ((a != a) & (b != b))",
            "first = better | (equal & (i < j))",
            "return tl.where(first, a, b), tl.where(first, i, j)",
        )
    ),
    "ull_argmin": Helper(
        _function(
            "ull_argmin(a, i, b, j)",
            "better = (a < b) | ((a != a) & (b == b))",
            "equal = (a == b) | ((a != a) & (b != b))",
            "first = better | (equal & (i < j))",
            "return tl.where(first, a, b), tl.where(first, i, j)",
        )
    ),
}


def helper_source(text: str) -> str:
    """The helper functions that a text calls, in an order in which each stands before its callers."""
    wanted: dict[str, None] = {}

    def want(name: str) -> None:
        for needed in HELPERS[name].needs:
            want(needed)
        wanted.setdefault(name)

    for name in HELPERS:
        if f"{name}(" in text or f"{name})" in text or f"{name}," in text:
            want(name)
    return "\n\n".join(HELPERS[name].text for name in wanted)
