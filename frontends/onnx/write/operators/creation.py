"""Tensors that are made from numbers."""

from __future__ import annotations

import torch

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.table import Call, aten, size_of, writes


@writes(
    aten.full, aten.full_like, aten.zeros, aten.zeros_like, aten.ones, aten.ones_like, aten.scalar_tensor,
    aten.new_zeros, aten.new_ones, aten.new_full, aten.fill,
)  # fmt: skip
def _full(call: Call) -> Value:
    name = str(call.node.target)
    if "full" in name or "fill" in name:
        filled = call["fill_value"] if call["fill_value"] is not None else call["value"]
    else:
        filled = call["s"] if "scalar_tensor" in name else int("ones" in name)
    value = call.value(filled, call.dtype)
    return call.op("Expand", value, call.writer.sizes.vector(*call.result.shape)) if call.result.dim() else value


@writes(aten.arange)
def _arange(call: Call) -> Value:
    """Counted in whole numbers, so that there are as many as the shape says."""
    zero, one = (call.value(n, torch.int64) for n in (0, 1))
    index = call.op("Range", zero, call.writer.sizes.scalar(call.result.shape[0]), one)
    start, step = call["start"] or 0, call["step"] or 1
    whole = not any(isinstance(size_of(n), float) for n in (start, step))
    dtype = torch.int64 if whole else call.dtype
    steps = index if dtype == torch.int64 else call.block.cast(index, dtype)
    steps = steps if step == 1 else call.op("Mul", steps, call.value(step, dtype))
    found = steps if start == 0 else call.op("Add", steps, call.value(start, dtype))
    return found if dtype == call.dtype else call.block.cast(found, call.dtype)
