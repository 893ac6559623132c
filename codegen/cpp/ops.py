"""The C++ text of scalar operators, conversions and literals, for N lanes (N = 1: plain scalars).

Each operator rounds on its own: products go through `ull_mul`, which the compiler cannot contract with a later sum, so
that bits do not depend on what was fused with what.
"""

from __future__ import annotations

import math
import struct

from ullage.codegen.loops.ir import FLOATS, Const

STORAGE: dict[str, str] = {
    "float64": "double", "float32": "float", "float16": "ull_u16", "bfloat16": "ull_u16", "int64": "ull_i64",
    "int32": "int", "int16": "short", "int8": "ull_i8", "uint8": "ull_u8", "bool": "ull_u8", "uint16": "ull_u16",
    "uint32": "unsigned", "uint64": "ull_u64",
}  # fmt: skip
HALVES = frozenset({"float16", "bfloat16"})
NARROW_INTEGERS = frozenset({"int8", "uint8", "int16", "uint16"})
_REGISTER = {
    "float64": "ull_f64", "float32": "ull_f32", "float16": "ull_f32", "bfloat16": "ull_f32", "int64": "ull_i64v",
    "int32": "ull_i32", "int16": "ull_i32", "int8": "ull_i32", "uint8": "ull_i32", "bool": "ull_m",
    "uint16": "ull_i32", "uint32": "ull_u32", "uint64": "ull_u64v",
}  # fmt: skip
_CLASS = {"ull_f64": "f64", "ull_f32": "f32", "ull_i64v": "i64", "ull_i32": "i32", "ull_m": "mask"}
_CLASS |= {"ull_u32": "u32", "ull_u64v": "u64"}
_INFIX = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^"}
_BOOL_INFIX = {"and": "&", "or": "|", "xor": "^", "add": "|", "mul": "&", "max": "|", "min": "&"}
_COMPARE = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_INT_CALLS = {
    "floordiv": "ull_floordiv_int", "mod": "ull_mod_int", "truncdiv": "ull_truncdiv_int", "div": "ull_truncdiv_int",
    "fmod": "ull_fmod_int", "shl": "ull_shl", "shr": "ull_shr", "pow": "ull_pow_int", "max": "ull_max",
    "min": "ull_min", "abs": "ull_abs", "sign": "ull_sign",
}  # fmt: skip
_NEVER_ROUNDS = frozenset({"max", "min", "neg", "abs", "where", "sign", "floor", "ceil", "round", "trunc"})
_IDENTITY_ON_INTEGERS = frozenset({"floor", "ceil", "round", "trunc"})


_UNSIGNED = {"uint32": (32, "u"), "uint64": (64, "ul")}


def register_class(dtype: str) -> str:
    """f32, f64, i32, u32, i64, u64 or mask: how values of a dtype are held in registers."""
    return _CLASS[_REGISTER[dtype]]


def register_type(dtype: str, n: int) -> str:
    """The C++ type of N lanes of a dtype in registers."""
    return f"{_REGISTER[dtype]}<{n}>"


def literal(value: int | float | bool, dtype: str) -> str:
    """A scalar literal in the register type of a dtype, exact to the bit."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype in FLOATS:
        return _float_literal(_rounded(float(value), dtype), "" if dtype == "float64" else "f")
    number = int(value)
    if dtype in _UNSIGNED:
        bits, suffix = _UNSIGNED[dtype]
        return f"{number % (1 << bits)}{suffix}"
    if dtype == "int64":
        return "(-9223372036854775807L - 1)" if number == -(2**63) else f"{number}L"
    return "(-2147483647 - 1)" if number == -(2**31) else str(number)


def _rounded(value: float, dtype: str) -> float:
    """The nearest value that a float dtype holds (overflow gives an infinity)."""
    if dtype == "float64" or not math.isfinite(value):
        return value
    if dtype == "bfloat16":
        bits = int(struct.unpack("<I", struct.pack("<f", _rounded(value, "float32")))[0])
        kept = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        return float(struct.unpack("<f", struct.pack("<I", kept))[0])
    try:
        code = "<f" if dtype == "float32" else "<e"
        return float(struct.unpack(code, struct.pack(code, value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def _float_literal(value: float, suffix: str) -> str:
    if math.isnan(value):
        return f'__builtin_nan{suffix}("")'
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}__builtin_inf{suffix}()"
    return f"{value.hex()}{suffix}"


def splat_text(text: str, dtype: str, n: int) -> str:
    """All N lanes equal to one scalar."""
    if n == 1:
        return text
    return f"ull_splat_mask<{n}>({text})" if dtype == "bool" else f"ull_splat<{n}>({text})"


def apply_text(op: str, dtype: str, arg_dtype: str, args: list[str], n: int) -> str:
    """`op` over arguments of `arg_dtype` (the last argument's dtype) giving `dtype`."""
    if op == "where":
        return f"ull_select<{n}>({', '.join(args)})"
    if op == "bits":
        return _bits_text(args[0], arg_dtype, dtype, n)
    if op in _COMPARE:
        return f"ull_{op}<{n}>({args[0]}, {args[1]})"
    if arg_dtype == "bool":
        return _bool_text(op, args, n)
    if arg_dtype in FLOATS:
        return _rounding(op, dtype, _float_text(op, arg_dtype, args, n), n)
    return wrap_text(_int_text(op, arg_dtype, args, n), arg_dtype, n)


def _bits_text(text: str, source: str, dtype: str, n: int) -> str:
    return loaded_text(f"ull_bits<ull_v<{STORAGE[dtype]}, {n}>>({stored_text(text, source, n)})", dtype, n)


def bounded_text(op: str, value: str, bound: str, n: int) -> str:
    """`max` or `min` of floats with a bound that is not NaN (the value may be)."""
    return f"ull_raw_{op}<{n}>({bound}, {value})"


def _bool_text(op: str, args: list[str], n: int) -> str:
    if op == "not":
        return f"ull_not<{n}>({args[0]})"
    return f"({args[0]} {_BOOL_INFIX[op]} {args[1]})"


def _rounding(op: str, dtype: str, text: str, n: int) -> str:
    return text if op in _NEVER_ROUNDS else rounded_text(text, dtype, n)


def rounded_text(text: str, dtype: str, n: int) -> str:
    """A float result in registers, rounded if the dtype is narrower than they are."""
    if dtype not in HALVES:
        return text
    return f"ull_round_{'bf16' if dtype == 'bfloat16' else 'f16'}<{n}>({text})"


def _float_text(op: str, dtype: str, args: list[str], n: int) -> str:
    match op:
        case "add" | "sub":
            return f"({args[0]} {_INFIX[op]} {args[1]})"
        case "mul":
            return f"ull_mul<{n}>({args[0]}, {args[1]})"
        case "div":
            return f"({args[0]} / {args[1]})"
        case "neg":
            return f"(-{args[0]})"
        case "abs":
            return f"ull_abs_{register_class(dtype)}<{n}>({args[0]})"
        case "isnan":
            return f"ull_ne<{n}>({args[0]}, {args[0]})"
        case "isinf":
            kind = register_class(dtype)
            infinity = splat_text(_float_literal(math.inf, "f" if kind == "f32" else ""), dtype, n)
            return f"ull_eq<{n}>(ull_abs_{kind}<{n}>({args[0]}), {infinity})"
        case _:
            return f"ull_{op}<{n}>({', '.join(args)})"


def _int_text(op: str, dtype: str, args: list[str], n: int) -> str:
    if op in _INFIX:
        return f"({args[0]} {_INFIX[op]} {args[1]})"
    if op == "mul":
        return f"({args[0]} * {args[1]})"
    if op in ("neg", "not"):
        return f"({'-' if op == 'neg' else '~'}{args[0]})"
    if op in ("isnan", "isinf"):
        return splat_text("false", "bool", n)
    if op in _IDENTITY_ON_INTEGERS:
        return args[0]
    return f"{_INT_CALLS[op]}<{n}>({', '.join(args)})"


def wrap_text(text: str, dtype: str, n: int) -> str:
    """An int32 register cut to a narrower integer dtype."""
    narrow = {"int8": "i8", "uint8": "u8", "int16": "i16", "uint16": "u16"}.get(dtype)
    return text if narrow is None else f"ull_wrap_{narrow}<{n}>({text})"


def rounds_to_integers(source: str, dtype: str) -> bool:
    """Whether a conversion of rounded values is one from single precision to at most 32 bits."""
    return source in FLOATS and register_class(source) == "f32" and register_class(dtype) == "i32"


def nearest_text(text: str, dtype: str, n: int) -> str:
    """A float32 register as the nearest integers, halves to even ones, in the register of an integer dtype."""
    return wrap_text(f"ull_nearest_i32<{n}>({text})", dtype, n)


def code_text(text: str, n: int) -> str:
    """float32 registers that are not negative as the nearest uint8, 255 for all that is more."""
    return f"ull_code<{n}>({text})"


def cast_text(text: str, source: str, dtype: str, n: int) -> str:
    """Conversion of a register value."""
    if source == dtype:
        return text
    if dtype == "bool":
        return f"ull_ne<{n}>({text}, {splat_text(literal(0, source), source, n)})"
    if source == "bool":
        text, source = f"ull_mask_to_i32<{n}>({text})", "int32"
    if dtype in HALVES:
        single = cast_text(text, source, "float32", n) if register_class(source) != "f32" else text
        return f"ull_round_{'bf16' if dtype == 'bfloat16' else 'f16'}<{n}>({single})"
    target = register_class(dtype)
    converted = text if target == register_class(source) else f"ull_to_{target}<{n}>({text})"
    return wrap_text(converted, dtype, n)


def loaded_text(text: str, dtype: str, n: int) -> str:
    """Register value of lanes that were loaded as stored."""
    match dtype:
        case "bfloat16":
            return f"ull_from_bf16<{n}>({text})"
        case "float16":
            return f"ull_from_f16<{n}>({text})"
        case "bool":
            return f"ull_from_bool<{n}>({text})"
        case _ if dtype in NARROW_INTEGERS:
            return f"ull_widen<{n}>({text})"
        case _:
            return text


def stored_text(text: str, dtype: str, n: int) -> str:
    """Lanes as stored of a register value (halves are rounded here)."""
    match dtype:
        case "bfloat16":
            return f"ull_bf16_bits<{n}>({text})"
        case "float16":
            return f"ull_f16_bits<{n}>({text})"
        case "bool":
            return f"ull_bool_bytes<{n}>({text})"
        case _ if dtype in NARROW_INTEGERS:
            return f"ull_narrow<{STORAGE[dtype]}, {n}>({text})"
        case _:
            return text


def constant_text(const: Const, n: int) -> str:
    """A literal in all lanes."""
    return splat_text(literal(const.value, const.dtype), const.dtype, n)
