"""Distances between points, and sums over bags of rows: reductions over what they would otherwise store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten


def _norm(difference: Tensor, p: float) -> Tensor:
    """(Σ |d|ᵖ)^(1/p) over the last dimension."""
    size = difference.abs()
    if p == 0:
        return (difference != 0).to(difference.dtype).sum(-1)
    if p == 1:
        return size.sum(-1)
    if p == 2:
        return (difference * difference).sum(-1).sqrt()
    if p == float("inf"):
        return size.amax(-1)
    return size.pow(p).sum(-1).pow(1.0 / p)


def _cdist(left: Tensor, right: Tensor, p: float, compute_mode: int | None = None) -> Any:
    """All pairs of rows; never by way of a product, whose cancellation costs half the digits of near points."""
    if left.shape[-1] == 0:
        return NotImplemented
    return _norm(left.unsqueeze(-2) - right.unsqueeze(-3), p)


def _pdist(x: Tensor, p: float = 2) -> Any:
    """The pairs (i, j) with i < j, row by row."""
    count = x.shape[0]
    if not isinstance(count, int) or x.shape[1] == 0:
        return NotImplemented
    if count < 2:
        return torch.zeros(0, dtype=x.dtype, device=x.device)
    rows, columns = torch.triu_indices(count, count, 1, device=x.device).unbind(0)
    return _norm(x[rows] - x[columns], p)


def _embedding_bag(
    weight: Tensor, indices: Tensor, offsets: Tensor, scale_grad_by_freq: bool = False, mode: int = 0,
    sparse: bool = False, per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
    padding_idx: int = -1,
) -> Any:  # fmt: skip
    """Bag b sums the rows n with offsets[b] ≤ n < offsets[b + 1], by a mask over all rows."""
    count = indices.shape[0]
    starts = offsets[:-1] if include_last_offset else offsets
    bags = starts.shape[0]
    if count == 0 or bags == 0:
        return NotImplemented
    place = torch.arange(count, device=weight.device)
    bag = (offsets.unsqueeze(1) <= place).sum(0) - 1
    member = bag == torch.arange(bags, device=weight.device).unsqueeze(1)
    if padding_idx >= 0:
        member = member & (indices != padding_idx)
    total = member.sum(1)
    rows = weight[indices]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    result, best = _bags(rows, member, total, mode)
    return result, bag, total, indices[best] if mode == 2 else total


def _bags(rows: Tensor, member: Tensor, total: Tensor, mode: int) -> tuple[Tensor, Tensor]:
    """Sums, means or maxima of the rows of each bag, 0 for an empty one, and the rows of the maxima."""
    wide = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    chosen = torch.where(member.unsqueeze(-1), wide, float("-inf") if mode == 2 else 0.0)
    if mode == 2:
        best = chosen.argmax(1)
        return torch.where(total.unsqueeze(1) > 0, chosen.amax(1), 0.0).to(rows.dtype), best
    result = chosen.sum(1)
    if mode == 1:
        result = result / total.clamp(min=1).unsqueeze(1)
    return result.to(rows.dtype), total


def _embedding_gradient(
    gradient: Tensor, indices: Tensor, count: int, padding_idx: int, scale_grad_by_freq: bool
) -> Any:
    """Row r sums the gradients of the places that hold r, by a mask over all places."""
    places = indices.reshape(-1)
    rows = torch.arange(count, device=gradient.device).unsqueeze(1)
    member = (places == rows) & (rows != padding_idx)
    flat = gradient.reshape(places.shape[0], gradient.shape[-1])
    wide = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
    result = torch.where(member.unsqueeze(-1), wide, 0).sum(1)
    if scale_grad_by_freq:
        result = result / member.sum(1, keepdim=True).clamp(min=1)
    return result.to(gradient.dtype)


DISTANCES: Mapping[Any, Callable[..., Any]] = {
    aten._cdist_forward.default: _cdist,
    aten._pdist_forward.default: _pdist,
    aten._embedding_bag.default: _embedding_bag,
    aten.embedding_dense_backward.default: _embedding_gradient,
    aten._embedding_bag_forward_only.default: _embedding_bag,
}
