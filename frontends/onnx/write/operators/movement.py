"""Operators that move elements: concatenation, padding, turning, repeating."""

from __future__ import annotations

from typing import Any

import torch

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.operators.views import END, reshaped, sliced
from ullage.frontends.onnx.write.table import Call, aten, size_of, writes


@writes(aten.cat)
def _cat(call: Call) -> Value:
    """One after another; empty vectors, which torch lets pass beside other ranks, are left out."""
    rank = call.result.dim()
    parts = [call.value(part, call.dtype) for part in call["tensors"] if call.fake(part).dim() == rank]
    return parts[0] if len(parts) == 1 else call.op("Concat", *parts, axis=call["dim"] % rank)


@writes(aten.stack)
def _stack(call: Call) -> Value:
    axis = call["dim"] % call.result.dim()
    parts = [call.op("Unsqueeze", call.value(p, call.dtype), call.block.ints(axis)) for p in call["tensors"]]
    return call.op("Concat", *parts, axis=axis)


@writes(aten.constant_pad_nd)
def _pad(call: Call) -> Value:
    """Values around the last dimensions; negative widths cut off."""
    rank = call.fake().dim()
    pairs = [size_of(n) for n in call["pad"]]
    before, after = [0] * rank, [0] * rank
    for pair in range(len(pairs) // 2):
        before[rank - 1 - pair], after[rank - 1 - pair] = pairs[2 * pair], pairs[2 * pair + 1]
    return padded(call, call.value(call["self"]), [*before, *after], call["value"])


def padded(call: Call, value: Value, widths: list[Any], filled: float = 0.0) -> Value:
    """`widths` before each dimension, then behind each, filled with a number."""
    if call.dtype == torch.bool:
        wide = call.block.cast(value, torch.int32)
        found = call.op("Pad", wide, call.writer.sizes.vector(*widths), call.value(int(filled), torch.int32))
        return call.block.cast(found, torch.bool)
    number = float(filled) if call.dtype.is_floating_point else int(filled)
    return call.op("Pad", value, call.writer.sizes.vector(*widths), call.value(number, call.dtype))


@writes(aten.flip)
def _flip(call: Call) -> Value:
    axes = [d % call.fake().dim() for d in call["dims"]]
    count = len(axes)
    ints = call.block.ints
    return call.op(
        "Slice", call.value(call["self"]), ints(*[-1] * count), ints(*[-END] * count), ints(*axes), ints(*[-1] * count)
    )


@writes(aten.roll)
def _roll(call: Call) -> Value:
    fake = call.fake()
    shifts, dims = call.known_ints(call["shifts"]), call.known_ints(call["dims"])
    found, shape = call.value(call["self"]), list(fake.shape)
    if not dims:
        found, dims, shape = call.op("Reshape", found, call.block.ints(-1)), [0], [fake.numel()]
    for shift, dim in zip(shifts, (d % len(shape) for d in dims), strict=True):
        found = _rolled(call, found, dim, shape[dim], shift)
    return found if call["dims"] else reshaped(call, found, fake.shape)


def _rolled(call: Call, value: Value, axis: int, size: Any, shift: int) -> Value:
    if isinstance(size, int) and size:
        shift %= size
    if shift == 0:
        return value
    back, front = sliced(call, value, axis, -shift, END), sliced(call, value, axis, 0, -shift)
    return call.op("Concat", back, front, axis=axis)


@writes(aten.repeat)
def _repeat(call: Call) -> Value:
    counts = [size_of(n) for n in call["repeats"]]
    lead = len(counts) - call.fake().dim()
    found = call.value(call["self"])
    if lead:
        found = call.op("Unsqueeze", found, call.block.ints(*range(lead)))
    return call.op("Tile", found, call.writer.sizes.vector(*counts))


@writes(aten.tril, aten.triu)
def _triangle(call: Call) -> Value:
    upper = 1 if "triu" in str(call.node.target) else 0
    return call.op("Trilu", call.value(call["self"]), call.value(call["diagonal"], torch.int64), upper=upper)
