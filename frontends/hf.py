"""Hugging Face folders (`config.json` and safetensors): captured with the weights left in their files."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ullage.errors import CaptureError
from ullage.frontends.dynamic import shared_ranges
from ullage.frontends.export import capture, reason
from ullage.frontends.hf_inputs import InputSpecs, default_specs, example_inputs
from ullage.frontends.hf_weights import as_sources, match_weights
from ullage.frontends.safetensors import open_folder
from ullage.frontends.unmaterialised import EmptyOnMeta, fake_state
from ullage.graph.captured import CapturedModel
from ullage.graph.sources import FileSlice


def capture_folder(
    folder: Path,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    specs: InputSpecs | None = None,
    dynamic_shapes: Any = None,
) -> CapturedModel:
    """Capture the folder's model for given inputs, for `{name: (dtype, shape)}`, or for the usual inputs of its kind.

    Outputs are the model's normal ones: no caches, no hidden states, no attention maps. Ranges (minimum,
    maximum) that are equal on the same axis of several inputs are one dimension. Raises CaptureError.
    """
    tensors = open_folder(folder)
    model = _build(folder, _stored_dtype(tensors))
    matched = match_weights(model, tensors)
    dtypes = compute_dtypes(model, matched)
    fake_state(model, dtypes)
    if args is None and kwargs is None:
        args, kwargs = (), example_inputs(specs or default_specs(model, folder, model.dtype))
    return capture(model, args or (), kwargs, shared_ranges(dynamic_shapes), sources=as_sources(matched, dtypes))


def _stored_dtype(tensors: Mapping[str, FileSlice]) -> torch.dtype:
    """The dtype of the first floating tensor: what `from_pretrained` takes for `dtype="auto"`."""
    return next((t.dtype for t in tensors.values() if t.dtype.is_floating_point), torch.float32)


def _build(folder: Path, stored: torch.dtype) -> Any:
    transformers = _transformers()
    settings = _settings(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise CaptureError(f"{folder / 'config.json'} is not understood by transformers: {reason(error)}") from error
    plain_outputs(config)
    dtype = getattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", None) or stored
    with EmptyOnMeta():
        return _model_class(transformers, settings, config)._from_config(config, dtype=dtype)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise CaptureError("reading a Hugging Face folder needs transformers: pip install 'ullage[hf]'.") from error
    return transformers


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CaptureError(f"{path} cannot be read as JSON: {reason(error)}") from error
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise CaptureError(f"{path} names no model_type, so it is no Hugging Face model.")
    if "quantization_config" in settings:
        raise CaptureError(f"{folder} holds weights that are quantized already; use the original weights.")
    return settings


def _model_class(transformers: Any, settings: Mapping[str, Any], config: Any) -> Any:
    names = settings.get("architectures") or []
    base = _base_class(transformers, config)
    places = [transformers, *([sys.modules[base.__module__]] if base is not None else [])]
    found = next((getattr(place, name) for name in names for place in places if hasattr(place, name)), None)
    if found is None and names:
        raise CaptureError(f"transformers {transformers.__version__} has no class {', '.join(names)}.")
    if found is None and base is None:
        raise CaptureError(f"transformers has no base model for {type(config).__name__}; name one in `architectures`.")
    return found or base


def _base_class(transformers: Any, config: Any) -> Any:
    """The class that AutoModel would take, None if it knows none."""
    try:
        return transformers.AutoModel._model_mapping[type(config)]
    except KeyError:
        return None


def plain_outputs(config: Any) -> None:
    """Have a model give its normal outputs only: no caches, hidden states or attention maps."""
    for name, value in (("use_cache", False), ("output_hidden_states", False), ("output_attentions", False)):
        if hasattr(config, name):
            setattr(config, name, value)
    for part in getattr(config, "sub_configs", None) or ():
        if getattr(config, part, None) is not None:
            plain_outputs(getattr(config, part))


def compute_dtypes(model: nn.Module, matched: Mapping[str, FileSlice]) -> dict[str, torch.dtype]:
    """The dtype that each tensor is computed in: the model's, float32 for modules that insist, integers as stored."""
    kept = _float32_pattern(model)
    state = model.state_dict(keep_vars=True)
    return {
        name: torch.float32 if kept and kept.search(name) and state[name].is_floating_point() else state[name].dtype
        for name in matched
    }


def _float32_pattern(model: Any) -> re.Pattern[str] | None:
    names = list(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if model.dtype == torch.float16:
        names += list(getattr(model, "_keep_in_fp32_modules", None) or ())
    if not names or model.dtype not in (torch.float16, torch.bfloat16):
        return None
    return re.compile("|".join(rf"((^|\.){re.escape(name)}($|\.))" for name in names))
