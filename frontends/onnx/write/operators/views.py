"""Operators that are views in torch: other shapes, orders and parts of the same elements."""

from __future__ import annotations

from typing import Any

import torch

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.table import Call, aten, size_of, writes

END = (1 << 63) - 1
"""The end of a slice that takes all that is left."""


def reshaped(call: Call, value: Value, shape: Any) -> Value:
    """A value with as many elements in another shape; one dynamic size is left to be inferred."""
    sizes = list(shape)
    dynamic = [d for d, size in enumerate(sizes) if not isinstance(size, int)]
    if len(dynamic) == 1 and 0 not in sizes:
        sizes[dynamic[0]] = -1
    empty = 1 if 0 in sizes else None
    return call.op("Reshape", value, call.writer.sizes.vector(*sizes), allowzero=empty)


@writes(
    aten.view.default, aten.reshape, aten._unsafe_view, aten.flatten.using_ints, aten.unflatten.int,
    aten._reshape_alias, aten.view_as,
)  # fmt: skip
def _reshape(call: Call) -> Value:
    return reshaped(call, call.value(call["self"]), call.result.shape)


@writes(aten.unsqueeze)
def _unsqueeze(call: Call) -> Value:
    return call.op("Unsqueeze", call.value(call["self"]), call.block.ints(call["dim"] % call.result.dim()))


@writes(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default)
def _squeeze(call: Call) -> Value:
    shape, given = call.fake().shape, call["dim"]
    dims = range(len(shape)) if given is None else [given] if isinstance(given, int) else given
    axes = sorted({d % len(shape) for d in dims if shape and isinstance(shape[d], int) and shape[d] == 1})
    source = call.value(call["self"])
    return call.op("Squeeze", source, call.block.ints(*axes)) if axes else source


@writes(aten.permute)
def _permute(call: Call) -> Value:
    rank = call.result.dim()
    return call.op("Transpose", call.value(call["self"]), perm=[d % rank for d in call["dims"]])


@writes(aten.transpose.int, aten.t)
def _transpose(call: Call) -> Value:
    rank = call.result.dim()
    if rank < 2:
        return call.value(call["self"])
    order = list(range(rank))
    first, second = (0, 1) if call.node.target is aten.t.default else (call["dim0"] % rank, call["dim1"] % rank)
    order[first], order[second] = order[second], order[first]
    return call.op("Transpose", call.value(call["self"]), perm=order)


@writes(aten.expand)
def _expand(call: Call) -> Value:
    return call.op("Expand", call.value(call["self"]), call.writer.sizes.vector(*call.result.shape))


@writes(aten.slice.Tensor)
def _slice(call: Call) -> Value:
    start, end = (size_of(call[name]) for name in ("start", "end"))
    axis = (call["dim"] or 0) % call.fake().dim()
    return sliced(call, call.value(call["self"]), axis, start or 0, END if end is None else end, call["step"] or 1)


def sliced(call: Call, value: Value, axis: int, start: Any, end: Any, step: int = 1) -> Value:
    """Elements from `start` to before `end` of a dimension."""
    sizes = call.writer.sizes
    return call.op("Slice", value, sizes.vector(start), sizes.vector(end), call.block.ints(axis), call.block.ints(step))


@writes(aten.select.int)
def _select(call: Call) -> Value:
    index = call.value(call["index"], torch.int64)
    return call.op("Gather", call.value(call["self"]), index, axis=call["dim"] % call.fake().dim())


@writes(aten.split.Tensor, aten.split_with_sizes, aten.chunk)
def _split(call: Call) -> tuple[Value, ...]:
    axis = call["dim"] % call.fake().dim()
    sizes = call.writer.sizes.vector(*(part.shape[axis] for part in call.node.meta["val"]))
    return call.block.ops("Split", call.value(call["self"]), sizes, outputs=len(call.node.meta["val"]), axis=axis)


@writes(aten.unbind.int)
def _unbind(call: Call) -> tuple[Value, ...]:
    axis, count = call["dim"] % call.fake().dim(), len(call.node.meta["val"])
    source = call.value(call["self"])
    return tuple(call.op("Gather", source, call.value(i, torch.int64), axis=axis) for i in range(count))
