"""Writes at computed places.

Sums and products by index are `ScatterElements`, which ONNX Runtime walks in order; its `ScatterND`, which is for whole
rows, adds from several threads at once and loses some. Integers of 8 and 16 bits and booleans, which have no reductions
there, are combined in int32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.operators.indexing import positions
from ullage.frontends.onnx.write.table import Call, aten, writes
from ullage.frontends.onnx.write.types import arithmetic

_REDUCTIONS = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}


@writes(aten.scatter.src)
def _scatter(call: Call) -> Value:
    places = call.value(call["self"]), call.value(call["index"]), _as_index(call, call["src"], call.dtype)
    return call.op("ScatterElements", *places, axis=call["dim"] % call.fake().dim())


@writes(aten.scatter.value)
def _scatter_value(call: Call) -> Value:
    shape = call.writer.sizes.vector(*call.fake(call["index"]).shape)
    filled = call.op("Expand", call.value(call["value"], call.dtype), shape)
    axis = call["dim"] % call.fake().dim()
    return call.op("ScatterElements", call.value(call["self"]), call.value(call["index"]), filled, axis=axis)


@writes(aten.scatter_reduce.two)
def _scatter_reduce(call: Call) -> Value:
    """Extremes are NaN where one of their values is, which `ScatterElements` leaves open."""
    if call["include_self"] is False or call["reduce"] not in _REDUCTIONS:
        raise call.refuse("without what was there" if call["include_self"] is False else f"by {call['reduce']}")
    wide, axis = _combined_in(call.dtype), call["dim"] % call.fake().dim()
    x, index, source = call.value(call["self"], wide), call.value(call["index"]), _as_index(call, call["src"], wide)
    reduction = _REDUCTIONS[call["reduce"]]
    found = call.op("ScatterElements", x, index, source, axis=axis, reduction=reduction)
    if wide.is_floating_point and reduction in ("max", "min"):
        marks = (call.block.cast(call.op("IsNaN", t), torch.int32) for t in (x, source))
        marked = call.op("ScatterElements", next(marks), index, next(marks), axis=axis, reduction="max")
        found = call.op("Where", call.block.cast(marked, torch.bool), call.value(math.nan, wide), found)
    return found if wide == call.dtype else call.block.cast(found, call.dtype)


def _combined_in(dtype: torch.dtype) -> torch.dtype:
    return torch.int32 if dtype == torch.bool else arithmetic(dtype)


def _as_index(call: Call, source: Node, dtype: torch.dtype) -> Value:
    """The part of a source that an index of at most its size reads."""
    value, wanted = call.value(source, dtype), call.fake(call["index"]).shape
    axes = [d for d, (n, m) in enumerate(zip(call.fake(source).shape, wanted, strict=True)) if n != m]
    if not axes:
        return value
    ends = call.writer.sizes.vector(*(wanted[d] for d in axes))
    return call.op("Slice", value, call.block.ints(*[0] * len(axes)), ends, call.block.ints(*axes))


@dataclass(frozen=True)
class _Rows:
    """What an `index_put` writes to: the dimensions with an index, the others, and the indices' common shape."""

    indices: list[Node]
    indexed: list[int]
    rest: list[int]
    shape: Sequence[Any]

    @property
    def start(self) -> int:
        """Where the indices' dimensions stand in the values: first, unless those of the tensor are adjacent."""
        first, last = self.indexed[0], self.indexed[-1]
        return first if last - first + 1 == len(self.indexed) else 0


def _rows(call: Call) -> _Rows:
    given: dict[int, Node] = {d: i for d, i in enumerate(call["indices"]) if i is not None}
    if any(call.fake(i).dtype in (torch.bool, torch.uint8) for i in given.values()):
        raise call.refuse("by a mask")
    shape = torch.broadcast_shapes(*(call.fake(i).shape for i in given.values()))  # type: ignore[no-untyped-call]
    rest = [d for d in range(call.fake().dim()) if d not in given]
    return _Rows(list(given.values()), list(given), rest, shape)


@writes(aten.index_put)
def _index_put(call: Call) -> Value:
    """With the dimensions that have an index in front, a write of whole rows."""
    rows, wide = _rows(call), call.dtype if not call["accumulate"] else _combined_in(call.dtype)
    order = [*rows.indexed, *rows.rest]
    turned = order != sorted(order)
    x = call.value(call["self"], wide)
    x = call.op("Transpose", x, perm=order) if turned else x
    places = positions(call, rows.indices, rows.shape)
    found = (_added if call["accumulate"] else _put)(call, rows, x, places, _values(call, rows, wide))
    if turned:
        found = call.op("Transpose", found, perm=[order.index(d) for d in range(len(order))])
    return found if wide == call.dtype else call.block.cast(found, call.dtype)


def _values(call: Call, rows: _Rows, dtype: torch.dtype) -> Value:
    """The values for every index, the indices' dimensions in front."""
    shape, sizes = list(rows.shape), call.fake().shape
    rest = [sizes[d] for d in rows.rest]
    wanted = [*rest[: rows.start], *shape, *rest[rows.start :]]
    value = call.value(call["values"], dtype)
    if list(call.fake(call["values"]).shape) != wanted:
        value = call.op("Expand", value, call.writer.sizes.vector(*wanted))
    if rows.start == 0:
        return value
    width = range(rows.start, rows.start + len(shape))
    return call.op("Transpose", value, perm=[*width, *(d for d in range(len(wanted)) if d not in width)])


def _put(call: Call, _rows: _Rows, x: Value, places: Value, values: Value) -> Value:
    return call.op("ScatterND", x, places, values)


def _added(call: Call, rows: _Rows, x: Value, places: Value, values: Value) -> Value:
    """Sums along the rows of a matrix, numbered in row-major order, by one index for each element."""
    sizes, fake, ints = call.writer.sizes, call.fake(), call.block.ints
    lengths = [fake.shape[d] for d in rows.indexed]
    steps = [math.prod(lengths[d + 1 :]) for d in range(len(lengths))]
    length = sizes.vector(*lengths)
    inside = call.op("Mod", places, length)
    number = call.op("ReduceSum", call.op("Mul", inside, sizes.vector(*steps)), ints(-1), keepdims=0)
    width = math.prod(fake.shape[d] for d in rows.rest)
    matrix = [call.op("Reshape", t, sizes.vector(-1, width)) for t in (x, values)]
    number = call.op("Expand", call.op("Reshape", number, ints(-1, 1)), sizes.vector(1, width))
    found = call.op("ScatterElements", matrix[0], number, matrix[1], axis=0, reduction="add")
    return call.op("Reshape", found, sizes.vector(*lengths, *(fake.shape[d] for d in rows.rest)))
