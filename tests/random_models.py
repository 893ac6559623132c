"""Random legal models for the whole flow: convolutional and token networks with skips, drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

Draw = Callable[..., int]


class Network(nn.Module):
    """Layers applied in order; a layer may take an earlier result as a second operand (add or concatenate)."""

    def __init__(self, steps: list[tuple[nn.Module, str, int]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer for layer, _, _ in steps)
        self.joins = [(kind, source) for _, kind, source in steps]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The last result and, so that several outputs are met, its maximum over the last dimension."""
        results = [x]
        for layer, (kind, source) in zip(self.layers, self.joins, strict=True):
            y = layer(results[-1])
            if kind == "add" and results[source].shape == y.shape:
                y = y + results[source]
            elif kind == "cat" and results[source].shape[2:] == y.shape[2:] and y.dim() == 4:
                y = torch.cat([results[source], y], 1)[:, : y.shape[1]]
            results.append(y)
        return results[-1], results[-1].amax(-1)


class Act(nn.Module):
    """A pointwise function."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        return getattr(F, self.name)(x)


class Attend(nn.Module):
    """Self-attention over [batch, tokens, width]."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend and project."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class Scores(nn.Module):
    """Products of two variable operands with a softmax between, spelled out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix tokens by their similarity."""
        return (x @ x.transpose(1, 2) * 0.1).softmax(-1) @ x


ACTS = ("relu", "gelu", "silu", "sigmoid", "hardswish", "softplus")


@st.composite
def networks(draw: Draw) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A network in eval mode and an input for it."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    make = _images if draw(st.booleans()) else _tokens
    steps, shape = make(draw)
    model = Network(steps).eval().requires_grad_(False)
    return model, (torch.randn(shape),)


def _join(draw: Draw, position: int) -> tuple[str, int]:
    return draw(st.sampled_from(("none", "add", "cat"))), draw(st.integers(0, position))


def _images(draw: Draw) -> tuple[list[tuple[nn.Module, str, int]], tuple[int, ...]]:
    channels, side = draw(st.integers(1, 20)), draw(st.integers(5, 14))
    shape = (draw(st.integers(1, 2)), channels, side, side)
    steps = []
    for position in range(draw(st.integers(2, 6))):
        layer, channels = _image_layer(draw, channels)
        steps.append((layer, *_join(draw, position)))
    return steps, shape


def _image_layer(draw: Draw, channels: int) -> tuple[nn.Module, int]:
    out = draw(st.integers(1, 40))
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return nn.Conv2d(channels, out, 3, padding=1, dilation=1), out
    if kind == 1:
        return nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()), out
    if kind == 2:
        return nn.Conv2d(channels, channels, 3, padding=1, groups=channels), channels
    if kind == 3:
        return nn.Conv2d(channels, out, (1, 3), padding=(0, 1)), out
    if kind == 4:
        return nn.ConvTranspose2d(channels, out, 3, padding=1), out
    if kind == 5:
        return nn.GroupNorm(1, channels), channels
    if kind == 6:
        return nn.MaxPool2d(3, 1, 1), channels
    return Act(draw(st.sampled_from(ACTS))), channels


def _tokens(draw: Draw) -> tuple[list[tuple[nn.Module, str, int]], tuple[int, ...]]:
    heads, tokens = draw(st.sampled_from((1, 2, 3))), draw(st.integers(1, 40))
    width = heads * draw(st.sampled_from((4, 8, 16, 20)))
    steps = [(_token_layer(draw, width, heads), *_join(draw, n)) for n in range(draw(st.integers(2, 6)))]
    return steps, (draw(st.integers(1, 2)), tokens, width)


def _token_layer(draw: Draw, width: int, heads: int) -> nn.Module:
    kind = draw(st.integers(0, 5))
    if kind == 0:
        hidden = draw(st.integers(1, 150))
        return nn.Sequential(nn.Linear(width, hidden), Act(draw(st.sampled_from(ACTS))), nn.Linear(hidden, width))
    if kind == 1:
        return nn.LayerNorm(width)
    if kind == 2:
        return Attend(width, heads, draw(st.booleans()))
    if kind == 3:
        return nn.RMSNorm(width)
    if kind == 4:
        return Scores()
    return Act(draw(st.sampled_from(ACTS)))
