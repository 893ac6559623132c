"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ullage.frontends.onnx.table import Call, operator
from ullage.frontends.onnx.values import Known, known
from ullage.graph.operators import ARGSORT

Tensor = torch.Tensor
Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _summed(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return (
        torch.mean(x, axes, keepdim=keep)
        if x.is_floating_point()
        else torch.mean(x.double(), axes, keepdim=keep).to(x.dtype)
    )


def _extreme(largest: bool) -> Reduction:
    def reduced(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if any(isinstance(x.shape[a], int) and x.shape[a] == 0 for a in axes):
            shape = [1 if i in axes else n for i, n in enumerate(x.shape)]
            full = torch.full(shape, _least(x.dtype) if largest else _most(x.dtype), dtype=x.dtype)
            return full if keep else full.squeeze(axes)
        y = x.to(torch.uint8) if x.dtype == torch.bool else x
        return (torch.amax if largest else torch.amin)(y, axes, keep).to(x.dtype)

    return reduced


def _least(dtype: torch.dtype) -> Any:
    return -float("inf") if dtype.is_floating_point else 0 if dtype == torch.bool else torch.iinfo(dtype).min


def _most(dtype: torch.dtype) -> Any:
    return float("inf") if dtype.is_floating_point else 1 if dtype == torch.bool else torch.iinfo(dtype).max


REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": _summed,
    "ReduceMean": _mean,
    "ReduceMax": _extreme(True),
    "ReduceMin": _extreme(False),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: _summed(x.abs(), axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.sqrt(_summed(x * x, axes, keep)),
    "ReduceLogSum": lambda x, axes, keep: torch.log(_summed(x, axes, keep)),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: _summed(x * x, axes, keep),
}
_HOSTED: dict[str, Callable[..., Any]] = {
    "ReduceProd": np.prod, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min,
}  # fmt: skip


def _axes(call: Call, rank: int) -> list[int] | None:
    """The axes, all of them where none are given; None if then nothing is reduced (`noop_with_empty_axes`)."""
    axes, nothing = call.numbers_or_attribute(1, "axes"), call.attribute("noop_with_empty_axes", 0)
    if axes:
        return [axis % rank if rank else 0 for axis in axes]
    return None if nothing else list(range(rank))


def _register(name: str, reduction: Reduction) -> None:
    def translate(call: Call) -> Tensor:
        x = call.tensor()
        axes, keep = _axes(call, x.dim()), bool(call.attribute("keepdims", 1))
        if axes is None:
            return reduction(x.unsqueeze(-1), [x.dim()], False)
        if not axes:
            return reduction(x.unsqueeze(-1), [0], False)
        return reduction(x, axes, keep)

    def on_host(call: Call) -> Known:
        value = call.known(0)
        axes, keep = _axes(call, value.array.ndim), bool(call.attribute("keepdims", 1))
        if axes is None:
            return value
        array = _HOSTED[name](value.array, axis=tuple(axes), keepdims=keep)
        return known(np.asarray(array), value.dtype)

    operator(name, host=on_host if name in _HOSTED else None)(translate)


for _name, _reduction in REDUCTIONS.items():
    _register(_name, _reduction)


@operator("ArgMax", "ArgMin")
def _arg_extreme(call: Call) -> Tensor:
    x, axis, keep = call.tensor(), call.attribute("axis", 0), bool(call.attribute("keepdims", 1))
    function = torch.argmax if call.node.op_type == "ArgMax" else torch.argmin
    if not call.attribute("select_last_index", 0):
        return function(x, axis, keepdim=keep)
    last: Tensor = x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)
    return last


@operator("TopK", ignores=("sorted",))
def _top_k(call: Call) -> tuple[Tensor, Tensor]:
    x = call.tensor()
    k = call.scalar(1) if call.version >= 10 else call.attribute("k")
    axis, largest = call.attribute("axis", -1), bool(call.attribute("largest", 1))
    places = ARGSORT(x, axis, largest, k)
    return torch.gather(x, axis, places), places
