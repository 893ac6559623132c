"""A Llama-shaped decoder of `transformers` as the file that llama.cpp reads (GGUF, architecture llama, float32).

Names of tensors are those of the package gguf. The format's rotations are of neighbouring pairs, where `transformers`
rotates halves: rows of queries and keys are laid out for that.
"""

# An optional package may be missing where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ullage.errors import InputError

_CLASS = "LlamaForCausalLM"
_FACTOR_TOLERANCE = 1e-5


def prepare(factory: str, path: Path, threads: int) -> tuple[Any, Any]:
    """Write the factory's decoder to `path`; its token ids [batch, length] and its logits [batch, length, vocabulary].

    InputError if the module is none that llama.cpp knows.
    """
    import torch

    from ullage.frontends.factory import call_factory

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    module, args, kwargs = call_factory(factory)
    model, ids = decoder_in(module), _token_ids(args, kwargs)
    logits = _logits(module.eval()(ids), (*ids.shape, model.config.vocab_size))
    write_gguf(model, path)
    return ids.numpy(), logits


def decoder_in(module: Any) -> Any:
    """The one LlamaForCausalLM in a module; InputError if there is none, or one that llama.cpp has no form for."""
    import torch

    parts = module.modules() if isinstance(module, torch.nn.Module) else ()
    found = [part for part in parts if type(part).__name__ == _CLASS]
    if len(found) != 1:
        raise InputError(f"no decoder that llama.cpp knows: the module has {len(found)} {_CLASS} in it.")
    model: Any = found[0]
    if model.config.hidden_act not in ("silu", "swish"):
        raise InputError(f"no decoder that llama.cpp knows: its gate is {model.config.hidden_act}, not silu.")
    return model


def _token_ids(args: tuple[Any, ...] | None, kwargs: dict[str, Any] | None) -> Any:
    import torch

    given = [*(args or ()), *(kwargs or {}).values()]
    if len(given) != 1 or not isinstance(given[0], torch.Tensor) or given[0].ndim != 2:
        raise InputError(f"llama.cpp evaluates a [batch, length] of token ids, found {len(given)} inputs.")
    return given[0]


def _logits(result: Any, shape: tuple[int, ...]) -> Any:
    import torch
    from torch.utils import _pytree as pytree

    tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    if [tuple(tensor.shape) for tensor in tensors] != [shape]:
        found = ", ".join(str(list(tensor.shape)) for tensor in tensors)
        raise InputError(f"llama.cpp gives logits {list(shape)}, the model gives {found or 'nothing'}.")
    return tensors[0].float().numpy()


def write_gguf(model: Any, path: Path) -> None:
    """Write a LlamaForCausalLM, one tensor at a time."""
    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer, model)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, tensor in _tensors(model):
        size = tensor.numel() * np.dtype(np.float32).itemsize
        writer.add_tensor_info(_own_name(names, name), tuple(tensor.shape), np.dtype(np.float32), size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in _tensors(model):
        writer.write_tensor_data(np.ascontiguousarray(_laid_out(name, tensor.float(), model.config).numpy()))
    writer.close()


def _own_name(names: Any, name: str) -> str:
    found = name if name == "rope_freqs.weight" else names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise InputError(f"no decoder that llama.cpp knows: it has nothing like {name}.")
    return str(found)


def _describe(writer: Any, model: Any) -> None:
    """Sizes, rotations, and a vocabulary without texts."""
    config = model.config
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(_base(config))
    writer.add_rope_scaling_attn_factors(float(model.model.rotary_emb.attention_scaling))
    writer.add_file_type(int(gguf.LlamaFileType.ALL_F32))
    writer.add_tokenizer_model("no_vocab")


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _base(config: Any) -> float:
    """The base of rotations; `transformers` 5 keeps it in a mapping."""
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    base: Any = parameters.get("rope_theta") or getattr(config, "rope_theta", 10000.0)
    return float(base)


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """Weights by their names in `transformers`, and what the frequencies of rotations are divided by, if anything."""
    import torch

    size = _head_size(model.config)
    plain = _base(model.config) ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    factors = plain / model.model.rotary_emb.inv_freq.double()
    if (factors - 1).abs().max() > _FACTOR_TOLERANCE:
        yield "rope_freqs.weight", factors
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" or not model.config.tie_word_embeddings:
            yield name, tensor


def _laid_out(name: str, tensor: Any, config: Any) -> Any:
    """Rows of queries and keys: the two halves of each head interleaved."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((number for part, number in heads.items() if f".{part}." in name), None)
    if count is None:
        return tensor
    halves = tensor.reshape(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)
