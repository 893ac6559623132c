"""Packers of constants that need no layout: whole tensors, and tables row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from ullage.graph.constants import ConstantRef

_RUN_BYTES = 256 << 10


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
    """A table [rows, columns], one tile per row."""

    ref: ConstantRef

    def tile(self, index: int) -> bytes:
        """The bytes of row `index`."""
        return self._rows(index, index + 1)

    def runs(self) -> Iterator[bytes]:
        """All rows in runs of about 256 KiB: single ones would be many small reads."""
        rows = self.ref.shape[0]
        width = self.ref.nbytes // max(1, rows)
        per_run = max(1, _RUN_BYTES // max(1, width))
        for start in range(0, rows, per_run):
            yield self._rows(start, min(start + per_run, rows))

    def _rows(self, start: int, stop: int) -> bytes:
        return tensor_bytes(self.ref.read((slice(start, stop), *(slice(0, n) for n in self.ref.shape[1:]))))
