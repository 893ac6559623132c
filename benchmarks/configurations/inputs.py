"""Inputs of a transformers model by the names in its signature, from a fixed seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

ROWS, LENGTH, DECODED, PADDING = 2, 12, 6, 3
"""Sequences of a text input, their tokens, tokens on a decoder's side, and padding tokens behind the last sequence."""
_FIRST_TOKEN = 5
"""Tokens below are special in many vocabularies."""
_SAMPLES = 2_000


def inputs_of(model: nn.Module, config: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for `model`: the usual ones by name, and `changes` ({name: shape or value}, None: left out)."""
    accepted = inspect.signature(model.forward).parameters
    main = str(getattr(model, "main_input_name", "input_ids"))
    names = [name for name in accepted if name in (main, *_COMPANIONS.get(main, ()))]
    if main not in accepted:
        names = [name for name in accepted if name in _MAKERS and name in _ANYWAY]
    if _has_text_and_images(config):
        names += [name for name in ("input_ids", "attention_mask", "pixel_values") if name in accepted]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        names.append("decoder_input_ids")
    wanted = {name: None for name in names if name not in changes and name in _MAKERS}
    made = {name: _MAKERS[name](config) for name in wanted}
    return made | {name: _given(name, value, config) for name, value in changes.items() if value is not None}


_COMPANIONS = {"input_ids": ("attention_mask",)}
_ANYWAY = ("input_ids", "attention_mask", "pixel_values")


def _has_text_and_images(config: Any) -> bool:
    fields = config.to_dict()
    return isinstance(fields.get("text_config"), dict) and isinstance(fields.get("vision_config"), dict)


def _given(name: str, value: Any, config: Any) -> Any:
    """A tensor for a shape (normal values, or tokens for [..., "tokens"]); anything else as it is."""
    if value == "usual":
        return _MAKERS[name](config)
    if callable(value):
        return value(config)
    if not isinstance(value, tuple):
        return value
    *shape, last = value
    if isinstance(last, int):
        return torch.randn(*shape, last)
    return _FILLED[last](config, shape)


_FILLED: dict[str, Callable[[Any, list[int]], Tensor]] = {
    "tokens": lambda config, shape: torch.randint(_FIRST_TOKEN, _vocabulary(config), shape),
    "ones": lambda config, shape: torch.ones(shape, dtype=torch.int64),
    "zeros": lambda config, shape: torch.zeros(shape, dtype=torch.int64),
    "true": lambda config, shape: torch.ones(shape, dtype=torch.bool),
    "unit": lambda config, shape: torch.rand(shape),
    "range": lambda config, shape: torch.arange(shape[-1]).expand(shape).clone(),
}


def with_images(rows: int, length: int, count: int) -> Callable[[Any], Tensor]:
    """Tokens that begin with `count` places for features of images, after the configuration's `image_token_id`."""

    def made(config: Any) -> Tensor:
        tokens = torch.randint(_FIRST_TOKEN, _vocabulary(config), (rows, length))
        tokens[:, :count] = config.image_token_id
        return tokens

    return made


def _vocabulary(config: Any) -> int:
    for holder in (config, getattr(config, "text_config", None), getattr(config, "decoder", None)):
        size = getattr(holder, "vocab_size", None)
        if isinstance(size, int) and size > _FIRST_TOKEN:
            return size
    return 100


def _tokens(length: int) -> Callable[[Any], Tensor]:
    return lambda config: torch.randint(_FIRST_TOKEN, _vocabulary(config), (ROWS, length))


def _mask(config: Any) -> Tensor:
    mask = torch.ones(ROWS, LENGTH, dtype=torch.int64)
    mask[-1, -PADDING:] = 0
    return mask


def _image(config: Any) -> Tensor:
    vision = getattr(config, "vision_config", None) or getattr(config, "backbone_config", None) or config
    height, width = _pair(getattr(vision, "image_size", None) or 32)
    channels = getattr(vision, "num_channels", None) or 3
    rows = ROWS if _has_text_and_images(config) else 1
    return torch.randn(rows, channels if isinstance(channels, int) else 3, height, width)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[-1])) if isinstance(size, list | tuple) else (int(size), int(size))


def _features(config: Any) -> Tensor:
    bins = getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_per_channel", None) or 16
    return torch.randn(1, int(bins), 2 * int(getattr(config, "max_source_positions", 32)))


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "input_ids": _tokens(LENGTH),
    "attention_mask": _mask,
    "decoder_input_ids": _tokens(DECODED),
    "pixel_values": _image,
    "input_features": _features,
    "input_values": lambda config: torch.randn(1, _SAMPLES),
}
