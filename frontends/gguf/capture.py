"""GGUF files captured: transformers' tables name the configuration and the tensors, weights stay in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ullage.errors import CaptureError
from ullage.frontends.dynamic import shared_ranges
from ullage.frontends.export import capture, reason
from ullage.frontends.gguf.header import GgufFile, Long, open_gguf
from ullage.frontends.gguf.weights import Weight, interleaved, source_of, transposed
from ullage.frontends.hf import compute_dtypes, plain_outputs
from ullage.frontends.hf_inputs import InputSpecs, default_specs, example_inputs
from ullage.frontends.hf_weights import as_sources, match_weights
from ullage.frontends.unmaterialised import EmptyOnMeta, fake_state
from ullage.graph.captured import CapturedModel

_SUPPORTED = ("llama", "qwen2", "qwen3", "gpt2")
"""Architectures that are compared with transformers' models in tests; Mistral's files call themselves llama."""
_OWN_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "gpt2": {"context_length": "n_positions", "feed_forward_length": "n_inner"},
}
"""Where transformers' tables name settings that the model does not read."""
_TRANSPOSED = ("attn_qkv.weight", "ffn_down.weight", "ffn_up.weight", "attn_output.weight")
_HEAD_SIZES = ("attention.key_length", "attention.value_length")
_FREQUENCIES = "rope_freqs.weight"


def capture_gguf(
    path: Path,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    specs: InputSpecs | None = None,
    dynamic_shapes: Any = None,
) -> CapturedModel:
    """Capture a file's model, computed in float32 of the decoded weights; inputs as for Hugging Face folders.

    Raises CaptureError for damaged files, and for architectures, settings and tensors that are not understood.
    """
    file = open_gguf(path)
    model = _build(file)
    weights = _weights(file, model)
    matched = match_weights(model, weights)  # type: ignore[arg-type]
    dtypes = compute_dtypes(model, matched)
    fake_state(model, dtypes)
    if args is None and kwargs is None:
        args, kwargs = (), example_inputs(specs or default_specs(model, path.parent, torch.float32))
    return capture(model, args or (), kwargs, shared_ranges(dynamic_shapes), sources=as_sources(matched, dtypes))


def _build(file: GgufFile) -> Any:
    transformers, tables = _libraries()
    architecture = file.architecture
    if architecture not in _SUPPORTED or architecture not in tables:
        raise CaptureError(
            f"{file.path} holds a model of architecture {architecture!r}; {', '.join(_SUPPORTED)} are read."
        )
    settings = _settings(file, {**tables[architecture], **_OWN_SETTINGS.get(architecture, {})})
    try:
        config = transformers.AutoConfig.for_model(architecture, **settings)
        plain_outputs(config)
        with EmptyOnMeta():
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:
        raise CaptureError(
            f"{file.path}: transformers cannot build the model that it describes: {reason(error)}"
        ) from error
    _check_heads(file, config)
    _scale_frequencies(file, model)
    return model


def _libraries() -> tuple[Any, Mapping[str, Mapping[str, str | None]]]:
    try:
        import gguf
        import transformers
        from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
    except ImportError as error:
        raise CaptureError(
            f"reading GGUF files needs transformers and gguf: pip install 'ullage[gguf]' ({error})."
        ) from error
    assert gguf
    return transformers, GGUF_CONFIG_MAPPING


def _settings(file: GgufFile, table: Mapping[str, str | None]) -> dict[str, Any]:
    """The configuration that the file's metadata names; raises CaptureError for keys that nothing is known about."""
    prefix = file.architecture + "."
    own = {key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)}
    known = {**table, **dict.fromkeys(_HEAD_SIZES)}
    strange = [key for key in own if key not in known and not _says_nothing(key, own[key])]
    if strange:
        raise CaptureError(
            f"{file.path} has settings that are not understood: {', '.join(prefix + key for key in strange)}."
        )
    settings = {table[key]: value for key, value in own.items() if table.get(key)}
    missing = [
        prefix + key for key, name in table.items() if name in ("num_hidden_layers", "n_layer") and name not in settings
    ]
    if missing or not all(isinstance(value, int | float | bool | str) for value in settings.values()):
        raise CaptureError(f"{file.path} is damaged: {', '.join(missing) or 'its settings'} must be plain numbers.")
    settings.setdefault("vocab_size", _vocabulary(file))
    if _HEAD_SIZES[0] in own:
        settings.setdefault("head_dim", own[_HEAD_SIZES[0]])
    return {**settings, "tie_word_embeddings": "output.weight" not in file.tensors}  # type: ignore[dict-item]


def _says_nothing(key: str, value: Any) -> bool:
    return key == "rope.scaling.type" and value == "none"


def _vocabulary(file: GgufFile) -> int:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Long):
        return tokens.count
    if isinstance(tokens, list):
        return len(tokens)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CaptureError(f"{file.path} has neither a vocabulary nor token_embd.weight.")
    return embedding.shape[0]


def _check_heads(file: GgufFile, config: Any) -> None:
    """Head sizes that differ from the configuration's would make another model."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for key in _HEAD_SIZES:
        found = file.metadata.get(f"{file.architecture}.{key}", size)
        if found != size:
            raise CaptureError(f"{file.path} says {key} is {found}, but heads of {size} values follow from the rest.")


def _scale_frequencies(file: GgufFile, model: Any) -> None:
    """Divide the frequencies of rotary embeddings by the file's factors, as llama.cpp does for Llama 3."""
    tensor = file.tensors.get(_FREQUENCIES)
    if tensor is None:
        return
    found = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq") and not buffer.is_meta]
    if not found or any(tuple(buffer.shape) != tensor.shape for buffer in found):
        raise CaptureError(f"{file.path} has {_FREQUENCIES} of shape {tensor.shape}, which the model has no use for.")
    factors = source_of(file, tensor).read(tuple(slice(0, n) for n in tensor.shape)).float()
    for buffer in found:
        buffer.div_(factors)


def _weights(file: GgufFile, model: Any) -> dict[str, Weight]:
    """Every tensor under the parameter's name; raises CaptureError for tensors that the model does not have."""
    names = _parameter_names(file, model)
    unknown = [name for name in file.tensors if name not in names and name != _FREQUENCIES]
    if unknown:
        raise CaptureError(
            f"{file.path} holds {len(unknown)} tensors that the model has no place for, such as {unknown[0]!r}."
        )
    tensors = {name: tensor for name, tensor in file.tensors.items() if name in names}
    return {
        names[name]: _as_computed(file, name, source_of(file, tensor), model.config) for name, tensor in tensors.items()
    }


def _parameter_names(file: GgufFile, model: Any) -> Mapping[str, str]:
    """Parameters by the file's names: those of gguf-py's tables, through the state that transformers gives them."""
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[file.architecture], model.config.num_hidden_layers)
    names: dict[str, str] = {}
    for parameter in model.state_dict():
        stem, dot, suffix = parameter.rpartition(".")
        known = table.get_name(stem) or table.get_name(stem.removeprefix("model."))
        if known is not None:
            names.setdefault(f"{known}{dot}{suffix}", parameter)
    return names


def _as_computed(file: GgufFile, name: str, weight: Weight, config: Any) -> Weight:
    """Undo what llama.cpp's conversion does to a tensor."""
    architecture = file.architecture
    if architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
        return interleaved(
            name, weight, config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        )
    if architecture == "gpt2" and name.endswith(_TRANSPOSED):
        return transposed(name, weight)
    return weight
