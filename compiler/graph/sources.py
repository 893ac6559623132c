"""Where constants come from: a slice of a file, or a tensor in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ullage.graph.constants import Box


@dataclass(frozen=True, slots=True, eq=False)
class InMemory:
    """A tensor that the caller already holds."""

    tensor: torch.Tensor

    def read(self, box: Box) -> torch.Tensor:
        """A new contiguous copy of the box."""
        return self.tensor[box].clone(memory_format=torch.contiguous_format)

    @property
    def key(self) -> str:
        """The place in memory: equal for views of the same bytes with the same shape and strides."""
        t = self.tensor
        return f"memory:{t.data_ptr():x}:{t.dtype}:{tuple(t.shape)}:{t.stride()}"
