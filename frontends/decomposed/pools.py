"""Pools with uneven windows, and the gradients of pools, as gathers with a mask and a reduction over what was gathered.

A gradient is formed where it arrives: each input element asks the windows that hold it, so nothing is scattered and the
order of summation is fixed. All positions are computed from `arange`, so kernels find them by index arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Axis:
    """For each element of a dimension, candidates [size, count] in another one, and which of them there are."""

    positions: Tensor
    present: Tensor


def _along(axis: Tensor, which: int, rank: int) -> Tensor:
    """A table [size, count] of spatial dimension `which`, to broadcast over [sizes …, counts …]."""
    shape = [1] * (2 * rank)
    shape[which], shape[rank + which] = axis.shape
    return axis.reshape(shape)


def gathered(x: Tensor, axes: Sequence[Axis]) -> tuple[Tensor, Tensor]:
    """`x` at all combinations of candidates of its last dimensions, [..., sizes …, counts …], and which are there."""
    rank, lead = len(axes), x.dim() - len(axes)
    sizes = x.shape[lead:]
    inside = (axis.positions.clamp(0, size - 1) for axis, size in zip(axes, sizes, strict=True))
    places = [_along(positions, d, rank) for d, positions in enumerate(inside)]
    present = _along(axes[0].present, 0, rank)
    for d in range(1, rank):
        present = present & _along(axes[d].present, d, rank)
    return aten.index.Tensor(x, [None] * lead + places), present


def _last(count: int) -> list[int]:
    return list(range(-count, 0))


def _bands(size: int, out: int, device: torch.device) -> Axis:
    """The inputs of each adaptive window, from ⌊i·size/out⌋ to ⌈(i+1)·size/out⌉."""
    i = torch.arange(out, device=device).reshape(-1, 1)
    start, end = i * size // out, ((i + 1) * size + out - 1) // out
    widest = -(-size // out) + (size % out > 0)
    positions = start + torch.arange(widest, device=device)
    return Axis(positions, positions < end)


def _lowest(dtype: torch.dtype) -> float:
    return float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min


def _adaptive_max_pool(x: Tensor, size: Sequence[int]) -> Any:
    rank = len(size)
    sizes = x.shape[-rank:]
    if not all(isinstance(n, int) for n in (*sizes, *size)):
        return NotImplemented
    axes = [_bands(n, s, x.device) for n, s in zip(sizes, size, strict=True)]
    values, present = gathered(x, axes)
    values = torch.where(present, values, _lowest(x.dtype)).flatten(-rank)
    place = torch.zeros((), dtype=torch.int64, device=x.device)
    for d, (axis, n) in enumerate(zip(axes, sizes, strict=True)):
        place = place * n + _along(axis.positions, d, rank)
    best = values.argmax(-1, keepdim=True)
    flat = place.expand(present.shape).flatten(-rank).expand(values.shape)
    return values.amax(-1), flat.gather(-1, best).squeeze(-1)


def window_places(
    size: int, out: int, kernel: int, stride: int, padding: int, dilation: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """[size, kernel]: the window that holds an element at a place of it, kept in range, and whether there is one."""
    axis = _windows_of(size, out, kernel, stride, padding, dilation, like)
    return axis.positions.clamp(0, out - 1), axis.present


def _windows_of(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int, like: Tensor) -> Axis:
    """The windows that hold each of `size` elements: one candidate for each place in a window."""
    reach = torch.arange(size, device=like.device).reshape(-1, 1) + padding
    reach = reach - torch.arange(kernel, device=like.device) * dilation
    windows = torch.div(reach, stride, rounding_mode="floor")
    return Axis(windows, (windows * stride == reach) & (windows >= 0) & (windows < out))


def _two(value: Any, default: Sequence[int] = ()) -> list[int]:
    given = [value] if isinstance(value, int) else list(value)
    return (given * 2 if len(given) == 1 else given) or list(default)


def _static(*tensors: Tensor) -> bool:
    return all(isinstance(n, int) for t in tensors for n in t.shape)


def _window_length(size: int, out: int, kernel: int, stride: int, padding: int, include: bool, like: Tensor) -> Tensor:
    """How many elements each window counts, with or without the padding."""
    start = torch.arange(out, device=like.device) * stride - padding
    end = (start + kernel).clamp(max=size + padding)
    return end - start if include else end.clamp(max=size) - start.clamp(min=0)


def _avg_pool2d_backward(
    gradient: Tensor, x: Tensor, kernel: Any, stride: Any, padding: Any, ceil: bool, include: bool, divisor: int | None
) -> Any:
    if not _static(gradient, x):
        return NotImplemented
    kernel, padding = _two(kernel), _two(padding)
    stride = _two(stride, kernel)
    sizes, outs = x.shape[-2:], gradient.shape[-2:]
    windows = list(zip(sizes, outs, kernel, stride, padding, strict=True))
    rows, columns = (_window_length(*window, include, x) for window in windows)
    counts: Any = rows.reshape(-1, 1) * columns if divisor is None else divisor
    axes = [_windows_of(*window, 1, x) for window in windows]
    found, present = gathered(_wide(gradient) / counts, axes)
    return torch.where(present, found, 0).sum(_last(2)).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _max_pool2d_backward(
    gradient: Tensor, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, indices: Tensor
) -> Any:
    if not _static(gradient, x):
        return NotImplemented
    kernel = _two(kernel)
    options = zip(kernel, _two(stride, kernel), _two(padding), _two(dilation), strict=True)
    (height, width), outs = x.shape[-2:], gradient.shape[-2:]
    axes = [_windows_of(n, o, *option, x) for n, o, option in zip((height, width), outs, options, strict=True)]
    found, present = gathered(gradient, axes)
    chosen, _ = gathered(indices, axes)
    here = torch.arange(height * width, device=x.device).reshape(height, width, 1, 1)
    return torch.where(present & (chosen == here), _wide(found), 0).sum(_last(2)).to(x.dtype)


def _adaptive_windows_of(size: int, out: int, like: Tensor) -> tuple[Axis, Tensor]:
    """The adaptive windows that hold each element, and the length of each window."""
    i = torch.arange(out, device=like.device)
    start, end = i * size // out, ((i + 1) * size + out - 1) // out
    place = torch.arange(size, device=like.device).reshape(-1, 1)
    windows = place * out // size - 1 + torch.arange(-(-out // size) + 2, device=like.device)
    inside = windows.clamp(0, out - 1)
    first, last = inside * size // out, ((inside + 1) * size + out - 1) // out
    return Axis(windows, (windows == inside) & (first <= place) & (place < last)), end - start


def _adaptive_avg_pool_backward(rank: int) -> Callable[..., Any]:
    def decomposition(gradient: Tensor, x: Tensor) -> Any:
        if not _static(gradient, x):
            return NotImplemented
        sizes = zip(x.shape[-rank:], gradient.shape[-rank:], strict=True)
        windows = [_adaptive_windows_of(size, out, x) for size, out in sizes]
        share = _wide(gradient)
        for d, (_, length) in enumerate(windows):
            share = share / length.reshape([-1 if e == d else 1 for e in range(rank)])
        found, present = gathered(share, [axis for axis, _ in windows])
        return torch.where(present, found, 0).sum(_last(rank)).to(x.dtype)

    return decomposition


POOLS: Mapping[Any, Callable[..., Any]] = {
    aten.adaptive_max_pool1d.default: _adaptive_max_pool,
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.adaptive_max_pool3d.default: _adaptive_max_pool,
    aten.avg_pool2d_backward.default: _avg_pool2d_backward,
    aten.max_pool2d_with_indices_backward.default: _max_pool2d_backward,
    aten._adaptive_avg_pool2d_backward.default: _adaptive_avg_pool_backward(2),
    aten._adaptive_avg_pool3d_backward.default: _adaptive_avg_pool_backward(3),
}
