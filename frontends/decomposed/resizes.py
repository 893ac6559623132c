"""Resizing images by cubic interpolation: 16 gathers at constant positions with constant weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ullage.frontends.decomposed.grids import cubic_weights

aten: Any = torch.ops.aten


def _places(
    size: int, out: int, corners: bool, factor: float | None, like: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Positions of the four neighbours of each result along one dimension, and their weights."""
    i = torch.arange(out, device=like.device).to(like.dtype)
    if corners:
        place = i * ((size - 1) / (out - 1) if out > 1 else 0.0)
    else:
        place = (i + 0.5) * (1.0 / factor if factor else size / out) - 0.5
    low = torch.floor(place)
    weights = cubic_weights(place - low)
    return [(low.long() + step).clamp(0, size - 1) for step in (-1, 0, 1, 2)], weights


def _bicubic(
    x: Tensor, size: Sequence[int], corners: bool, height: float | None = None, width: float | None = None
) -> Any:
    """Columns are joined first, then rows, as PyTorch does."""
    if not all(isinstance(n, int) for n in (*x.shape[2:], *size)):
        return NotImplemented
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    given = zip(x.shape[2:], size, (height, width), strict=True)
    (rows, row_weights), (columns, column_weights) = (_places(n, m, corners, f, wide) for n, m, f in given)
    total: Any = 0
    for row, weight in zip(rows, row_weights, strict=True):
        line: Any = 0
        for column, inner in zip(columns, column_weights, strict=True):
            line = line + aten.index.Tensor(wide, [None, None, row.unsqueeze(1), column]) * inner
        total = total + line * weight.unsqueeze(1)
    return rounded(total, x.dtype)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As an image of `dtype`: bytes are the nearest ones from 0 to 255."""
    return x.round().clamp(0, 255).to(dtype) if dtype is torch.uint8 else x.to(dtype)


def _bilinear_of_bytes(
    x: Tensor, size: Sequence[int], corners: bool, height: float | None = None, width: float | None = None
) -> Any:
    """Bytes are resized as floats and rounded; all else stays whole, for index arithmetic of its own."""
    if x.dtype is not torch.uint8:
        return NotImplemented
    return rounded(aten.upsample_bilinear2d.default(x.float(), size, corners, height, width), x.dtype)


def _round_to_decimals(x: Tensor, *, decimals: int) -> Any:
    """Scaled, rounded to the nearest integer (halves to even) and scaled back, in the dtype that holds them."""
    if not x.is_floating_point():
        return NotImplemented
    scale = 10.0 ** abs(decimals)
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    near = (wide * scale).round() / scale if decimals > 0 else (wide / scale).round() * scale
    return near.to(x.dtype)


RESIZES: Mapping[Any, Callable[..., Any]] = {
    aten.upsample_bicubic2d.default: _bicubic,
    aten.upsample_bilinear2d.default: _bilinear_of_bytes,
    aten.round.decimals: _round_to_decimals,
}
