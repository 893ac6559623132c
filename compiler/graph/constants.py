"""Constants by reference: where a weight's bytes are, never the bytes themselves.

A reference is read box by box, so that packing a tensor needs memory for one tile and not for the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

Box = tuple[slice, ...]
"""One slice with explicit start and stop (step 1) per dimension."""


class Source(Protocol):
    """Something that can deliver any box of a tensor."""

    def read(self, box: Box) -> torch.Tensor:
        """A new contiguous tensor with the values of the box."""
        ...

    @property
    def key(self) -> str:
        """Text that is equal exactly for sources known to hold the same bytes (tied weights, caching)."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantRef:
    """A constant of the graph: its dtype, its static shape, and where its values come from."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    source: Source

    def read(self, box: Box | None = None) -> torch.Tensor:
        """The values of a box (the whole tensor if None), contiguous, in this constant's dtype."""
        return self.source.read(box if box is not None else tuple(slice(0, n) for n in self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        count = 1
        for n in self.shape:
            count *= n
        return count * self.dtype.itemsize
