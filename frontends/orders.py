"""Decompositions of operators that order elements, into sorts, and of running extremes and logarithms of sums.

`sort` and `topk` themselves, which have two results, become one operator of ours for each in `canonical.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ullage.graph.operators import CUMMAX, CUMMIN, LINEAR_SCAN

aten: Any = torch.ops.aten


def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th least value along a dimension and its place, the lowest of equal ones first."""
    if x.dim() == 0:
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    place = aten.topk.default(x, k, dim, False)[1].narrow(dim, k - 1, 1)
    return _taken(x, dim, place, keepdim)


def _taken(x: Tensor, dim: int, place: Tensor, keepdim: bool) -> tuple[Tensor, Tensor]:
    """The value at one place for each row, and the place."""
    value = x.gather(dim, place)
    return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))


def median_dim(x: Tensor, dim: int, keepdim: bool = False) -> Any:
    """The lower median; of rows with a NaN, the first NaN."""
    if x.dim() == 0:
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    k = (x.shape[dim] + 1) // 2
    place = aten.topk.default(x, k, dim, False)[1].narrow(dim, k - 1, 1)
    if x.is_floating_point():
        undefined = torch.isnan(x)
        first = undefined.to(torch.int32).argmax(dim, keepdim=True)
        place = torch.where(undefined.any(dim, keepdim=True), first, place)
    return _taken(x, dim, place, keepdim)


def nanmedian_dim(x: Tensor, dim: int, keepdim: bool = False) -> Any:
    """The lower median of what is no NaN."""
    if x.dim() == 0 or not x.is_floating_point():
        return median_dim(x, dim, keepdim)
    order = aten.sort.stable(x, stable=True, dim=dim)[1]
    middle = ((~torch.isnan(x)).sum(dim, keepdim=True) - 1).clamp(min=0) // 2
    return _taken(x, dim, order.gather(dim, middle), keepdim)


def median(x: Tensor) -> Any:
    """The lower median of all elements."""
    return median_dim(x.reshape(-1), 0)[0]


def nanmedian(x: Tensor) -> Any:
    """The lower median of all elements that are no NaN."""
    return nanmedian_dim(x.reshape(-1), 0)[0]


def mode(x: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """The most frequent value, the least of several; its place is the last one that has it."""
    if x.dim() == 0:
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    values, order = aten.sort.stable(x, stable=True, dim=dim)
    count = x.shape[dim]
    number = _numbers(x, dim)
    before = torch.cat([values.narrow(dim, 0, 1), values.narrow(dim, 0, count - 1)], dim)
    start = CUMMAX(torch.where(values != before, number, 0), dim)
    end = (number - start).argmax(dim, keepdim=True)
    return _taken(x, dim, order.gather(dim, end), keepdim)


def _numbers(x: Tensor, dim: int) -> Tensor:
    """Places along a dimension, to be broadcast."""
    shape = [1] * x.dim()
    shape[dim] = x.shape[dim]
    return torch.arange(x.shape[dim], device=x.device).reshape(shape)


def _running(op: Any) -> Any:
    def decomposition(x: Tensor, dim: int) -> Any:
        """Values so far, and the last place where one was reached."""
        if x.dim() == 0:
            return x.clone(), torch.zeros_like(x, dtype=torch.int64)
        values = op(x, dim)
        reached = values == x
        if x.is_floating_point():
            reached = reached | torch.isnan(x)
        return values, CUMMAX(torch.where(reached, _numbers(x, dim), 0), dim)

    return decomposition


def logcumsumexp(x: Tensor, dim: int) -> Any:
    """log Σ exp(x) so far, relative to the greatest value so far: a linear recurrence of what is at most 1.

    s[t] = exp(m[t − 1] − m[t]) · s[t − 1] + exp(x[t] − m[t]), and log s[t] + m[t] is the result, with m the running
    maximum (Milakov and Gimelshein 2018). Infinite maxima differ from themselves by 0.
    """
    if x.dim() == 0:
        return x.clone()
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    top = CUMMAX(wide, dim)
    before = torch.cat([top.narrow(dim, 0, 1), top.narrow(dim, 0, x.shape[dim] - 1)], dim)
    factor = torch.where(before == top, 1.0, torch.exp(before - top))
    term = torch.where(wide == top, 1.0, torch.exp(wide - top))
    return (LINEAR_SCAN(factor, term, None, dim % x.dim()).log() + top).to(x.dtype)


ORDERS: dict[Any, Any] = {
    aten.kthvalue.default: kthvalue,
    aten.median.default: median,
    aten.median.dim: median_dim,
    aten.nanmedian.default: nanmedian,
    aten.nanmedian.dim: nanmedian_dim,
    aten.mode.default: mode,
    aten.cummax.default: _running(CUMMAX),
    aten.cummin.default: _running(CUMMIN),
    aten.logcumsumexp.default: logcumsumexp,
}
"""Operators and their decompositions."""
