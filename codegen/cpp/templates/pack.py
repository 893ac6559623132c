"""Packing of GEMM and convolution weights into panels, one tile at a time, from a reference that is read by boxes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, Protocol

import torch

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
    word = layout.word
    packed = torch.zeros(layout.tile_bytes // dtype.itemsize, dtype=dtype)
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
