"""Convolutions over bands of rows: kernels read each band with its halo in place, and give the bits of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ullage
from ullage.plan.plan import Launch


class Block(nn.Module):
    """A convolution, a depthwise one and a 1x1, over the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 24, 3)
        self.each = nn.Conv2d(24, 24, 5, groups=24)
        self.last = nn.Conv2d(24, 16, 1)

    def rows(self, x: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        """Rows [begin, end) of the result, from a view of the rows of x that they need."""
        height = x.shape[2]
        low, high = max(begin - 2, 0), min(end + 2, height)
        top, bottom = max(low - 1, 0), min(high + 1, height)
        y = self.first(F.pad(x[:, :, top:bottom], (1, 1, int(low == 0), int(high == height))))
        above, below = max(2 - begin, 0), max(end + 2 - height, 0)
        y = self.each(F.pad(F.relu(y), (2, 2, above, below)))
        return F.gelu(self.last(y))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 8, h, w] → [batch, 16, h, w]."""
        return self.rows(x, 0, x.shape[2])


class Bands(Block):
    """The same in bands of so many rows, joined."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = x.shape[2] // self.bands
        return torch.cat([self.rows(x, i * step, (i + 1) * step) for i in range(self.bands)], 2)


@pytest.mark.parametrize("quantize", [None, "bfloat16"])
@pytest.mark.parametrize("bands", [2, 4])
def test_bands_cost_no_copies_and_change_no_bits(bands: int, quantize: str | None) -> None:
    """A band is a turn of its input's rows and three convolutions: no pad, slice or concatenation is a kernel."""
    torch.manual_seed(0)
    whole, split = Block().eval(), Bands(bands).eval()
    split.load_state_dict(whole.state_dict())
    x = torch.randn(1, 8, 32, 20)
    options: dict[str, Any] = {"budget": "16MiB", "quantize": quantize}
    one, many = (ullage.compile(m, example_inputs=(x,), **options) for m in (whole, split))
    launches = [sum(isinstance(c, Launch) for c in compiled.plan.commands) for compiled in (one, many)]
    assert launches[0] == 4 and 3 * bands < launches[1] <= 4 * bands
    assert torch.equal(one(x), many(x))
    assert many.plan.minimum_bytes["ram"] < one.plan.minimum_bytes["ram"]
