"""Packing of a depthwise convolution weight into one tile: vectors of channels, each with its taps together."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch

from ullage.codegen.templates import PackedDepthwise
from ullage.errors import InputError

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Reader(Protocol):
    """What packing needs of a weight (a `ConstantRef` is one): its shape and the values of any box."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The static shape."""
        ...

    def read(self, box: tuple[slice, ...]) -> torch.Tensor:
        """A tensor with the values of a box (one slice with start and stop per dimension)."""
        ...


@dataclass(frozen=True, slots=True)
class DepthwisePacker:
    """Packs a weight [channels, 1, *kernel]; raises InputError if its shape disagrees with the layout."""

    weight: Reader
    layout: PackedDepthwise

    def __post_init__(self) -> None:
        channels, one, *kernel = self.weight.shape
        if (channels, one, prod(kernel)) != (self.layout.channels, 1, self.layout.taps):
            raise InputError(
                f"weight of shape {tuple(self.weight.shape)} is no depthwise weight of {self.layout.channels} channels "
                f"with {self.layout.taps} taps each."
            )

    def tile(self, index: int) -> bytes:
        """The bytes of tile `index` (always 0): [vector][tap][lane] in the layout's dtype, missing channels zero."""
        if index != 0:
            raise IndexError(f"a depthwise weight is one tile, found index {index}")
        layout, dtype = self.layout, _DTYPES[self.layout.dtype]
        values = self.weight.read(tuple(slice(0, size) for size in self.weight.shape))
        vectors = -(-layout.channels // layout.lanes)
        packed = torch.zeros(vectors * layout.lanes, layout.taps, dtype=dtype)
        packed[: layout.channels] = values.reshape(layout.channels, layout.taps).to(dtype)
        packed = packed.view(vectors, layout.lanes, layout.taps).transpose(1, 2).contiguous()
        return packed.view(torch.uint8).numpy().tobytes()
