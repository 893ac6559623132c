"""GGUF files of small random models, written as llama.cpp's conversion writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

Q = gguf.GGMLQuantizationType
KEYS = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
}
FLOATS = {
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon",),
}


def small_model(kind: str, **settings: Any) -> Any:
    """A causal model of two layers and width 64 with random weights."""
    torch.manual_seed(11)
    common = {"vocab_size": 80, **settings}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=32, n_inner=128, **common)
    else:
        own = {"head_dim": 32} if kind == "qwen3" else {}
        config = transformers.AutoConfig.for_model(
            kind, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, rope_theta=5000.0, **own, **common,
        )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model.requires_grad_(False)


def write(
    path: Path,
    model: Any,
    types: Mapping[str, Q] | None = None,
    more: Mapping[str, Any] | None = None,
    extra: str = "",
) -> None:
    """Write a model and take the values that a file of these types has back into it."""
    kind, config = model.config.model_type, model.config
    writer = gguf.GGUFWriter(path, kind)
    for key, names in KEYS.items():
        found = next((getattr(config, n) for n in names if getattr(config, n, None) is not None), None)
        if found is not None:
            writer.add_uint32(f"{kind}.{key}", found)
    for key, names in FLOATS.items():
        if hasattr(config, names[0]):
            writer.add_float32(f"{kind}.{key}", getattr(config, names[0]))
    if kind != "gpt2":
        writer.add_float32(f"{kind}.rope.freq_base", 5000.0)
        writer.add_uint32(f"{kind}.attention.key_length", model.model.layers[0].self_attn.head_dim)
    writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(config.vocab_size)])
    for key, value in (more or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    _add_tensors(writer, model, types or {})
    if extra:
        writer.add_tensor(extra, np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensors(writer: gguf.GGUFWriter, model: Any, types: Mapping[str, Q]) -> None:
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[model.config.model_type], model.config.num_hidden_layers)
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        stem, _, suffix = name.rpartition(".")
        known = names.get_name(stem)
        assert known is not None, name
        if known == "output" and tied:
            continue
        kind = next((t for part, t in types.items() if part in known and parameter.dim() == 2), Q.F32)
        stored = _as_stored(model, known, parameter)
        data = gguf.quantize(stored.numpy(), kind)
        writer.add_tensor(f"{known}.{suffix}", data, raw_dtype=kind)
        _take_back(model, known, parameter, torch.from_numpy(gguf.dequantize(data, kind)))


def _turned(model: Any, known: str, weight: torch.Tensor, back: bool) -> torch.Tensor:
    """Rows of a head in pairs (as llama.cpp has them), or back in halves."""
    config = model.config
    heads = config.num_attention_heads if "attn_q" in known else config.num_key_value_heads
    size = weight.shape[0] // heads
    parts = (heads, size // 2, 2, -1) if back else (heads, 2, size // 2, -1)
    return weight.reshape(parts).transpose(1, 2).reshape(weight.shape)


def _is_turned(model: Any, known: str) -> bool:
    return model.config.model_type == "llama" and known.endswith(("attn_q", "attn_k"))


def _is_transposed(model: Any, parameter: torch.Tensor, known: str) -> bool:
    return model.config.model_type == "gpt2" and parameter.dim() == 2 and known.startswith("blk")


def _as_stored(model: Any, known: str, parameter: torch.Tensor) -> torch.Tensor:
    stored = _turned(model, known, parameter, False) if _is_turned(model, known) else parameter
    return (stored.T if _is_transposed(model, parameter, known) else stored).contiguous()


def _take_back(model: Any, known: str, parameter: torch.Tensor, values: torch.Tensor) -> None:
    values = values.T if _is_transposed(model, parameter, known) else values
    parameter.copy_(_turned(model, known, values, True) if _is_turned(model, known) else values)


def random_blocks(kind: Q, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Blocks of random bytes."""
    return np.random.default_rng(int(kind)).integers(0, 256, (count, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
