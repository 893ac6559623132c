"""Quantization: values as integers with a scale and a zero point."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from ullage.frontends.onnx.narrow import Narrow, NarrowType, decoded, encoded, narrow_type
from ullage.frontends.onnx.operators.convolutions import convolved
from ullage.frontends.onnx.read import torch_dtype
from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor


def _along(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point as it broadcasts: one, one per slice of `axis`, or one per block of it."""
    if parameter.numel() == 1 and parameter.dim() <= 1:
        return parameter.reshape(())
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if parameter.dim() == 1 and x.dim() >= 1:
        return parameter.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])
    return parameter


@operator("DequantizeLinear")
@operator("DequantizeLinear", domain="com.microsoft")
def _dequantize(call: Call) -> Tensor:
    x, scale = _floats(call, 0), call.tensor(1)
    axis, block = call.attribute("axis", 1), call.attribute("block_size", 0)
    asked = call.attribute("output_dtype", 0)
    out = torch_dtype(ir.DataType(asked), call.place()) if asked else scale.dtype
    if call.has(2):
        x = x - _along(_floats(call, 2), x, axis, block)
    return (x * _along(scale.to(torch.float32), x, axis, block)).to(out)


def _floats(call: Call, position: int) -> Tensor:
    """An input of any type as float32."""
    value = call.value(position)
    return decoded(value) if isinstance(value, Narrow) else call.tensor(position).to(torch.float32)


@operator("QuantizeLinear")
@operator("QuantizeLinear", domain="com.microsoft")
def _quantize(call: Call) -> Tensor | Narrow:
    x, scale, target = call.tensor(0), call.tensor(1), _codes(call)
    axis, block = call.attribute("axis", 1), call.attribute("block_size", 0)
    saturate = bool(call.attribute("saturate", 1))
    if call.attribute("precision", 0) not in (0, ir.DataType.FLOAT):
        raise call.error("divisions in another precision than float are not supported")
    scale, zero = _along(scale, x, axis, block), _along(_floats(call, 2), x, axis, block) if call.has(2) else None
    if isinstance(target, torch.dtype):
        return quantized(x, scale, zero, target)
    if target.is_float:
        y = x.to(torch.float32) / scale.to(torch.float32)
        return encoded(y if zero is None else y + zero, target, saturate)
    return Narrow(_saturated(x, scale, zero, target.limits).to(target.carrier), target)


def _codes(call: Call) -> torch.dtype | NarrowType:
    """The type of the result: the zero point's, or what `output_dtype` says."""
    zero, asked = call.value(2), call.attribute("output_dtype", 0)
    if isinstance(zero, Narrow):
        return zero.kind
    if zero is not None:
        return call.tensor(2).dtype
    dtype = ir.DataType(asked or ir.DataType.UINT8)
    return narrow_type(dtype) or torch_dtype(dtype, call.place())


def quantized(x: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """round(x / scale) + zero point, halves to even, saturated."""
    limits = torch.iinfo(dtype)
    return _saturated(x, scale, zero, (limits.min, limits.max)).to(dtype)


def _saturated(x: Tensor, scale: Tensor, zero: Tensor | None, limits: tuple[int, int]) -> Tensor:
    codes = torch.round(x.to(torch.float32) / scale.to(torch.float32))
    codes = codes if zero is None else codes + zero.to(torch.float32)
    return torch.clamp(codes, *limits)


@operator("DynamicQuantizeLinear")
def _dynamic_quantize(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    x = call.tensor()
    low, high = torch.clamp(x.amin(), max=0.0), torch.clamp(x.amax(), min=0.0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    return torch.clamp(torch.round(x / scale) + zero, 0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


def _less_zero(x: Tensor, zero: Tensor | None, axis: int | None = None) -> Tensor:
    """Values less their zero point, as floats: products of them are exact up to 2^24."""
    wide = x.to(torch.float32)
    if zero is None:
        return wide
    if zero.numel() > 1 and axis is not None and zero.dim() == 1:
        zero = zero.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])
    return wide - zero.to(torch.float32)


@operator("MatMulInteger")
def _matmul_integer(call: Call) -> Tensor:
    a, b = _less_zero(call.tensor(0), call.optional(2), -2), _less_zero(call.tensor(1), call.optional(3), -1)
    return torch.matmul(a, b).to(torch.int32)


@operator("ConvInteger")
def _conv_integer(call: Call) -> Tensor:
    x, w = _less_zero(call.tensor(0), call.optional(2)), _less_zero(call.tensor(1), call.optional(3), 0)
    return convolved(call, x, w, None).to(torch.int32)


@operator("QLinearMatMul")
def _qlinear_matmul(call: Call) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (call.tensor(i) for i in range(8))
    product = torch.matmul(_scaled(a, a_scale, a_zero, -2), _scaled(b, b_scale, b_zero, -1))
    return quantized(product, y_scale, y_zero, y_zero.dtype)


def _scaled(x: Tensor, scale: Tensor, zero: Tensor, axis: int) -> Tensor:
    scale = scale.to(torch.float32)
    if scale.numel() > 1 and scale.dim() == 1:
        scale = scale.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])
    return _less_zero(x, zero, axis) * scale


@operator("QLinearConv")
def _qlinear_conv(call: Call) -> Tensor:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (call.tensor(i) for i in range(8))
    bias = call.optional(8)
    each = w_scale.to(torch.float32) * x_scale.to(torch.float32)
    bias = None if bias is None else bias.to(torch.float32) * each.reshape(-1)
    y = convolved(call, _scaled(x, x_scale, x_zero, 0), _scaled(w, w_scale, w_zero, 0), bias)
    return quantized(y, y_scale, y_zero, y_zero.dtype)


@operator("MatMulNBits", domain="com.microsoft", ignores=("accuracy_level",))
def _matmul_nbits(call: Call) -> Tensor:
    """Weights [n, blocks, bytes] of 2, 4 or 8 bits, the first of a byte lowest, with a scale per block of k."""
    x, packed, scales = call.tensor(0), call.tensor(1), call.tensor(2)
    n, k = call.attribute("N"), call.attribute("K")
    bits, block = call.attribute("bits", 4), call.attribute("block_size")
    blocks = -(-k // block)
    codes = _unpacked(packed.reshape(n, blocks, -1), bits)[..., :block]
    zero: Any = float(1 << (bits - 1))
    if call.has(3):
        given = call.tensor(3)
        whole = given.is_floating_point()
        zero = given.reshape(n, blocks, 1) if whole else _unpacked(given.reshape(n, -1), bits)[:, :blocks].unsqueeze(-1)
    w = ((codes.to(scales.dtype) - zero) * scales.reshape(n, blocks, 1)).reshape(n, -1)[:, :k]
    y = torch.matmul(x, w.to(x.dtype).t())
    bias = call.optional(5)
    return y if bias is None else y + bias


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Codes of a row of bytes, lowest bits first; by quotients, which have kernels, and shifts have none."""
    units = torch.tensor([1 << shift for shift in range(0, 8, bits)], dtype=torch.int32)
    whole = torch.div(packed.to(torch.int32).unsqueeze(-1), units, rounding_mode="floor")
    codes = torch.remainder(whole, 1 << bits)
    return codes.reshape(*packed.shape[:-1], -1)
