"""Operators that make tensors out of attributes, sizes and ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ullage.frontends.onnx.read import torch_dtype
from ullage.frontends.onnx.table import Call, operator
from ullage.frontends.onnx.values import KNOWN_ELEMENTS, Known, NotAhead, known, tensor_of, within_limit

Tensor = torch.Tensor


@operator("Constant")
def _constant(call: Call) -> Any:
    stored = call.attribute("value")
    if stored is not None:
        dtype = torch_dtype(stored.dtype, call.place())
        array = stored.numpy()
        if array.size > KNOWN_ELEMENTS or dtype == torch.bfloat16:
            return tensor_of(array, dtype)
        return Known(array, dtype)
    for name, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        if call.attribute(name) is not None:
            return known(call.attribute(name), dtype)
        if call.attribute(name + "s") is not None:
            return known(np.array(call.attribute(name + "s")), dtype)
    raise call.error("constants of strings and sparse tensors are not supported")


@operator("ConstantOfShape")
def _constant_of_shape(call: Call) -> Any:
    stored = call.attribute("value")
    dtype = torch.float32 if stored is None else torch_dtype(stored.dtype, call.place())
    value = 0 if stored is None else stored.numpy().reshape(-1)[0].item()
    return torch.full(call.numbers(0), value, dtype=dtype)


@operator("EyeLike")
def _eye_like(call: Call) -> Tensor:
    x, k = call.tensor(), call.attribute("k", 0)
    asked = call.attribute("dtype")
    dtype = x.dtype if asked is None else torch_dtype(ir.DataType(asked), call.place())
    rows, columns = torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1])[None]
    return torch.eq(columns - rows, k).to(dtype)


@operator("Range", host=lambda call: _known_range(call))
def _range(call: Call) -> Tensor:
    start, limit, delta = (call.scalar(i) for i in range(3))
    return torch.arange(start, limit, delta, dtype=call.known(0).dtype)


def _known_range(call: Call) -> Any:
    start, limit, delta = (call.scalar(i) for i in range(3))
    if any(isinstance(x, torch.SymInt) for x in (start, limit, delta)):
        raise NotAhead
    within_limit((max(0, (limit - start) / delta),))
    array = np.arange(start, limit, delta)
    return Known(array.astype(call.known(0).array.dtype), call.known(0).dtype)


@operator("OneHot")
def _one_hot(call: Call) -> Tensor:
    index, depth, values = call.tensor(0), int(call.scalar(1)), call.tensor(2)
    axis = call.attribute("axis", -1)
    axis = axis + index.dim() + 1 if axis < 0 else axis
    places = torch.arange(depth).reshape([-1 if i == axis else 1 for i in range(index.dim() + 1)])
    wrapped = torch.where(index < 0, index + depth, index).long().unsqueeze(axis)
    return torch.where(wrapped == places, values[1], values[0])


@operator("HannWindow", "HammingWindow", "BlackmanWindow")
def _window(call: Call) -> Tensor:
    size = int(call.scalar(0))
    periodic = bool(call.attribute("periodic", 1))
    dtype = torch_dtype(ir.DataType(call.attribute("output_datatype", 1)), call.place())
    angle = 2 * torch.pi * torch.arange(size, dtype=torch.float64) / (size if periodic else size - 1)
    match call.node.op_type:
        case "HannWindow":
            window = 0.5 - 0.5 * torch.cos(angle)
        case "HammingWindow":
            window = 25 / 46 - 21 / 46 * torch.cos(angle)
        case _:
            window = 0.42 - 0.5 * torch.cos(angle) + 0.08 * torch.cos(2 * angle)
    return window.to(dtype)
