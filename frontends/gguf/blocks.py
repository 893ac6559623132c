"""ggml's types: blocks of values in few bits, decoded to float32 exactly as their definition says.

Layouts are those of `ggml-common.h`. Each decoder takes blocks as rows of bytes and gives rows of values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Bytes = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kind:
    """A type: so many values in so many bytes, and how to read them (`dtype` for plain ones)."""

    name: str
    values: int
    bytes: int
    dtype: torch.dtype = torch.float32
    decode: Callable[[Bytes], Values] | None = None
    bits: int = 0
    """Of codes that are offset by half their range and scaled by a float16 at the begin of the block; 0: others."""

    def bytes_of(self, count: int) -> int:
        """Bytes of `count` values, a multiple of a block's."""
        return count // self.values * self.bytes


def _half(blocks: Bytes, at: int) -> Values:
    """The float16 at a byte of every block, as a column."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low halves of all bytes, then the high ones."""
    return np.concatenate((packed & 15, packed >> 4), axis=1, dtype=np.uint8)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """32 bits of every block, the lowest first, each in the place of a fifth bit."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << np.uint8(4)


def _q4_0(b: Bytes) -> Values:
    return _half(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b: Bytes) -> Values:
    return _half(b, 0) * _nibbles(b[:, 4:]).astype(np.float32) + _half(b, 2)


def _q5_0(b: Bytes) -> Values:
    return _half(b, 0) * ((_nibbles(b[:, 6:]) | _fifth_bits(b, 2)).astype(np.float32) - 16)


def _q5_1(b: Bytes) -> Values:
    return _half(b, 0) * (_nibbles(b[:, 8:]) | _fifth_bits(b, 4)).astype(np.float32) + _half(b, 2)


def _q8_0(b: Bytes) -> Values:
    return _half(b, 0) * np.ascontiguousarray(b[:, 2:]).view(np.int8).astype(np.float32)


def _six_bits(b: Bytes) -> tuple[Values, Values]:
    """Scales and minima of the eight parts of a block of 256, packed in 12 bytes from byte 4 on."""
    low, middle, high = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scales = np.concatenate((low & 63, (high & 15) | (low >> 6 << 4)), axis=1)
    minima = np.concatenate((middle & 63, (high >> 4) | (middle >> 6 << 4)), axis=1)
    return _half(b, 0) * scales.astype(np.float32), _half(b, 2) * minima.astype(np.float32)


def _halves(packed: Bytes) -> Bytes:
    """[blocks, 128] bytes → [blocks, 8, 32]: of every 32 bytes the low halves, then the high ones."""
    parts = packed.reshape(-1, 4, 1, 32)
    return np.concatenate((parts & 15, parts >> 4), axis=2, dtype=np.uint8).reshape(-1, 8, 32)


def _q4_k(b: Bytes) -> Values:
    scales, minima = _six_bits(b)
    return (scales[:, :, None] * _halves(b[:, 16:]).astype(np.float32) - minima[:, :, None]).reshape(-1, 256)


def _q5_k(b: Bytes) -> Values:
    scales, minima = _six_bits(b)
    bits = (b[:, 16:48, None].swapaxes(1, 2) >> np.arange(8, dtype=np.uint8)[:, None] & 1) << 4
    codes = (_halves(b[:, 48:]) | bits).astype(np.float32)
    return (scales[:, :, None] * codes - minima[:, :, None]).reshape(-1, 256)


def _q6_k(b: Bytes) -> Values:
    low = b[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate((low & 15, low >> 4), axis=2).reshape(-1, 2, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = (b[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3) << 4
    codes = (low | high).astype(np.float32).reshape(-1, 16, 16) - 32
    scales = _half(b, 208) * np.ascontiguousarray(b[:, 192:208]).view(np.int8).astype(np.float32)
    return (scales[:, :, None] * codes).reshape(-1, 256)


def codes_of(kind: Kind, blocks: Bytes) -> Bytes:
    """Codes from 0 on of blocks whose kind has `bits`: [blocks, values]."""
    return _nibbles(blocks[:, 2:]) if kind.bits == 4 else blocks[:, 2:] ^ np.uint8(128)


def scales_of(blocks: Bytes) -> npt.NDArray[np.float16]:
    """Scales of blocks whose kind has `bits`: [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, :2]).view(np.float16)


KINDS: dict[int, Kind] = {
    0: Kind("F32", 1, 4),
    1: Kind("F16", 1, 2, torch.float16),
    2: Kind("Q4_0", 32, 18, decode=_q4_0, bits=4),
    3: Kind("Q4_1", 32, 20, decode=_q4_1),
    6: Kind("Q5_0", 32, 22, decode=_q5_0),
    7: Kind("Q5_1", 32, 24, decode=_q5_1),
    8: Kind("Q8_0", 32, 34, decode=_q8_0, bits=8),
    12: Kind("Q4_K", 256, 144, decode=_q4_k),
    13: Kind("Q5_K", 256, 176, decode=_q5_k),
    14: Kind("Q6_K", 256, 210, decode=_q6_k),
    30: Kind("BF16", 1, 2, torch.bfloat16),
}
"""By the number that files use."""
