"""Elements that are looked up by computed positions."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.table import Call, aten, writes


@writes(aten.index_select)
def _index_select(call: Call) -> Value:
    ids = call.value(call["index"])
    if call.fake(call["index"]).dim() == 0:
        ids = call.op("Unsqueeze", ids, call.block.ints(0))
    return call.op("Gather", call.value(call["self"]), ids, axis=call["dim"] % call.fake().dim())


@writes(aten.embedding)
def _embedding(call: Call) -> Value:
    return call.op("Gather", call.value(call["weight"]), call.value(call["indices"]), axis=0)


@writes(aten.gather)
def _gather(call: Call) -> Value:
    axis = call["dim"] % call.fake().dim()
    return call.op("GatherElements", call.value(call["self"]), call.value(call["index"]), axis=axis)


@writes(aten.index.Tensor, aten._unsafe_index.Tensor)
def _index(call: Call) -> Value:
    """One index is a `Gather`, several are a `GatherND` over their dimensions, brought to the front."""
    given: dict[int, Node] = {d: i for d, i in enumerate(call["indices"]) if i is not None}
    if any(call.fake(i).dtype in (torch.bool, torch.uint8) for i in given.values()):
        raise call.refuse("by a mask")
    if len(given) == 1:
        ((axis, index),) = given.items()
        return call.op("Gather", call.value(call["self"]), call.value(index, torch.int64), axis=axis)
    return _looked_up(call, given)


def _looked_up(call: Call, given: dict[int, Node]) -> Value:
    rank, dims = call.fake().dim(), sorted(given)
    shape = torch.broadcast_shapes(*(call.fake(i).shape for i in given.values()))  # type: ignore[no-untyped-call]
    rest = [d for d in range(rank) if d not in given]
    source = call.value(call["self"])
    if dims != list(range(len(dims))):
        source = call.op("Transpose", source, perm=[*dims, *rest])
    found = call.op("GatherND", source, positions(call, [given[d] for d in dims], shape))
    start = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    if start == 0:
        return found
    width = len(shape)
    behind = range(width, width + len(rest))
    return call.op("Transpose", found, perm=[*behind[:start], *range(width), *behind[start:]])


def positions(call: Call, indices: list[Node], shape: Any) -> Value:
    """Indices that broadcast to a shape, side by side in a new last dimension."""
    last, columns = call.block.ints(-1), []
    for index in indices:
        found = call.value(index, torch.int64)
        if tuple(call.fake(index).shape) != tuple(shape):
            found = call.op("Expand", found, call.writer.sizes.vector(*shape))
        columns.append(call.op("Unsqueeze", found, last))
    return call.op("Concat", *columns, axis=-1)
