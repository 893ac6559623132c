"""Samples of core operators that PyTorch's own tests have none for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NUMBERS = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
Sample = tuple[Callable[..., Any], tuple[Any, ...]]


def _values(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64).uniform_(-3, 3).to(dtype)


def _avg_pool_gradient(dtype: torch.dtype) -> Sequence[Sample]:
    x, g = _values(dtype, 1, 2, 7, 8), _values(dtype, 1, 2, 4, 4)
    options = (x, [3, 2], [2, 2], [1, 0], False)
    return [(aten.avg_pool2d_backward, (g, *options, inner, divisor)) for inner, divisor in ((True, None), (False, 5))]


def _adaptive_gradient(dtype: torch.dtype) -> Sequence[Sample]:
    x = _values(dtype, 1, 2, 7, 5)
    return [(aten._adaptive_avg_pool2d_backward, (_values(dtype, 1, 2, *size), x)) for size in ((3, 8), (1, 1), (7, 2))]


def _max_pool_gradient(dtype: torch.dtype) -> Sequence[Sample]:
    x = _values(dtype, 1, 2, 9, 8)
    options = ([3, 2], [2, 1], [1, 0], [2, 3], True)
    values, places = aten.max_pool2d_with_indices(x, *options)
    return [(aten.max_pool2d_with_indices_backward, (values, x, *options, places))]


def _convolution_gradient(dtype: torch.dtype) -> Sequence[Sample]:
    samples = []
    for transposed in (False, True):
        x, w = _values(dtype, 2, 4, 7, 6), _values(dtype, 4, 2, 3, 2)
        geometry = ([2, 1], [1, 0], [1, 2], transposed, [1 if transposed else 0, 0], 2)
        gradient = torch.ones_like(aten.convolution(x, w, None, *geometry)) * _values(dtype, 1, 1, 1, 1) + 1
        samples.append((aten.convolution_backward, (gradient, x, w, [4], *geometry, [True, True, True])))
    return samples


def _embedding_gradient(dtype: torch.dtype) -> Sequence[Sample]:
    ids = torch.tensor([[1, 4, 1], [0, 2, 4]])
    return [(aten.embedding_dense_backward, (_values(dtype, 2, 3, 4), ids, 6, 2, False))]


def _layer_norm_gradient(dtype: torch.dtype) -> Sequence[Sample]:
    x, w = _values(dtype, 4, 6), _values(dtype, 6)
    _, mean, rstd = aten.native_layer_norm(x, [6], w, w, 1e-5)
    return [(aten.native_layer_norm_backward, (_values(dtype, 4, 6), x, [6], mean, rstd, w, w, [True] * 3))]


def _group_norm_gradient(dtype: torch.dtype) -> Sequence[Sample]:
    x, w = _values(dtype, 2, 6, 5), _values(dtype, 6)
    _, mean, rstd = aten.native_group_norm(x, w, w, 2, 6, 5, 3, 1e-5)
    return [(aten.native_group_norm_backward, (_values(dtype, 2, 6, 5), x, mean, rstd, w, 2, 6, 5, 3, [True] * 3))]


def _folded(dtype: torch.dtype) -> Sequence[Sample]:
    return [(aten.col2im, (_values(dtype, 1, 12, 12), [4, 5], [2, 2], [1, 1], [0, 0], [1, 1]))]


def _made(dtype: torch.dtype) -> Sequence[Sample]:
    return [
        (lambda x: torch.full((3, 2), 2.5, dtype=dtype) + x, (_values(dtype, 2),)),
        (lambda x: torch.scalar_tensor(2, dtype=dtype) + x, (_values(dtype, 2),)),
        (lambda x: torch.empty(4, 2, dtype=dtype).fill_(3) + x, (_values(dtype, 2),)),
        (lambda x: torch.empty_strided((2, 2), (1, 2), dtype=dtype).fill_(3) + x, (_values(dtype, 2),)),
        (lambda x: torch.arange(2, 9, 3, dtype=dtype) + x, (_values(dtype, 3),)),
    ]


def _undropped(dtype: torch.dtype) -> Sequence[Sample]:
    return [(aten.native_dropout, (_values(dtype, 5), 0.5, False))]


OWN: Mapping[str, tuple[tuple[torch.dtype, ...], Callable[[torch.dtype], Sequence[Sample]]]] = {
    "avg_pool2d_backward": (FLOATS, _avg_pool_gradient),
    "_adaptive_avg_pool2d_backward": (FLOATS, _adaptive_gradient),
    "max_pool2d_with_indices_backward": (FLOATS, _max_pool_gradient),
    "convolution_backward": (FLOATS, _convolution_gradient),
    "embedding_dense_backward": (FLOATS, _embedding_gradient),
    "native_layer_norm_backward": (FLOATS, _layer_norm_gradient),
    "native_group_norm_backward": (FLOATS, _group_norm_gradient),
    "col2im": (FLOATS, _folded),
    "native_dropout": (FLOATS, _undropped),
    **dict.fromkeys(("full", "scalar_tensor", "empty", "empty_strided", "arange"), (NUMBERS, _made)),
}
"""By operator: the dtypes, and the samples of one dtype."""
