"""Resizing images with a filter as wide as the pixels of the result: a product with a constant matrix per dimension.

Column j of row i weighs input j for result i by the filter's value at its distance, normalised to a sum of one. Rows
are narrow bands of a matrix that is otherwise zero, but both products run at the speed of matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel ("Cubic convolution interpolation for digital image processing", 1981) with a = −1/2."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


Filter = tuple[Callable[[Tensor], Tensor], int]
_LINEAR: Filter = (_triangle, 1)
_BICUBIC: Filter = (_cubic, 2)


def _scale(size: int, out: int, corners: bool, factor: float | None) -> float:
    """Input elements per result."""
    if corners:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1.0 / factor if factor is not None and factor > 0 else size / out


def _weights(size: int, out: int, kernel: Filter, scale: float, like: Tensor) -> Tensor:
    """[out, size]."""
    function, reach = kernel
    support = reach * max(scale, 1.0)
    dtype = torch.float64 if like.dtype is torch.float64 else torch.float32
    centre = scale * (torch.arange(out, dtype=dtype, device=like.device).reshape(-1, 1) + 0.5)
    first = (centre - support + 0.5).long().clamp(min=0)
    last = (centre + support + 0.5).long().clamp(max=size)
    place = torch.arange(size, device=like.device)
    value = function((place - centre + 0.5) / max(scale, 1.0))
    value = torch.where((place >= first) & (place < last), value, 0)
    return value / value.sum(1, keepdim=True)


def _resized(kernel: Filter) -> Callable[..., Any]:
    def decomposition(
        x: Tensor, size: Sequence[int], corners: bool, height: float | None = None, width: float | None = None
    ) -> Any:
        sizes = x.shape[-2:]
        if not x.is_floating_point() or not all(isinstance(n, int) for n in (*sizes, *size)):
            return NotImplemented
        given = zip(sizes, size, (height, width), strict=True)
        scales = [_scale(n, m, corners, factor) for n, m, factor in given]
        rows, columns = (_weights(n, m, kernel, s, x) for n, m, s in zip(sizes, size, scales, strict=True))
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return torch.matmul(rows, torch.matmul(wide, columns.t())).to(x.dtype)

    return decomposition


def _by_size_or_factor(op: Callable[..., Tensor]) -> Callable[..., Any]:
    def decomposition(x: Tensor, size: Sequence[int] | None, corners: bool, factors: Sequence[float] | None) -> Any:
        if size is None:
            assert factors is not None
            size = [int(n * f) for n, f in zip(x.shape[2:], factors, strict=True)]
        return op(x, size, corners, *(factors or (None, None)))

    return decomposition


ANTIALIAS: Mapping[Any, Callable[..., Any]] = {
    aten._upsample_bilinear2d_aa.default: _resized(_LINEAR),
    aten._upsample_bicubic2d_aa.default: _resized(_BICUBIC),
    aten._upsample_bilinear2d_aa.vec: _by_size_or_factor(aten._upsample_bilinear2d_aa.default),
    aten._upsample_bicubic2d_aa.vec: _by_size_or_factor(aten._upsample_bicubic2d_aa.default),
}
