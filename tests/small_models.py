"""Small models that whole-flow tests compile; each is a factory for the command line too."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Perceptron(nn.Module):
    """Two layers of 256 with a residual: half a mebibyte of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(256, 256)
        self.second = nn.Linear(256, 256)

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> dict[str, Any]:
        """[batch, 256] → the hidden and the last activations."""
        hidden = torch.relu(self.first(x))
        return {"hidden": hidden, "last": (self.second(hidden) + x * scale,)}


def perceptron() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The perceptron with a batch of 4."""
    torch.manual_seed(7)
    return Perceptron().eval().requires_grad_(False), (torch.randn(4, 256),)
