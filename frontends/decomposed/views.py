"""Views that are named by memory, and tensors without values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten


def _diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """Rows and columns as one dimension, of which every (columns + 1)-th element is taken."""
    dims = [d for d in range(x.dim()) if d not in (dim1 % x.dim(), dim2 % x.dim())]
    rows, columns = x.shape[dim1], x.shape[dim2]
    if not (isinstance(rows, int) and isinstance(columns, int)):
        return NotImplemented
    count = max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))
    flat = x.permute([*dims, dim1, dim2]).flatten(-2)
    first = offset if offset >= 0 else -offset * columns
    if count == 0:
        return flat.narrow(-1, 0, 0)
    return aten.slice.Tensor(flat, -1, first, first + (count - 1) * (columns + 1) + 1, columns + 1)


def _in_memory_order(x: Tensor) -> Tensor | None:
    """The elements of a tensor as they lie in memory; None unless they are all of it, each once."""
    if x.storage_offset() != 0 or not all(isinstance(n, int) for n in x.shape):
        return None
    strides: tuple[int, ...] = x.stride()
    sized = sorted((d for d in range(x.dim()) if x.shape[d] != 1), key=lambda d: -strides[d])
    expected = 1
    for d in reversed(sized):
        if strides[d] != expected:
            return None
        expected *= x.shape[d]
    ones = [d for d in range(x.dim()) if d not in sized]
    return x.permute([*sized, *ones]).reshape(-1)


def _as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None) -> Any:
    """A gather from the elements in memory order; what reaches beyond them, or into another tensor, stays whole."""
    flat = _in_memory_order(x)
    if flat is None or not all(isinstance(n, int) for n in (*size, *stride)):
        return NotImplemented
    place = torch.full((), offset or 0, dtype=torch.int64, device=x.device)
    for d, (count, step) in enumerate(zip(size, stride, strict=True)):
        shape = [count if e == d else 1 for e in range(len(size))]
        place = place + torch.arange(count, device=x.device).reshape(shape) * step
    return aten.index.Tensor(flat, [place])


def _unfold(x: Tensor, dim: int, size: int, step: int) -> Any:
    """Windows along a dimension, each as a new last dimension: side by side they are a reshape."""
    if x.dim() == 0:
        return x.reshape(1).narrow(0, 0, size)
    dim %= x.dim()
    count = (x.shape[dim] - size) // step + 1
    shape = (*x.shape[:dim], count, size, *x.shape[dim + 1 :])
    if size == step:
        return x.narrow(dim, 0, count * size).reshape(shape).movedim(dim + 1, -1)
    starts = torch.arange(count, device=x.device).unsqueeze(1) * step
    places = (starts + torch.arange(size, device=x.device)).reshape(-1)
    return x.index_select(dim, places).reshape(shape).movedim(dim + 1, -1)


def _empty(size: Sequence[int], **options: Any) -> Any:
    kept = {key: value for key, value in options.items() if key in ("dtype", "device", "layout")}
    return aten.full.default(size, 0, **{"dtype": torch.get_default_dtype(), **_given(kept)})


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _empty_strided(size: Sequence[int], stride: Sequence[int], **options: Any) -> Any:
    return _empty(size, **options)


VIEWS: Mapping[Any, Callable[..., Any]] = {
    aten.diagonal.default: _diagonal,
    aten.as_strided.default: _as_strided,
    aten.unfold.default: _unfold,
    aten.empty.memory_format: _empty,
    aten.empty_strided.default: _empty_strided,
}
