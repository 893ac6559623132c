"""Sentence embeddings with the packaged all-MiniLM-L6-v2: tokenise, encode, mean-pool, normalise."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.zoo import minilm_folder

SENTENCES = (
    "A vessel is never filled to the brim: the space that is left is called ullage.",
    "The cat sat on the mat and watched the rain.",
    "A small grey kitten looked out at the wet garden.",
    "Interest rates rose by a quarter of a point on Thursday.",
    "The central bank made borrowing more expensive this week.",
    "Bake the bread at two hundred degrees for forty minutes.",
    "Leave the loaf in a hot oven until the crust is brown.",
    "She had never seen the sea before that summer.",
)
LENGTH = 32


class SentenceEncoder(nn.Module):
    """Token ids and mask [batch, length] → unit vectors [batch, 384]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The mean of the token vectors that the mask keeps, normalised."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=1)


def tokenise(sentences: tuple[str, ...], length: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, padded or cut to `length`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(minilm_folder()) / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(list(sentences))
    return torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])


def minilm() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """The encoder with the tokenised sentences: a factory for `ullage convert benchmarks.sentences:minilm`."""
    from transformers import AutoModel

    from benchmarks.zoo import quiet_transformers

    quiet_transformers()
    model = AutoModel.from_pretrained(minilm_folder(), attn_implementation="sdpa")
    return SentenceEncoder(model).eval().requires_grad_(False), tokenise(SENTENCES)
