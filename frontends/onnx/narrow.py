"""Types of eight and fewer bits that PyTorch does not compute with: values travel as codes, one byte each.

Integers of 4 and 2 bits are their values in an int8 or uint8; floats of 8 and 4 bits are their bits in a uint8. Only
casts, quantization and operators that move elements take them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

Tensor = torch.Tensor
_FLOATS: dict[str, Any] = {
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn, "FLOAT8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "FLOAT8E5M2": ml_dtypes.float8_e5m2, "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "FLOAT8E8M0": ml_dtypes.float8_e8m0fnu, "FLOAT4E2M1": ml_dtypes.float4_e2m1fn,
}  # fmt: skip
_INTEGERS = {"INT4": (4, True), "UINT4": (4, False), "INT2": (2, True), "UINT2": (2, False)}
MOVES = frozenset({
    "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Slice", "Split", "Gather",
    "Expand", "Tile",
})  # fmt: skip
"""Operators that give the elements of their first input (all inputs of Concat) as they are."""


@dataclass(frozen=True)
class NarrowType:
    """A type by its name in the standard; integers have bits and a sign, floats a table of values by code."""

    name: str

    @property
    def is_float(self) -> bool:
        """Whether codes stand for floats by a table."""
        return self.name in _FLOATS

    @property
    def carrier(self) -> torch.dtype:
        """The dtype that holds a code."""
        return torch.int8 if self.name in _INTEGERS and _INTEGERS[self.name][1] else torch.uint8

    @property
    def limits(self) -> tuple[int, int]:
        """Least and greatest value of an integer type."""
        bits, signed = _INTEGERS[self.name]
        return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)

    def values(self) -> npt.NDArray[np.float32]:
        """The float that each code of a float type stands for."""
        codes = np.arange(16 if self.name == "FLOAT4E2M1" else 256, dtype=np.uint8)
        return np.array(codes.view(_FLOATS[self.name]), np.float32)

    def codes_of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array of ml_dtypes' type as codes."""
        if self.is_float:
            return np.ascontiguousarray(array).view(np.uint8)
        return array.astype(np.int8 if self.carrier == torch.int8 else np.uint8)


@dataclass(frozen=True, eq=False)
class Narrow:
    """A value of a narrow type while the graph is walked."""

    codes: Tensor
    kind: NarrowType


def narrow_type(dtype: ir.DataType | None) -> NarrowType | None:
    """The narrow type of one of the standard's types; None for others."""
    name = "" if dtype is None else dtype.name
    return NarrowType(name) if name in _FLOATS or name in _INTEGERS else None


def decoded(value: Narrow, dtype: torch.dtype = torch.float32) -> Tensor:
    """The values of codes."""
    if not value.kind.is_float:
        return value.codes.to(dtype)
    table = torch.from_numpy(value.kind.values())
    flat = table.index_select(0, value.codes.reshape(-1).long())
    return flat.reshape(value.codes.shape).to(dtype)


def encoded(x: Tensor, kind: NarrowType, saturate: bool = True, round_mode: str = "up") -> Narrow:
    """Values as codes: floats rounded to nearest, halves to even; integers cut to their lowest bits.

    Floats beyond the range become the greatest value, or without `saturate` infinite or, where there is no infinity,
    not a number. `round_mode` is that of FLOAT8E8M0: `up`, `down` or `nearest`.
    """
    if not kind.is_float:
        return Narrow(_cut(x, kind), kind)
    wide = x.to(torch.float32)
    if kind.name == "FLOAT8E8M0":
        return Narrow(_power(wide, round_mode), kind)
    return Narrow(_nearest(wide, kind, saturate), kind)


def _cut(x: Tensor, kind: NarrowType) -> Tensor:
    low, high = kind.limits
    return ((x.to(torch.int64) - low) & (high - low)).add(low).to(kind.carrier)


@dataclass(frozen=True)
class _Scale:
    """The non-negative finite floats of a type, whose codes count up, and its special codes."""

    middles: npt.NDArray[np.float32]
    """Between each value and the next; behind the greatest, where it would go on."""
    sign: int
    infinite: int | None
    invalid: int
    negative_zero: bool


@cache
def _scale(kind: NarrowType) -> _Scale:
    values = kind.values()
    half = len(values) // 2
    finite = [float(v) for v in values[:half] if np.isfinite(v)]
    after = [*finite[1:], 2 * finite[-1] - finite[-2]]
    middles = np.array([(a + b) / 2 for a, b in zip(finite, after, strict=True)], np.float32)
    infinite = next((code for code in range(half) if np.isinf(values[code])), None)
    invalid = next((code for code in range(len(values)) if np.isnan(values[code])), half)
    return _Scale(middles, half, infinite, invalid, bool(values[half] == 0))


def _nearest(x: Tensor, kind: NarrowType, saturate: bool) -> Tensor:
    """Counts the middles that a value lies above: on one, the even neighbour wins."""
    scale = _scale(kind)
    size, middles = x.abs().unsqueeze(-1), torch.from_numpy(scale.middles)
    odd = torch.arange(len(scale.middles)) % 2 == 1
    code = ((size > middles) | ((size == middles) & odd)).sum(-1)
    most = len(scale.middles) - 1
    beyond = most if saturate else scale.invalid if scale.infinite is None else scale.infinite
    code = torch.where(code > most, beyond, code)
    negative = (x < 0) | ((x == 0) & (torch.reciprocal(x) < 0))
    signed = negative & (code != 0) if not scale.negative_zero else negative
    code = torch.where(signed & (code < scale.sign), code + scale.sign, code)
    return torch.where(torch.isnan(x), scale.invalid, code).to(torch.uint8)


def _power(x: Tensor, round_mode: str) -> Tensor:
    """Powers of two from 2^-127 on; what is less is the least, 255 is not a number."""
    values = torch.from_numpy(NarrowType("FLOAT8E8M0").values()[:255])
    size = x.abs().unsqueeze(-1)
    if round_mode == "down":
        code = (size >= values[1:]).sum(-1)
    elif round_mode == "up":
        code = (size > values).sum(-1).clamp(max=254)
    else:
        code = (size >= values[:-1] * 1.5).sum(-1)
    return torch.where(torch.isnan(x), 255, code).to(torch.uint8)
