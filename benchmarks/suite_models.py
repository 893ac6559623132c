"""The suite's models by name and batch, as factories: `benchmarks.suite_models:bert_base_384_b8`.

Models are the zoo's, at the sizes that people compare at; inputs are drawn anew for the batch, from a fixed seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.zoo import SEED, Decoder, sample

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Member:
    """A model of the suite: how to make the module, and inputs for a batch."""

    module: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]


def _of_zoo(name: str) -> Callable[[], nn.Module]:
    return lambda: sample(name).module


def _text(length: int, vocabulary: int = 30_000) -> Callable[[int], Inputs]:
    def make(batch: int) -> Inputs:
        return torch.randint(5, vocabulary, (batch, length)), torch.ones(batch, length, dtype=torch.int64)

    return make


def _image(size: int) -> Callable[[int], Inputs]:
    return lambda batch: (torch.randn(batch, 3, size, size),)


def _llama_1b() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4, intermediate_size=5632
    )
    return Decoder(LlamaForCausalLM(config))


SUITE: dict[str, Member] = {
    "minilm": Member(_of_zoo("minilm"), _text(128)),
    "minilm_384": Member(_of_zoo("minilm"), _text(384)),
    "bert_base": Member(_of_zoo("bert_base"), _text(128)),
    "bert_base_384": Member(_of_zoo("bert_base"), _text(384)),
    "vit_b16": Member(_of_zoo("vit_b16"), _image(224)),
    "swin_t": Member(_of_zoo("swin_t"), _image(224)),
    "resnet50": Member(_of_zoo("resnet50"), _image(224)),
    "mobilenet_v2": Member(_of_zoo("mobilenet_v2"), _image(224)),
    "efficientnet_b0": Member(_of_zoo("efficientnet_b0"), _image(224)),
    "convnext_t": Member(_of_zoo("convnext_t"), _image(224)),
    "unet": Member(_of_zoo("unet"), _image(256)),
    "segformer_b0": Member(_of_zoo("segformer_b0"), _image(224)),
    "whisper_tiny": Member(_of_zoo("whisper_tiny"), lambda batch: (torch.randn(batch, 80, 3000),)),
    "llama_1b": Member(_llama_1b, lambda batch: (torch.randint(5, 32_000, (batch, 64)),)),
}


def factory_name(model: str, batch: int) -> str:
    """The name under which a model and batch can be given to any command."""
    return f"benchmarks.suite_models:{model}_b{batch}"


def __getattr__(name: str) -> Callable[[], tuple[nn.Module, tuple[Any, ...]]]:
    found = re.fullmatch(r"(\w+)_b(\d+)", name)
    if found is None or found[1] not in SUITE:
        raise AttributeError(f"the suite has no {name}; it has MODEL_bBATCH with {', '.join(SUITE)}")
    member, batch = SUITE[found[1]], int(found[2])

    def factory() -> tuple[nn.Module, tuple[Any, ...]]:
        torch.manual_seed(SEED)
        module = member.module().eval().requires_grad_(False)
        torch.manual_seed(SEED)
        return module, member.inputs(batch)

    return factory
