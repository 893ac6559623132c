"""llama.cpp as a system of a benchmark: the same tokens in every run, with an empty cache of keys and values."""

# An optional package may be missing where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from ullage.bench_llama_file import prepare
from ullage.errors import InputError, UllageError

_FILE_TYPES: Mapping[str, int] = {
    "float32": llama_cpp.LLAMA_FTYPE_ALL_F32,
    "bfloat16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "int8": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "int8-weights": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "int4-weights": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}
"""What llama.cpp's own quantizer makes of a model for each of our schemes (groups of weights are its own)."""
_MOST_ERROR = 1e-4


def file_type(name: str) -> int:
    """The type of file for a precision or scheme; InputError where llama.cpp has none that compares."""
    kind = name.partition("/")[0]
    if kind not in _FILE_TYPES:
        raise InputError(f"llama.cpp has nothing to compare with {name}; it has {', '.join(_FILE_TYPES)}.")
    return _FILE_TYPES[kind]


def open_decoder(factory: str, folder: Path, threads: int, name: str) -> Callable[[], Any]:
    """A function that evaluates the factory's decoder on its tokens and gives logits [batch, length, vocabulary].

    Torch and its copy of the weights stay in a process that ends before. In float32 the logits must be eager PyTorch's.
    """
    kind, path = file_type(name), folder / "llamacpp.gguf"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        ids, expected = pool.submit(prepare, factory, path, threads).result()
    if kind != llama_cpp.LLAMA_FTYPE_ALL_F32:
        path = _quantized(path, kind, threads)
    call = _loaded(path, ids, expected.shape[-1], threads, kind)
    if kind == llama_cpp.LLAMA_FTYPE_ALL_F32:
        _compare(call(), expected)
    return call


def _compare(found: Any, expected: Any) -> None:
    """UllageError if this is not the model that is meant."""
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    if not error <= _MOST_ERROR:
        raise UllageError(f"the logits are not those of eager PyTorch: they differ by {error:.1e}.")


def _quantized(path: Path, kind: int, threads: int) -> Path:
    """The model in another type, in place of the one in float32."""
    target = path.with_suffix(".quantized.gguf")
    params: Any = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = kind, threads
    reference: Any = ctypes.byref(params)
    if llama_cpp.llama_model_quantize(str(path).encode(), str(target).encode(), reference) != 0:
        raise UllageError("llama.cpp did not quantize the model.")
    path.unlink()
    return target


def _loaded(path: Path, ids: Any, vocabulary: int, threads: int, kind: int) -> Callable[[], Any]:
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    if model is None:
        raise UllageError("llama.cpp did not load the model.")
    context = llama_cpp.llama_init_from_model(model, _settings(ids.shape, threads, kind))
    memory = None if context is None else llama_cpp.llama_get_memory(context)
    if context is None or memory is None:
        raise UllageError("llama.cpp gave no context for the model.")
    batch = _batch(ids)

    def call() -> Any:
        llama_cpp.llama_memory_clear(memory, False)
        status = llama_cpp.llama_decode(context, batch)
        if status != 0:
            raise UllageError(f"llama.cpp's evaluation ended with {status}.")
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (*ids.shape, vocabulary))

    return call


def _settings(shape: tuple[int, int], threads: int, kind: int) -> Any:
    """All tokens in one batch; where all is in float32, keys, values and attention too, else as llama.cpp chooses."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = shape[0] * shape[1]
    params.n_seq_max = shape[0]
    params.n_threads = params.n_threads_batch = threads
    if kind == llama_cpp.LLAMA_FTYPE_ALL_F32:
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to float16
    return params


def _batch(ids: Any) -> Any:
    """Every row a sequence, with logits for all of its tokens."""
    batch = llama_cpp.llama_batch_init(ids.size, 0, 1)
    batch.n_tokens = ids.size
    for place, ((row, position), token) in enumerate(np.ndenumerate(ids)):
        batch.token[place], batch.pos[place] = int(token), position
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
        batch.logits[place] = True
    return batch
