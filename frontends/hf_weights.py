"""Which tensor of a checkpoint is which parameter: the renaming that `from_pretrained` does, on names alone.

Names that fit as they are need no rules, and making those of all known models takes a tenth of a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ullage.errors import CaptureError
from ullage.graph.constants import ConstantRef, Source
from ullage.graph.recipes import Converted
from ullage.graph.sources import FileSlice


def match_weights(model: nn.Module, tensors: Mapping[str, FileSlice]) -> dict[str, FileSlice]:
    """Checkpoint tensors by the model's own names; tied parameters share one.

    Buffers that the model computed itself may be absent. Raises CaptureError that names every parameter without a
    tensor, or with one of another shape.
    """
    wanted = model.state_dict(keep_vars=True)
    prefix = str(getattr(model, "base_model_prefix", ""))
    plain = _with_ties(wanted, {_own_name(key, (), prefix, wanted): source for key, source in tensors.items()})
    if len(plain) == len(wanted) and not _wrong_shapes(wanted, plain):
        return plain
    rules = _rules(model)
    renamings = [rule for rule in rules if not hasattr(rule, "operations")]
    found = {_own_name(key, renamings, prefix, wanted): source for key, source in tensors.items()}
    matched = _with_ties(wanted, found)
    computed = {name for name, buffer in model.named_buffers(remove_duplicate=False) if not buffer.is_meta}
    missing = [name for name in wanted if name not in matched and name not in computed]
    if missing:
        raise CaptureError(_missing(missing, [name for name in found if name not in wanted], rules))
    if wrong := _wrong_shapes(wanted, matched):
        raise CaptureError(f"shapes of weights and of the model in config.json differ: {', '.join(wrong)}.")
    return matched


def as_sources(matched: Mapping[str, FileSlice], dtypes: Mapping[str, torch.dtype]) -> dict[str, Source]:
    """Constant sources that deliver each parameter in the dtype that the model computes in."""
    return {name: _as_dtype(name, source, dtypes[name]) for name, source in matched.items()}


def _as_dtype(name: str, source: FileSlice, dtype: torch.dtype) -> Source:
    if source.dtype == dtype:
        return source
    return Converted(ConstantRef(name, source.dtype, source.shape, source), dtype)


def _rules(model: Any) -> list[Any]:
    """Conversion rules of the installed transformers: rule objects (5.x) or pairs of patterns (4.x)."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:
        patterns: Mapping[str, str] = getattr(model, "_checkpoint_conversion_mapping", None) or {}
        return [*patterns.items(), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")]
    return list(get_model_conversion_mapping(model))


def _own_name(key: str, renamings: Iterable[Any], prefix: str, wanted: Mapping[str, Any]) -> str:
    for rule in renamings:
        key = re.sub(rule[0], rule[1], key) if isinstance(rule, tuple) else rule.rename_source_key(key)[0]
    if key in wanted or not prefix:
        return key
    without = key.removeprefix(prefix + ".")
    return next((name for name in (without, f"{prefix}.{key}") if name in wanted), key)


def _with_ties(wanted: Mapping[str, torch.Tensor], found: Mapping[str, FileSlice]) -> dict[str, FileSlice]:
    by_tensor = {id(value): found[name] for name, value in wanted.items() if name in found}
    return {name: by_tensor[id(value)] for name, value in wanted.items() if id(value) in by_tensor}


def _missing(missing: list[str], unused: list[str], rules: Iterable[Any]) -> str:
    text = f"the weight files lack {len(missing)} of the model's parameters: {', '.join(missing)}."
    if unused:
        text += f" The files hold {len(unused)} tensors unknown to the model, such as {unused[0]}."
    converters = [rule for rule in rules if hasattr(rule, "operations")]
    if any(rule.rename_source_key(key)[1] is not None for rule in converters for key in unused):
        return text + " They would have to be merged or split, which cannot be done here."
    return text + " The class in config.json's `architectures` must be the one that the weights were saved from."


def _wrong_shapes(wanted: Mapping[str, torch.Tensor], matched: Mapping[str, FileSlice]) -> list[str]:
    return [
        f"{name} (model {tuple(wanted[name].shape)}, file {source.shape})"
        for name, source in matched.items()
        if tuple(wanted[name].shape) != source.shape
    ]
