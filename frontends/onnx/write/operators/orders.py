"""Positions in order: `TopK`, which puts equal values in the order of their positions.

It leaves open where NaN stands. What is sorted instead of floating-point numbers has none, and is in the order that
PyTorch gives, NaN the greatest.
"""

from __future__ import annotations

import math

import torch

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.table import Call, writes
from ullage.frontends.onnx.write.types import form
from ullage.graph.operators import ARGSORT

_WIDER = {torch.float32: torch.float64, torch.float16: torch.float32}


@writes(ARGSORT)
def _argsort(call: Call) -> Value:
    """The first `count` positions."""
    x = call.value(call["x"])
    dtype, axis = form(call.fake().dtype), call["dim"] % call.fake().dim()
    count = call.result.shape[axis]
    if dtype == torch.bool:
        return _positions(call, call.block.cast(x, torch.int32), count, axis)
    if dtype in _WIDER:
        return _positions(call, _comparable(call, x, dtype), count, axis)
    return _by_two(call, x, count, axis) if dtype.is_floating_point else _positions(call, x, count, axis)


def _positions(call: Call, keys: Value, count: object, axis: int) -> Value:
    largest = int(bool(call["descending"]))
    return call.block.ops("TopK", keys, call.writer.sizes.vector(count), outputs=2, axis=axis, largest=largest)[1]


def _comparable(call: Call, x: Value, dtype: torch.dtype) -> Value:
    """Numbers of a wider type in the same order: infinite ones become finite there, and NaN becomes infinite."""
    wide = _WIDER[dtype]
    beyond = 2.0 * torch.finfo(dtype).max
    limits = (call.value(limit, wide) for limit in (-beyond, beyond))
    held = call.op("Clip", call.block.cast(x, wide), *limits)
    return call.op("Where", call.op("IsNaN", x), call.value(math.inf, wide), held)


def _by_two(call: Call, x: Value, count: object, axis: int) -> Value:
    """Of the widest type: by value, NaN and infinity as equals, and then, keeping that order, by what is NaN."""
    undefined = call.op("IsNaN", x)
    values = call.op("Where", undefined, call.value(math.inf, torch.float64), x)
    first = _positions(call, values, call.fake().shape[axis], axis)
    marks = call.op("GatherElements", call.block.cast(undefined, torch.int32), first, axis=axis)
    return call.op("GatherElements", first, _positions(call, marks, count, axis), axis=axis)
