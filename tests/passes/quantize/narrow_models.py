"""Models with products of many kinds, and their compilation in narrow types."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from tests.codegen.schedule.scheduling import TARGET, Tensors
from ullage.driver import Options, Prepared, prepare
from ullage.frontends.load import load_model
from ullage.graph.captured import CapturedModel
from ullage.passes.pipelines import run_clean
from ullage.passes.quantize.names import parse_scheme
from ullage.target import Target


class Text(nn.Module):
    """A table, products with and without biases, a norm, and a product over an odd number of values."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 64)
        self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64, bias=False)
        self.norm, self.odd, self.classes = nn.LayerNorm(64), nn.Linear(64, 33), nn.Linear(33, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[batch, length] → [batch, length, 5]."""
        x = self.table(ids)
        x = self.norm(x + self.down(F.gelu(self.up(x))))
        return self.classes(F.relu(self.odd(x)))


class Image(nn.Module):
    """Convolutions: over three channels, strided, depthwise, grouped, transposed, and a computed bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, 2, 1)
        self.deep, self.grouped = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 48, 1, groups=3)
        self.up = nn.ConvTranspose2d(48, 10, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 3, h, w] → [batch, 10, h, w]."""
        return self.up(F.relu(self.grouped(self.deep(F.relu(self.second(F.relu(self.first(x))))))))


class Residual(nn.Module):
    """Blocks whose result is both added to and multiplied: it is stored in two types, over the residual before it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 16, h, w]."""
        for conv in self.convs:
            x = F.relu(x + conv(x))
        return x


class Pyramid(nn.Module):
    """Linears over the pixels of two sizes, brought to one size, and a convolution over both."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(32, 16), nn.Linear(24, 16)
        self.mix = nn.Conv2d(32, 8, 1)

    def forward(self, small: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
        """[batch, 32, h, w] and [batch, 24, 2 h, 2 w] → [batch, 8, 2 h, 2 w]."""
        parts = [self._pixels(self.small, small), self._pixels(self.large, large)]
        size = parts[1].shape[2:]
        return self.mix(torch.cat([F.interpolate(part, size, mode="bilinear") for part in parts], 1))

    @staticmethod
    def _pixels(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        found = linear(x.flatten(2).transpose(1, 2))
        return found.permute(0, 2, 1).reshape(x.shape[0], -1, *x.shape[2:])


class Heads(nn.Module):
    """Attention twice: causal, out of one product; then with grouped heads and a mask that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.first = nn.Linear(36, 108), nn.Linear(36, 36)
        self.q, self.kv, self.second = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 36)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, length, 36] and [batch, 1, 1, length] → [batch, length, 36]; heads have 9 values."""
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 9)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.first(y.transpose(1, 2).flatten(2))
        q = self.q(x).unflatten(-1, (4, 9)).transpose(1, 2)
        k, v = (part.unflatten(-1, (2, 9)).transpose(1, 2) for part in self.kv(x).chunk(2, -1))
        y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        return x + self.second(y.transpose(1, 2).flatten(2))


class Attention(nn.Module):
    """Attention of the inputs themselves: where these are small, weights are rounded as much as values are."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """[batch, heads, length, width] each."""
        return F.scaled_dot_product_attention(q, k, v, scale=0.5)


def lowest_mask(length: int) -> torch.Tensor:
    """What is added to the scores of two sequences, of which the second one is shorter."""
    padded = torch.arange(length) >= torch.tensor([[length], [length - 4]])
    return torch.where(padded, torch.finfo(torch.float32).min, 0.0)[:, None, None]


def case(name: str) -> tuple[nn.Module, Tensors]:
    """A model with inputs."""
    torch.manual_seed(0)
    cases: dict[str, tuple[nn.Module, Tensors]] = {
        "text": (Text(), (torch.randint(0, 40, (2, 9)),)),
        "image": (Image(), (torch.randn(2, 3, 12, 10),)),
        "residual": (Residual(), (torch.randn(1, 16, 12, 10),)),
        "heads": (Heads(), (torch.randn(2, 21, 36), lowest_mask(21))),
        "attention": (Attention(), tuple(torch.randn(1, 2, 70, 24) * x for x in (0.2, 0.2, 1))),
        "pyramid": (Pyramid(), (torch.randn(1, 32, 4, 6), torch.randn(1, 24, 8, 12))),
    }
    module, inputs = cases[name]
    return module.eval().requires_grad_(False), inputs


def captured(module: nn.Module, inputs: Tensors) -> CapturedModel:
    """The clean graph of a model."""
    return run_clean(load_model(copy.deepcopy(module), inputs))[0]


def samples(model: CapturedModel, inputs: Sequence[torch.Tensor]) -> tuple[dict[str, torch.Tensor], ...]:
    """One sample by input name."""
    return ({spec.name: x for spec, x in zip(model.inputs, inputs, strict=True)},)


def lossy(
    module: nn.Module, inputs: Tensors, allowed: float | None = None, scheme: str | None = None, target: Target = TARGET
) -> Prepared:
    """A model compiled with an accuracy, or by a scheme, judged on the inputs."""
    model = load_model(copy.deepcopy(module), inputs)
    accuracy = "exact" if allowed is None else allowed
    return prepare(model, Options(target, accuracy, parse_scheme(scheme), samples(model, inputs)))
