"""Small models with random weights, one per architecture: name -> (module, args, kwargs)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn

Sample = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def ids(batch: int = 2, length: int = 8) -> torch.Tensor:
    return torch.arange(batch * length).reshape(batch, length) % 30 + 2


def mask(batch: int = 2, length: int = 8) -> torch.Tensor:
    full = torch.ones(batch, length, dtype=torch.int64)
    full[-1, length - 3 :] = 0
    return full


def image(size: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.linspace(-1, 1, channels * size * size).reshape(1, channels, size, size).sin()


def text() -> dict[str, Any]:
    return {"input_ids": ids(), "attention_mask": mask()}


SMALL_TEXT = dict(
    vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
    max_position_embeddings=32, attn_implementation="sdpa",
)  # fmt: skip
SMALL_IMAGE = dict(
    image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
    attn_implementation="sdpa",
)  # fmt: skip


def bert() -> Sample:
    return hf.BertModel(hf.BertConfig(**SMALL_TEXT)), (), text()


def distilbert() -> Sample:
    config = hf.DistilBertConfig(
        vocab_size=40, dim=32, n_layers=1, n_heads=2, hidden_dim=48, max_position_embeddings=32,
        attn_implementation="sdpa",
    )  # fmt: skip
    return hf.DistilBertModel(config), (), text()


def roberta() -> Sample:
    return hf.RobertaModel(hf.RobertaConfig(**SMALL_TEXT)), (), text()


def mpnet() -> Sample:
    return hf.MPNetModel(hf.MPNetConfig(**{**SMALL_TEXT, "attn_implementation": "eager"})), (), text()


def vit() -> Sample:
    return hf.ViTModel(hf.ViTConfig(**SMALL_IMAGE)), (image(),), {}


def deit() -> Sample:
    return hf.DeiTModel(hf.DeiTConfig(**SMALL_IMAGE)), (image(),), {}


def swin() -> Sample:
    config = hf.SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[2, 1], num_heads=[2, 4], window_size=4)
    return hf.SwinModel(config), (image(),), {}


def resnet() -> Sample:
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2])
    return hf.ResNetModel(config), (image(),), {}


def mobilenet_v2() -> Sample:
    return hf.MobileNetV2Model(hf.MobileNetV2Config(depth_multiplier=0.25, image_size=32)), (image(),), {}


def convnext() -> Sample:
    config = hf.ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 2], num_stages=2)
    return hf.ConvNextModel(config), (image(),), {}


def efficientnet() -> Sample:
    config = hf.EfficientNetConfig(image_size=32, width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320)
    return hf.EfficientNetModel(config), (image(),), {}


def regnet() -> Sample:
    config = hf.RegNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2], groups_width=8, layer_type="y")
    return hf.RegNetModel(config), (image(),), {}


def segformer() -> Sample:
    config = hf.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=32,
    )  # fmt: skip
    return hf.SegformerForSemanticSegmentation(config), (image(),), {}


def clip_text() -> Sample:
    return hf.CLIPTextModel(hf.CLIPTextConfig(**SMALL_TEXT, eos_token_id=39)), (), text()


def clip_vision() -> Sample:
    return hf.CLIPVisionModel(hf.CLIPVisionConfig(**SMALL_IMAGE)), (image(),), {}


def whisper_encoder() -> Sample:
    config = hf.WhisperConfig(
        vocab_size=40, d_model=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=48, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=16, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, attn_implementation="sdpa",
    )  # fmt: skip
    return hf.WhisperModel(config).get_encoder(), (torch.linspace(-1, 1, 8 * 32).reshape(1, 8, 32),), {}


def t5_encoder() -> Sample:
    config = hf.T5Config(vocab_size=40, d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2)
    return hf.T5EncoderModel(config), (), text()


def gpt2() -> Sample:
    config = hf.GPT2Config(vocab_size=40, n_positions=32, n_embd=32, n_layer=1, n_head=2, attn_implementation="sdpa")
    return hf.GPT2LMHeadModel(config), (), {**text(), "use_cache": False}


def llama() -> Sample:
    config = hf.LlamaConfig(**SMALL_TEXT, num_key_value_heads=1)
    return hf.LlamaForCausalLM(config), (), {**text(), "use_cache": False}


class UNet(nn.Module):
    """Two levels down and up, with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self._block(3, 8), self._block(8, 16)
        self.middle = self._block(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.join2, self.join1 = self._block(32, 16), self._block(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.down1(x)
        b = self.down2(nn.functional.max_pool2d(a, 2))
        c = self.middle(nn.functional.max_pool2d(b, 2))
        b = self.join2(torch.cat([self.up2(c), b], 1))
        a = self.join1(torch.cat([self.up1(b), a], 1))
        return self.head(a)


def unet() -> Sample:
    return UNet(), (image(),), {}


class Recurrent(nn.Module):
    """An LSTM cell in a Python loop, then a bidirectional LSTM and a GRU layer."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(8, 8)
        self.lstm = nn.LSTM(8, 8, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(16, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = c = torch.zeros(x.shape[0], 8)
        steps = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            steps.append(h)
        y, _ = self.lstm(torch.stack(steps, 1))
        return self.gru(y)


def recurrent() -> Sample:
    return Recurrent(), (torch.linspace(-1, 1, 2 * 3 * 8).reshape(2, 3, 8),), {}


def mlp() -> Sample:
    layers = (nn.Linear(16, 32), nn.GELU(), nn.Dropout(), nn.LayerNorm(32), nn.Linear(32, 4), nn.Softmax(-1))
    return nn.Sequential(*layers), (torch.linspace(-1, 1, 48).reshape(3, 16),), {}


class Assorted(nn.Module):
    """Operators that the other models lack."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding="same")
        self.group, self.instance, self.rms = nn.GroupNorm(2, 8), nn.InstanceNorm1d(8, affine=True), nn.RMSNorm(16)
        smooth = (nn.SiLU(), nn.Hardswish(), nn.ELU(), nn.Softplus(), nn.Mish())
        self.act = nn.Sequential(*smooth, nn.LeakyReLU(), nn.ReLU6())

    def forward(self, x: torch.Tensor, flag: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.act(self.rms(self.instance(self.group(self.conv(x)))))
        picture = y.reshape(1, 2, 8, 8)
        big = nn.functional.interpolate(picture, scale_factor=2.0, mode="nearest")
        smooth = nn.functional.interpolate(big, size=(12, 20), mode="bilinear", align_corners=False)
        pooled = nn.functional.adaptive_avg_pool2d(nn.functional.avg_pool2d(smooth, 2), 3)
        shuffled = nn.functional.pixel_shuffle(nn.functional.pad(big, (1, 1, 1, 1)).repeat(1, 2, 1, 1), 2)
        best = torch.topk(y.flatten(), 3)
        left, right = y.chunk(2, -1)
        return {
            "pooled": pooled, "shuffled": shuffled, "best": best.values, "where": best.indices,
            "glu": left * torch.sigmoid(right), "sum": torch.einsum("bij,bkj->bik", y, y).cumsum(-1),
            "tri": torch.where(flag, y.tril(), y.masked_fill(y > 0, -1.0)).logsumexp(-1),
            "half": (y.half() @ y.half().transpose(1, 2)).float().argmax(-1), "rolled": y.roll(3, -1).flip(1),
        }  # fmt: skip


def assorted() -> Sample:
    x = torch.linspace(-1, 1, 4 * 16).reshape(1, 4, 16).sin()
    return Assorted(), (x, torch.tensor([True, False]).repeat(8)), {}


MODELS: dict[str, Callable[[], Sample]] = {
    f.__name__: f
    for f in (
        bert, distilbert, roberta, mpnet, vit, deit, swin, resnet, mobilenet_v2, convnext, efficientnet, regnet,
        segformer, clip_text, clip_vision, whisper_encoder, t5_encoder, gpt2, llama, unet, recurrent, mlp, assorted,
    )
}  # fmt: skip
