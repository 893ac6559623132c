"""Packing of GEMM and convolution weights into panels, one tile at a time, from a reference that is read by boxes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ullage.codegen.templates import PackedPanels
from ullage.errors import InputError

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


class Reader(Protocol):
    """What packing needs of a weight (a `ConstantRef` is one): its shape and the values of any box."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The static shape."""
        ...

    def read(self, box: tuple[slice, ...]) -> torch.Tensor:
        """A tensor with the values of a box (one slice with start and stop per dimension)."""
        ...


class Packer(Protocol):
    """Delivers the tiles of a packed constant one by one, reading only what that tile holds."""

    @property
    def layout(self) -> PackedPanels:
        """The layout that the tiles follow."""
        ...

    def tile(self, index: int) -> bytes:
        """The `layout.tile_bytes` bytes of tile `index`."""
        ...


@dataclass(frozen=True, slots=True)
class PanelPacker:
    """Packs a weight whose outputs are dimension `outputs`.

    `outputs=0`: linear [groups·n, k] or convolution [groups·n, c, *kernel]; `outputs=1`: a matrix [k, n] or a
    transposed convolution's [groups·c, n, *kernel]. k runs over (*kernel, c). Raises InputError if shapes disagree.
    """

    weight: Reader
    layout: PackedPanels
    outputs: Literal[0, 1] = 0

    def __post_init__(self) -> None:
        outer, inner, *kernel = self.weight.shape
        per_group = inner if self.outputs == 0 else outer // self.layout.groups
        wanted_outer = self.layout.groups * (self.layout.n if self.outputs == 0 else per_group)
        wanted_inner = per_group if self.outputs == 0 else self.layout.n
        if (outer, inner) != (wanted_outer, wanted_inner) or per_group * prod(kernel) != self.layout.k:
            raise InputError(
                f"weight of shape {tuple(self.weight.shape)} does not hold {self.layout.groups} group(s) of "
                f"{self.layout.n} outputs with {self.layout.k} inputs each (outputs in dimension {self.outputs})."
            )

    def tile(self, index: int) -> bytes:
        """The bytes of tile `index`: [k][nr] in the layout's dtype, missing outputs and the padding are zero."""
        return pack_tile(self.weight, self.layout, index, self.outputs)


def pack_tile(weight: Reader, layout: PackedPanels, index: int, outputs: Literal[0, 1] = 0) -> bytes:
    """Bytes of one tile, read from the weight by one box; memory is a small multiple of the tile's bytes."""
    dtype = _DTYPES[layout.dtype]
    columns = weight.read(_tile_box(weight.shape, layout, index, outputs)).to(dtype)
    order = (*range(2, columns.dim()), 1 - outputs, outputs)
    columns = columns.permute(order).reshape(layout.k, -1)
    word, length = layout.word, layout.tile_bytes // dtype.itemsize
    if word == 1 and columns.shape == (layout.k, layout.nr) and columns.numel() == length:
        # Torch copies a whole transposed matrix block by block, several times faster than any other.
        packed = torch.empty(length, dtype=dtype)
        packed.view(columns.shape).copy_(columns)
        return packed.view(torch.uint8).numpy().tobytes()
    packed = torch.zeros(length, dtype=dtype)
    panel = packed[: layout.k * layout.nr].view(layout.k // word, layout.nr, word)
    panel[:, : columns.shape[1]] = columns.view(layout.k // word, word, -1).transpose(1, 2)
    return packed.view(torch.uint8).numpy().tobytes()


def _tile_box(shape: tuple[int, ...], layout: PackedPanels, index: int, outputs: Literal[0, 1]) -> tuple[slice, ...]:
    group, tile = divmod(index, layout.tiles_per_group)
    first, last = tile * layout.nr, min((tile + 1) * layout.nr, layout.n)
    kernel = tuple(slice(0, size) for size in shape[2:])
    if outputs == 0:
        base = group * layout.n
        return (slice(base + first, base + last), slice(0, shape[1]), *kernel)
    inputs = shape[0] // layout.groups
    return (slice(group * inputs, (group + 1) * inputs), slice(first, last), *kernel)


@dataclass(frozen=True, slots=True)
class CodePacker:
    """Packs codes [n, k] (uint8) and scales [n, k / group] (float16); raises InputError if shapes disagree."""

    codes: Reader
    scales: Reader
    layout: PackedPanels

    def __post_init__(self) -> None:
        form, wanted = self.layout.codes, (self.layout.n, self.layout.k)
        groups = None if form is None else (self.layout.n, self.layout.k // form.group)
        if self.codes.shape != wanted or self.scales.shape != groups or self.layout.groups != 1:
            raise InputError(f"codes {self.codes.shape} and scales {self.scales.shape} do not suit {self.layout}.")

    def tile(self, index: int) -> bytes:
        """The bytes of tile `index`; missing outputs have scale 0."""
        layout, form = self.layout, self.layout.codes
        assert form is not None
        first, last = index * layout.nr, min((index + 1) * layout.nr, layout.n)
        groups = layout.k // form.group
        codes = self.codes.read((slice(first, last), slice(0, layout.k))).numpy()
        scales = self.scales.read((slice(first, last), slice(0, groups))).numpy()
        packed = np.zeros(layout.tile_bytes, np.uint8)
        head, start = form.head_bytes(layout.nr, layout.k), form.start_bytes(layout.nr)
        packed[: 4 * (last - first)].view(np.float32)[:] = -float(form.OFFSET) * _sums(codes, scales, form.zero)
        factors = packed[start : start + 2 * groups * layout.nr].view(np.float16).reshape(groups, -1)
        factors[:, : last - first] = scales.T
        words = packed[head : head + groups * form.code_bytes(layout.nr)].view("<u4").reshape(groups, -1, layout.nr)
        words[:, :, : last - first] = _in_words(codes.reshape(last - first, groups, form.group), form.bits)
        return packed.tobytes()


def _sums(codes: NDArray[np.uint8], scales: NDArray[np.float16], zero: int) -> NDArray[np.float64]:
    """The sums [outputs] of the weights that codes stand for."""
    integers = codes.reshape(*scales.shape, -1).sum(-1, dtype=np.int64) - zero * (codes.shape[1] // scales.shape[1])
    sums: NDArray[np.float64] = (integers * scales.astype(np.float64)).sum(-1)
    return sums


def _in_words(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Codes [outputs, groups, group] as the bytes of words [groups, words, outputs]."""
    signed = (codes << np.uint8(8 - bits)) ^ np.uint8(0x80)
    fours = signed.reshape(*codes.shape[:2], -1, 8 if bits == 3 else 8 // bits, 4)
    stored = _eights_of_three(fours) if bits == 3 else _stacked(fours, bits)
    words = stored.reshape(*codes.shape[:2], -1, 4)
    packed: NDArray[np.uint32] = np.ascontiguousarray(words).view("<u4")[..., 0].transpose(1, 2, 0)
    return packed


def _stacked(fours: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Bytes [..., 4] of codes [..., count, 4] in the highest bits, the first stays there."""
    shifts = (bits * np.arange(fours.shape[-2], dtype=np.uint8))[:, None]
    stacked: NDArray[np.uint8] = np.bitwise_or.reduce(fours >> shifts, axis=-2)
    return stacked


def _eights_of_three(fours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bytes [..., 3, 4] of codes [..., 8, 4] of three bits in the highest ones: two each, and parts of the last two."""
    first, second, third = np.moveaxis(fours[..., :6, :].reshape(*fours.shape[:-2], 3, 2, 4), -3, 0)
    parts = fours[..., 6:, :]
    whole = [_stacked(pair, 3) >> np.uint8(2) | parts[..., i, :] & 0xC0 for i, pair in enumerate((first, second))]
    ends = parts[..., 0, :] >> 5 & 1 | parts[..., 1, :] >> 4 & 2
    return np.stack([*whole, _stacked(third, 3) | ends], axis=-2).astype(np.uint8, copy=False)
