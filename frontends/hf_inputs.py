"""Example inputs for a Hugging Face model: from given specs, or the usual ones for its kind."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ullage.errors import CaptureError, InputError

InputSpecs = Mapping[str, tuple[torch.dtype | str, Sequence[int]]]
_TEXT_LENGTH = 128
_AUDIO_SAMPLES = 16_000
_IMAGE_SIZE = 224


def example_inputs(specs: InputSpecs) -> dict[str, torch.Tensor]:
    """Tensors of ones for `{name: (dtype, shape)}`; raises InputError for an unknown dtype or a bad shape."""
    return {name: _ones(name, dtype, shape) for name, (dtype, shape) in specs.items()}


def _ones(name: str, dtype: torch.dtype | str, shape: Sequence[int]) -> torch.Tensor:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise InputError(f"input {name!r} has the unknown dtype {dtype!r}; use a name such as float32 or int64.")
    if any(n < 1 for n in shape):
        raise InputError(f"input {name!r} has the shape {tuple(shape)}; every size must be at least 1.")
    return torch.ones(tuple(shape), dtype=found)


def default_specs(model: nn.Module, folder: Path, dtype: torch.dtype) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The usual inputs of a model of batch 1; raises CaptureError if its kind is not known."""
    accepted = inspect.signature(model.forward).parameters
    config: Any = model.config
    main = str(getattr(model, "main_input_name", "input_ids"))
    specs: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    if main == "input_ids" or "text_config" in config.to_dict():
        specs |= _text(accepted, config)
    if main == "pixel_values" or ("vision_config" in config.to_dict() and "pixel_values" in accepted):
        specs["pixel_values"] = (dtype, _image_shape(config, folder))
    if main == "input_features":
        specs[main] = (dtype, (1, int(config.num_mel_bins), 2 * int(config.max_source_positions)))
    if main == "input_values":
        specs[main] = (dtype, (1, _AUDIO_SAMPLES))
    if "decoder_input_ids" in accepted and getattr(config, "is_encoder_decoder", False):
        specs["decoder_input_ids"] = (torch.int64, (1, 8))
    if not specs:
        raise CaptureError(f"no usual inputs are known for {type(model).__name__} ({main}); give input specs.")
    return specs


def _text(accepted: Mapping[str, Any], config: Any) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    text = getattr(config, "text_config", config)
    length = min(_TEXT_LENGTH, int(getattr(text, "max_position_embeddings", None) or _TEXT_LENGTH))
    names = [name for name in ("input_ids", "attention_mask") if name in accepted]
    return {name: (torch.int64, (1, length)) for name in names}


def _image_shape(config: Any, folder: Path) -> tuple[int, int, int, int]:
    vision = getattr(config, "vision_config", config)
    height, width = _pair(getattr(vision, "image_size", None) or _processor_size(folder) or _IMAGE_SIZE)
    return 1, int(getattr(vision, "num_channels", 3)), height, width


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        return (int(edge), int(edge)) if edge else (int(size["height"]), int(size["width"]))
    if isinstance(size, Sequence):
        return int(size[0]), int(size[-1])
    return int(size), int(size)


def _processor_size(folder: Path) -> Any:
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_bytes()) if path.exists() else {}
    return settings.get("crop_size") or settings.get("size")
