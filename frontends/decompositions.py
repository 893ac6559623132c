"""Which operators a captured graph may hold: what is kept whole, what is decomposed, and why.

The table starts from PyTorch's default decompositions (everything becomes core ATen) and differs as follows.

Kept whole, because one kernel does the work better than its parts could be put together again (`KEPT`):
    linear                 the GEMM template reads the weight as it is stored, [out, in]
    scaled_dot_product_attention, layer_norm, group_norm, rms_norm
                           reductions with their own kernels; no intermediate ever needs memory
    gelu, silu, hardswish, hardsigmoid, hardtanh, leaky_relu, elu, softplus, mish
                           one scalar expression each
    upsample_nearest2d, _upsample_nearest_exact2d, upsample_bilinear2d (`.default`)
                           index arithmetic that the decomposition would turn into gathers
Decomposed by this project (`OWN`):
    addmm                  with a vector as bias and unit factors: linear, so that there is one form of it
    upsample_*.vec         the `.default` form with the size computed
    split, split_with_sizes, unbind, chunk
                           slices and selects: no operator with a list as result remains
    roll                   slices and cat
    instance_norm          group_norm with one channel per group
    batch_norm of training statistics of the batch, and the running ones as results (`batch_norm.py`)
    slice_scatter, select_scatter, copy
                           cat of slices, cast and expand (what is left of assignments to parts of a tensor);
                           index_put where there are steps or the length is dynamic
    view                   of a copy where memory is in another order: values have no strides, and what is decomposed
                           above need not give those that a view was captured with
    linalg_vector_norm     sums and powers
    adaptive_avg_pool1d and 2d
                           mean or avg_pool2d where the windows are equal (PyTorch's own goes through as_strided)
    lstm, gru              single steps (`recurrent.py`)
    scatter*, put, index_put by masks, index_reduce, masked_scatter
                           scatter, scatter_reduce onto what is there, index_put by integers (`scatters.py`)
    kthvalue, median, mode, cummax, cummin, logcumsumexp
                           sorts and scans (`orders.py`)
    adaptive max pools, gradients of pools, diagonal, as_strided, distances, embedding_bag, grid_sampler, resizing with
    antialias              gathers, masks and reductions (`decomposed/`)
Decomposed by PyTorch, worth knowing:
    matmul, einsum         mm and bmm with expand and reshape around them
    conv1d, conv2d, conv3d, conv_transpose*
                           aten.convolution
    softmax, log_softmax   aten._softmax, aten._log_softmax (a dtype argument becomes a cast before it)
    batch_norm, max_pool2d the forms with several outputs, which `canonical.py` turns into batch_norm, max_pool2d
    pixel_shuffle, transpose, flatten, movedim
                           reshape and permute
    masked_fill, prelu     where
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import _core_aten_decompositions_post_autograd, get_decompositions
from torch._prims_common import is_contiguous_or_false
from torch.export import default_decompositions

from ullage.frontends.batch_norm import batch_norm_training
from ullage.frontends.decomposed.antialias import ANTIALIAS
from ullage.frontends.decomposed.arithmetic import ARITHMETIC
from ullage.frontends.decomposed.convolutions import CONVOLUTIONS
from ullage.frontends.decomposed.distances import DISTANCES
from ullage.frontends.decomposed.grids import GRIDS
from ullage.frontends.decomposed.pools import POOLS
from ullage.frontends.decomposed.views import VIEWS
from ullage.frontends.orders import ORDERS
from ullage.frontends.recurrent import gru_input, lstm_input
from ullage.frontends.scatters import SCATTERS, put_selected, put_slice

aten: Any = torch.ops.aten
Decomposition = Callable[..., Any]

KEPT = (
    aten.linear.default,
    aten.scaled_dot_product_attention.default,
    aten.layer_norm.default,
    aten.group_norm.default,
    aten.rms_norm.default,
    aten.silu.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.softplus.default,
    aten.mish.default,
    aten.upsample_nearest2d.default,
    aten._upsample_nearest_exact2d.default,
    aten.upsample_bilinear2d.default,
)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if bias.dim() == 1 and beta == 1 and alpha == 1 and bias.shape[0] == b.shape[1]:
        return aten.linear.default(a, b.permute(1, 0), bias)
    product = aten.mm.default(a, b)
    scaled = product if alpha == 1 else product * alpha
    return scaled + (bias if beta == 1 else bias * beta)


def _slices(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(aten.slice.Tensor(x, dim, start, start + size))
        start = start + size
    return pieces


def _split(x: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    length = x.shape[dim]
    starts = range(0, int(length), int(size)) if size else range(1)
    return [aten.slice.Tensor(x, dim, start, min(start + int(size), int(length))) for start in starts]


def _unbind(x: Tensor, dim: int = 0) -> list[Tensor]:
    return [aten.select.int(x, dim, i) for i in range(x.shape[dim])]


def _roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
    if not dims:
        return _roll(x.reshape(-1), shifts, (0,)).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        length = x.shape[dim]
        start = (length - shift) % length if length else 0
        x = _joined((x.narrow(dim, start, length - start), x.narrow(dim, 0, start)), dim)
    return x


def _joined(pieces: Sequence[Tensor], dim: int) -> Any:
    kept = [piece for piece in pieces if piece.shape[dim] != 0]
    return torch.cat(kept, dim) if len(kept) > 1 else [*kept, pieces[0]][0]


def _adaptive_avg_pool2d(x: Tensor, size: Sequence[int]) -> Any:
    if tuple(size) == (1, 1):
        return aten.mean.dim(x, [-2, -1], True)
    window = [int(n) // int(s) for n, s in zip(x.shape[-2:], size, strict=True)]
    if all(n == w * s for n, w, s in zip(x.shape[-2:], window, size, strict=True)):
        return aten.avg_pool2d.default(x, window, window)
    return aten._adaptive_avg_pool2d.default(x, size)


def _adaptive_avg_pool1d(x: Tensor, size: Sequence[int]) -> Any:
    return aten.squeeze.dim(_adaptive_avg_pool2d(aten.unsqueeze.default(x, -2), (1, *size)), -2)


def _slice_scatter(
    x: Tensor, source: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    length = x.shape[dim]
    if step != 1 or not isinstance(length, int):
        return put_slice(x, source, dim, start or 0, step)
    first, last, _ = slice(start, end).indices(length)
    return _joined((x.narrow(dim, 0, first), source, x.narrow(dim, last, length - last)), dim) if last > first else x


def _select_scatter(x: Tensor, source: Tensor, dim: int, index: int) -> Any:
    length = x.shape[dim]
    if not isinstance(length, int):
        return put_selected(x, source, dim, index)
    at = index % length
    return _joined((x.narrow(dim, 0, at), source.unsqueeze(dim), x.narrow(dim, at + 1, length - at - 1)), dim)


def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Any:
    return source.to(x.dtype).expand(x.shape)


def _view(x: Tensor, size: Sequence[int]) -> Any:
    if is_contiguous_or_false(x):
        return NotImplemented
    return aten.view.default(x.clone(memory_format=torch.contiguous_format), size)


def _vector_norm(
    x: Tensor, ord: float = 2, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    x = x if dtype is None else x.to(dtype)
    dims = list(dim) if dim else list(range(x.dim()))
    if ord == 2:
        return (x * x).sum(dims, keepdim).sqrt()
    if ord == float("inf"):
        return x.abs().amax(dims, keepdim)
    if ord == float("-inf"):
        return x.abs().amin(dims, keepdim)
    if ord == 0:
        return (x != 0).to(x.dtype).sum(dims, keepdim)
    return x.abs().sum(dims, keepdim) if ord == 1 else x.abs().pow(ord).sum(dims, keepdim).pow(1 / ord)


def _instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    if use_input_stats:
        return aten.group_norm.default(x, x.shape[1], weight, bias, eps)
    return aten.batch_norm.default(x, weight, bias, running_mean, running_var, False, momentum, eps, cudnn_enabled)


def _output_size(x: Tensor, size: Sequence[int] | None, factors: Sequence[float] | None) -> list[int]:
    if size is not None:
        return list(size)
    assert factors is not None
    return [int(n * f) for n, f in zip(x.shape[2:], factors, strict=True)]


def _factors(factors: Sequence[float] | None, count: int) -> Sequence[float | None]:
    return factors if factors is not None else (None,) * count


def _upsample_nearest(op: Callable[..., Tensor]) -> Decomposition:
    def decomposition(x: Tensor, size: Sequence[int] | None, factors: Sequence[float] | None) -> Any:
        return op(x, _output_size(x, size, factors), *_factors(factors, 2))

    return decomposition


def _upsample_smooth(op: Callable[..., Tensor]) -> Decomposition:
    def decomposition(
        x: Tensor, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None
    ) -> Any:
        return op(x, _output_size(x, size, factors), align_corners, *_factors(factors, 2))

    return decomposition


_BICUBIC = aten.upsample_bicubic2d.default
"""Decomposed by PyTorch, but not in the tables that it hands out."""
OWN: dict[torch._ops.OpOverload, Decomposition] = {
    aten.addmm.default: _addmm,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _slices,
    aten.unbind.int: _unbind,
    aten.roll.default: _roll,
    aten.slice_scatter.default: _slice_scatter,
    aten.select_scatter.default: _select_scatter,
    aten.copy.default: _copy,
    aten.view.default: _view,
    aten.linalg_vector_norm.default: _vector_norm,
    aten.adaptive_avg_pool1d.default: _adaptive_avg_pool1d,
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
    aten.instance_norm.default: _instance_norm,
    aten._native_batch_norm_legit_functional.default: batch_norm_training,
    aten.upsample_nearest2d.vec: _upsample_nearest(aten.upsample_nearest2d.default),
    aten._upsample_nearest_exact2d.vec: _upsample_nearest(aten._upsample_nearest_exact2d.default),
    aten.upsample_bilinear2d.vec: _upsample_smooth(aten.upsample_bilinear2d.default),
    aten.upsample_bicubic2d.default: get_decompositions([_BICUBIC])[_BICUBIC],
    aten.upsample_bicubic2d.vec: _upsample_smooth(aten.upsample_bicubic2d.default),
    aten.lstm.input: lstm_input,
    aten.gru.input: gru_input,
    **SCATTERS,
    **ORDERS,
    **POOLS,
    **VIEWS,
    **DISTANCES,
    **GRIDS,
    **ANTIALIAS,
    **ARITHMETIC,
    **CONVOLUTIONS,
}


def decomposition_table() -> dict[torch._ops.OperatorBase, Decomposition]:
    """The table for `ExportedProgram.run_decompositions`: PyTorch's default without `KEPT` and with `OWN`."""
    table = default_decompositions()
    for op in KEPT:
        table.pop(op, None)  # type: ignore[no-untyped-call]
    for op, function in OWN.items():
        table[op] = function
    return table


def operator_decompositions() -> dict[torch._ops.OperatorBase, Decomposition]:
    """The same decompositions without those of composite operators, which dispatch decomposes by itself."""
    table: dict[torch._ops.OperatorBase, Decomposition] = _core_aten_decompositions_post_autograd()
    whole = {op: function for op, function in table.items() if op not in KEPT}
    for op, function in OWN.items():
        whole[op] = function
    return whole
