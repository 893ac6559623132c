"""Decompositions of operators that write at computed places, into the few that have lowerings.

Those are `scatter` of values or one value, `scatter_reduce` (sum, prod, amax, amin) onto what is there, and `index_put`
by tensors of integers. Sums and products of half types are formed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten
_HALVES = (torch.float16, torch.bfloat16)
_ROUNDED = ("sum", "prod", "mean")


def scatter_src(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Any:
    """One element has an index of no dimensions; no index writes nothing."""
    if _is_plain(x, index):
        return NotImplemented
    return _as_vectors(aten.scatter.src, x, dim, index, source.reshape(index.shape or (1,)))


def scatter_value(x: Tensor, dim: int, index: Tensor, value: float) -> Any:
    """As `scatter_src`, of a number."""
    return NotImplemented if _is_plain(x, index) else _as_vectors(aten.scatter.value, x, dim, index, value)


def _is_plain(x: Tensor, index: Tensor) -> bool:
    return x.dim() > 0 and index.dim() > 0 and not (isinstance(n := index.numel(), int) and n == 0)


def _as_vectors(op: Any, x: Tensor, dim: int, index: Tensor, *rest: Any) -> Any:
    """The operator on vectors of one element; nothing is written where there is no index."""
    if index.numel() == 0:
        return x.clone()
    return op(x.reshape(x.shape or (1,)), dim, index.reshape(index.shape or (1,)), *rest).reshape(x.shape)


def scatter_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Any:
    """scatter_reduce by sums."""
    return aten.scatter_reduce.two(x, dim, index, source, "sum")


def scatter_with(x: Tensor, dim: int, index: Tensor, source: Tensor, *, reduce: str) -> Any:
    """scatter_reduce, which calls `add` a sum and `multiply` a prod."""
    return aten.scatter_reduce.two(x, dim, index, source, {"add": "sum", "multiply": "prod"}[reduce])


def scatter_value_with(x: Tensor, dim: int, index: Tensor, value: float, *, reduce: str) -> Any:
    """As `scatter_with`, of one number."""
    return scatter_with(x, dim, index, torch.full(index.shape, value, dtype=x.dtype, device=x.device), reduce=reduce)


def scatter_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Any:
    """Onto what is there, or onto what changes nothing; a mean is a sum over a count."""
    if not _is_plain(x, index):
        more = (source.reshape(index.shape or (1,)), reduce)
        return _as_vectors(_reduced(include_self), x, dim, index, *more)
    if x.dtype in _HALVES and reduce in _ROUNDED:
        wide = (x.float(), dim, index, source.float(), reduce)
        return aten.scatter_reduce.two(*wide, include_self=include_self).to(x.dtype)
    if include_self and reduce != "mean":
        return NotImplemented
    start = x if include_self else aten.scatter.value(x, dim, index, _neutral(reduce, x.dtype))
    if reduce != "mean":
        return aten.scatter_reduce.two(start, dim, index, source, reduce)
    return _mean(x, dim, index, aten.scatter_reduce.two(start, dim, index, source, "sum"), include_self)


def _reduced(include_self: bool) -> Any:
    return lambda *args: aten.scatter_reduce.two(*args, include_self=include_self)


def _mean(x: Tensor, dim: int, index: Tensor, total: Tensor, include_self: bool) -> Any:
    start = torch.full(x.shape, int(include_self), dtype=torch.int32, device=x.device)
    ones = torch.ones(index.shape, dtype=torch.int32, device=x.device)
    count = aten.scatter_reduce.two(start, dim, index, ones, "sum").clamp(min=1).to(x.dtype)
    return total / count if x.dtype.is_floating_point else torch.div(total, count, rounding_mode="floor")


def _neutral(reduce: str, dtype: torch.dtype) -> float:
    """What a reduction may start from without a trace."""
    if reduce in ("sum", "mean", "prod"):
        return int(reduce == "prod")
    if dtype == torch.bool:
        return int(reduce == "amin")
    if dtype.is_floating_point:
        return float("-inf") if reduce == "amax" else float("inf")
    return torch.iinfo(dtype).min if reduce == "amax" else torch.iinfo(dtype).max


def index_reduce(x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True) -> Any:
    """scatter_reduce by an index that is the same in all other dimensions."""
    if x.dim() == 0:
        return index_reduce(x.reshape(1), 0, index, source.reshape(1), reduce, include_self=include_self).reshape(())
    shape = [1] * x.dim()
    shape[dim] = index.numel()
    places = index.reshape(shape).expand(source.shape)
    return aten.scatter_reduce.two(
        x, dim, places, source, "prod" if reduce == "prod" else reduce, include_self=include_self
    )


def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Any:
    """index_put into all elements in a row."""
    flat = aten.index_put.default(x.reshape(-1), [index.reshape(-1)], source.reshape(-1), accumulate)
    return flat.reshape(x.shape)


def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """By one mask: where, or masked_scatter; by integers: as it is, but for sums of half types and empty indices."""
    given = [t for t in indices if t is not None]
    if any(t.dtype in (torch.bool, torch.uint8) for t in given):
        return _put_by_mask(x, indices, values, accumulate)
    if any(isinstance(n := t.numel(), int) and n == 0 for t in given):
        return x.clone()
    if accumulate and x.dtype in _HALVES:
        return aten.index_put.default(x.float(), indices, values.float(), True).to(x.dtype)
    return NotImplemented


def _put_by_mask(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool) -> Any:
    """Values that are the same for all elements of the mask need no count of them; others are taken in order."""
    places = [i for i, t in enumerate(indices) if t is not None]
    if len(places) > 1:
        return NotImplemented
    (first,), mask = places, indices[places[0]]
    assert mask is not None
    behind = x.dim() - first - mask.dim()
    whole = mask.to(torch.bool).reshape(*[1] * first, *mask.shape, *[1] * behind)
    if values.dim() <= behind or values.shape[values.dim() - behind - 1] == 1:
        lead = values.shape[: max(0, values.dim() - behind - 1)]
        same = values.reshape(*lead, *[1] * mask.dim(), *values.shape[values.dim() - min(behind, values.dim()) :])
        return torch.where(whole, x + same if accumulate else same, x)
    if first or accumulate:
        return NotImplemented
    return aten.masked_scatter.default(x, whole, values)


def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Any:
    """Element number n of the mask's true ones is element n of the source."""
    shape = torch.broadcast_shapes(x.shape, mask.shape)  # type: ignore[no-untyped-call]
    chosen = mask.expand(shape).reshape(-1)
    number = (chosen.to(torch.int64).cumsum(0) - 1).clamp(min=0)
    taken = aten.index.Tensor(source.reshape(-1), [number])
    return torch.where(chosen, taken, x.expand(shape).reshape(-1)).reshape(shape)


def put_slice(x: Tensor, source: Tensor, dim: int, start: Any, step: int) -> Any:
    """index_put at every so many elements of a dimension, from `start` on (from the end if negative)."""
    length = x.shape[dim]
    first = max(0, start + length) if start < 0 else start
    places = torch.arange(first, first + source.shape[dim] * step, step, device=x.device)
    return aten.index_put.default(x, [*[None] * (dim % x.dim()), places], source)


def put_selected(x: Tensor, source: Tensor, dim: int, index: Any) -> Any:
    """index_put at one element of a dimension."""
    place = torch.full((1,), index, dtype=torch.int64, device=x.device)
    return aten.index_put.default(x, [*[None] * (dim % x.dim()), place], source.unsqueeze(dim))


def diagonal_scatter(x: Tensor, source: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """index_put along two dimensions at once."""
    steps = torch.arange(source.shape[-1], device=x.device)
    front = x.movedim((dim1, dim2), (0, 1))
    put_in = aten.index_put.default(front, [steps + max(0, -offset), steps + max(0, offset)], source.movedim(-1, 0))
    return put_in.movedim((0, 1), (dim1, dim2))


SCATTERS: dict[Any, Any] = {
    aten.scatter.src: scatter_src,
    aten.scatter.value: scatter_value,
    aten.scatter.reduce: scatter_with,
    aten.scatter.value_reduce: scatter_value_with,
    aten.scatter_add.default: scatter_add,
    aten.scatter_reduce.two: scatter_reduce,
    aten.index_reduce.default: index_reduce,
    aten.index_put.default: index_put,
    aten._unsafe_index_put.default: index_put,
    aten.put.default: put,
    aten.masked_scatter.default: masked_scatter,
    aten.diagonal_scatter.default: diagonal_scatter,
}
"""Operators and their decompositions."""
