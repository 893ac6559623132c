"""Operators that read and write at computed places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor


def _wrapped(index: Tensor, size: Any) -> Tensor:
    return torch.where(index < 0, index + size, index).long()


@operator("GatherElements")
def _gather_elements(call: Call) -> Tensor:
    x, axis = call.tensor(0), call.attribute("axis", 0)
    return torch.gather(x, axis, _wrapped(call.tensor(1), x.shape[axis]))


@operator("GatherND")
def _gather_nd(call: Call) -> Tensor:
    x, index, batch = call.tensor(0), call.tensor(1), call.attribute("batch_dims", 0)
    depth = int(index.shape[-1])
    lead = [
        torch.arange(x.shape[d]).reshape([-1 if i == d else 1 for i in range(index.dim() - 1)]) for d in range(batch)
    ]
    picks = [_wrapped(index.select(-1, j), x.shape[batch + j]) for j in range(depth)]
    return x[(*lead, *picks)]


@operator("ScatterElements", "Scatter")
def _scatter_elements(call: Call) -> Tensor:
    x, updates, axis = call.tensor(0), call.tensor(2), call.attribute("axis", 0)
    index = _wrapped(call.tensor(1), x.shape[axis])
    how = call.attribute("reduction", "none")
    if how == "none":
        return torch.scatter(x, axis, index, updates)
    return torch.scatter_reduce(x, axis, index, updates, _REDUCE[how], include_self=True)


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterND")
def _scatter_nd(call: Call) -> Tensor:
    x, index, updates = call.tensor(0), call.tensor(1), call.tensor(2)
    how = call.attribute("reduction", "none")
    depth = int(index.shape[-1])
    picks = tuple(_wrapped(index.select(-1, j), x.shape[j]) for j in range(depth))
    if how in ("none", "add"):
        return torch.index_put(x, picks, updates, how == "add")
    return _scattered(x, picks, updates, depth, _REDUCE[how])


def _scattered(x: Tensor, picks: Sequence[Tensor], updates: Tensor, depth: int, how: str) -> Tensor:
    flat = torch.zeros_like(picks[0])
    for pick, size in zip(picks, x.shape, strict=False):
        flat = flat * size + pick
    inner = x.shape[depth:].numel()
    places = (flat.reshape(-1, 1) * inner + torch.arange(inner)).reshape(-1)
    return torch.scatter_reduce(x.reshape(-1), 0, places, updates.reshape(-1), how).reshape(x.shape)


@operator("Compress")
def _compress(call: Call) -> Tensor:
    """Only with a known condition: sizes follow from it."""
    x = call.tensor()
    places = torch.tensor([i for i, keep in enumerate(call.numbers(1)) if keep], dtype=torch.int64)
    axis = call.attribute("axis")
    return x.reshape(-1).index_select(0, places) if axis is None else x.index_select(axis, places)


@operator("TensorScatter")
def _tensor_scatter(call: Call) -> Tensor:
    """Writes a run of new values into a cache, for each batch from its own place on."""
    cache, update = call.tensor(0), call.tensor(1)
    axis = call.attribute("axis", -2) % cache.dim()
    starts = call.optional(2)
    steps = torch.arange(update.shape[axis])
    first = torch.zeros(cache.shape[0], dtype=torch.int64) if starts is None else starts
    places = first[:, None] + steps
    if call.attribute("mode", "linear") == "circular":
        places = places % cache.shape[axis]
    shape = [1] * cache.dim()
    shape[0], shape[axis] = cache.shape[0], update.shape[axis]
    return torch.scatter(cache, axis, places.reshape(shape).expand(update.shape), update)
