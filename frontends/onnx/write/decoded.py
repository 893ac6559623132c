"""Weights that a model decodes itself, (codes − zeros) · scales, as the `DequantizeLinear` that they came as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.table import Call, aten
from ullage.graph.constants import ConstantRef
from ullage.graph.recipes import reshape
from ullage.graph.sources import InMemory

_CODES = (torch.int8, torch.uint8)


@dataclass(frozen=True, slots=True)
class _Codes:
    """A constant of codes, and what is subtracted from it: None, a number, or a constant."""

    node: Node
    zeros: Any


def decoded(call: Call) -> Value | None:
    """The product of constant codes and scales as one operator; None for any other product."""
    for codes, scales in (call.first(2), call.first(2)[::-1]):
        found = _codes(call, codes)
        if found is not None and call.dtype == torch.float32:
            return _written(call, found, scales)
    return None


def _codes(call: Call, value: Any) -> _Codes | None:
    zeros = None
    if isinstance(value, Node) and value.target is aten.sub.Tensor and not value.kwargs and len(value.args) == 2:
        value, zeros = value.args
    if not isinstance(value, Node) or value.target is not aten._to_copy.default:
        return None
    ref = call.writer.constant(value.args[0])
    return _Codes(value.args[0], zeros) if ref is not None and ref.dtype in _CODES else None  # type: ignore[arg-type]


def _written(call: Call, codes: _Codes, scales: Any) -> Value | None:
    shape = call.fake(codes.node).shape
    held = _as_constant(call, scales)
    axis = None if held is None else _axis(held.shape, shape)
    if held is None or axis is None or held.dtype != torch.float32:
        return None
    vector = reshape(held, () if axis < 0 else (shape[axis],))
    zeros = _zeros(call, codes, vector.shape)
    if zeros is None and codes.zeros is not None:
        return None
    source, scale = call.writer.values[codes.node], call.writer.add(vector)
    point = None if zeros is None else call.block.tensor(zeros)
    return call.op("DequantizeLinear", source, scale, point, axis=max(axis, 0))


def _as_constant(call: Call, value: Any) -> ConstantRef | None:
    """A number or a constant as a constant; None for what is computed."""
    if isinstance(value, int | float):
        number = torch.tensor(float(value))
        return ConstantRef("scale", number.dtype, (), InMemory(number))
    return call.writer.constant(value)


def _axis(shape: tuple[int, ...], whole: Any) -> int | None:
    """The one dimension of `whole` along which a tensor that broadcasts to it varies, −1 for none; None for several."""
    lead = len(whole) - len(shape)
    varying = [lead + d for d, n in enumerate(shape) if n != 1]
    if lead < 0 or len(varying) > 1:
        return None
    return varying[0] if varying else -1


def _zeros(call: Call, codes: _Codes, shape: tuple[int, ...]) -> torch.Tensor | None:
    """The codes that stand for zero, as codes; None if there are none, or if they are none of the codes."""
    if codes.zeros is None:
        return None
    ref = _as_constant(call, codes.zeros)
    if ref is None or not _fits(call, codes.node, ref, shape):
        return None
    values = ref.read().float()
    values = values.reshape(-1) if values.numel() > 1 else values.reshape(())
    whole = values.to(call.fake(codes.node).dtype)
    return whole.expand(shape).contiguous() if torch.equal(whole.float(), values) else None


def _fits(call: Call, codes: Node, zeros: ConstantRef, shape: tuple[int, ...]) -> bool:
    """Whether zeros vary along the dimension that scales vary along, or not at all."""
    whole = call.fake(codes).shape
    axis = _axis(zeros.shape, whole)
    return axis == -1 or (axis is not None and (whole[axis],) == shape)
