"""Small models of the usual families, in any floating point type."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY = 50


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int = 32, heads: int = 4, causal: bool = True) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """[batch, tokens, width]; `mask` [batch, tokens] keeps where true."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        keep = None if mask is None else mask[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, keep, is_causal=self.causal)
        x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(self.norms[1](x)), approximate="tanh"))


class Decoder(nn.Module):
    """A GPT-like model with learned positions and tied embeddings."""

    def __init__(self, positions: int = 16) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, 32), nn.Embedding(positions, 32)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(32)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, tokens] → logits and the normalised states."""
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        states = self.norm(x)
        return F.linear(states, self.words.weight), states


class Encoder(nn.Module):
    """A BERT-like model: positions and types are slices of buffers, padding is masked, the first token is pooled."""

    def __init__(self, positions: int = 16) -> None:
        super().__init__()
        self.words, self.places, self.types = (
            nn.Embedding(VOCABULARY, 32),
            nn.Embedding(positions, 32),
            nn.Embedding(2, 32),
        )
        self.register_buffer("position_ids", torch.arange(positions)[None])
        self.register_buffer("type_ids", torch.zeros(1, positions, dtype=torch.int64))
        self.norm, self.block, self.pool = nn.LayerNorm(32), Block(causal=False), nn.Linear(32, 32)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """ids and mask [batch, tokens] → states and the pooled first token."""
        tokens = ids.shape[1]
        x = self.words(ids) + self.places(self.position_ids[:, :tokens])
        x = self.norm(x + self.types(self.type_ids[:, :tokens].expand_as(ids)))
        states = self.block(x, mask.bool())
        return states, torch.tanh(self.pool(states[:, 0]))


def perceptron() -> nn.Module:
    """Two layers with a norm and a softmax."""
    layers = [nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 7), nn.Softmax(-1)]
    return nn.Sequential(*layers)


def convolutions() -> nn.Module:
    """Dense, depthwise, pointwise and transposed convolutions with norms and pools."""
    stem = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()]
    middle = [nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Hardswish(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 16, 1)]
    head = [nn.GroupNorm(4, 16), nn.SiLU(), nn.ConvTranspose2d(16, 8, 2, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*stem, *middle, *head, nn.Linear(8, 10))
