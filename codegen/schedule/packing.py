"""Packers of constants that need no layout: whole tensors, and tables row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ullage.graph.constants import ConstantRef


class Packer(Protocol):
    """Delivers the tiles of a constant one by one, reading only what that tile holds."""

    def tile(self, index: int) -> bytes:
        """The bytes of tile `index`."""
        ...


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The elements of a tensor in row-major order, little endian."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True, slots=True)
class WholePacker:
    """A constant as one tile."""

    ref: ConstantRef

    def tile(self, index: int) -> bytes:
        """All bytes of the tensor."""
        return tensor_bytes(self.ref.read())


@dataclass(frozen=True, slots=True)
class RowPacker:
    """A table [rows, columns], one tile per row; rows are read in runs, since single ones would be many small reads."""

    ref: ConstantRef
    run: list[object]

    def tile(self, index: int) -> bytes:
        """The bytes of row `index`."""
        width = self.ref.nbytes // self.ref.shape[0]
        per_run = max(1, (256 << 10) // max(1, width))
        start = index - index % per_run
        if not self.run or self.run[0] != start:
            stop = min(start + per_run, self.ref.shape[0])
            box = (slice(start, stop), *(slice(0, n) for n in self.ref.shape[1:]))
            self.run[:] = [start, tensor_bytes(self.ref.read(box))]
        data = self.run[1]
        assert isinstance(data, bytes)
        return data[(index - start) * width : (index - start + 1) * width]
