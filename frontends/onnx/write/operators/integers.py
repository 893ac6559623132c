"""Products with codes: weights stay integers in the file, and are decoded where they are used.

Weights of 2, 4 and 8 bits in groups are the operands of `com.microsoft::MatMulNBits`, others those of
`DequantizeLinear`. Sums of products of whole numbers are computed in float32, exactly up to 2²⁴: integer products of
runtimes may saturate where a processor multiplies bytes in 16 bits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.operators.movement import padded
from ullage.frontends.onnx.write.operators.products import convolved
from ullage.frontends.onnx.write.packed import in_blocks
from ullage.frontends.onnx.write.table import Call, aten, writes
from ullage.graph.constants import ConstantRef
from ullage.graph.operators import (
    CONVOLUTION_INT8,
    DEPTHWISE_CODES,
    LINEAR_CODES,
    LINEAR_INT8,
    PLANES_OFFSET,
)
from ullage.graph.recipes import convert, reshape

_PACKED_BITS = (2, 4, 8)
_FLOAT = torch.float32


def _decoded(call: Call, codes: Any, zero: int = 0) -> Value:
    """Codes of a scale of 1 as float32, less their zero."""
    fake = call.fake(codes)
    point = call.value(zero, fake.dtype) if zero else None
    return call.op("DequantizeLinear", call.writer.values[codes], call.value(1.0, _FLOAT), point)


@writes(LINEAR_INT8)
def _linear_int8(call: Call) -> Value:
    x = call.value(call["x"], _FLOAT)
    return call.op("MatMul", x, call.writer.turned(_decoded(call, call["weight"])))


@writes(CONVOLUTION_INT8)
def _convolution_int8(call: Call) -> Value:
    """Around the image stands `border`, the code for zero."""
    x = call.value(call["x"], _FLOAT)
    sides = call.known_ints(call["padding"])
    if any(sides):
        x = padded_with(call, x, sides, call["border"])
    return convolved(call, x, _decoded(call, call["weight"]), None, [0] * len(sides))


def padded_with(call: Call, x: Value, sides: list[int], number: int) -> Value:
    """Numbers on both sides of the last dimensions."""
    return padded(call, x, [0, 0, *sides, 0, 0, *sides], number)


@writes(DEPTHWISE_CODES)
def _depthwise_codes(call: Call) -> Value:
    return convolved(call, _decoded(call, call["x"], call["zero"]), call.value(call["weight"]), None)


@writes(LINEAR_CODES)
def _linear_codes(call: Call) -> Value:
    """The product with decoded weights of the numbers that the planes stand for.

    What our kernels round to 16 bits, because they multiply integers, is multiplied as it is where that can be told.
    """
    whole, bits = _cut_from(call["x"]), call["bits"]
    source = _before_rounding(call.node, whole)
    if source is not None:
        x = call.value(source)
    else:
        x = _put_together(call) if whole is None else call.value(whole, _FLOAT)
    found = _product(call, x, bits)
    if source is not None:
        call.writer.replaced.update(dict.fromkeys(call.node.users, found))
    return found


def _product(call: Call, x: Value, bits: int) -> Value:
    codes, scales = (call.writer.constant(call[name]) for name in ("codes", "scales"))
    if codes is None or scales is None:
        raise call.refuse("of codes that are computed")
    if bits in _PACKED_BITS:
        return _packed_product(call, x, codes, scales, bits)
    weight = _grouped(call, codes, scales, bits)
    return call.op("MatMul", x, call.writer.turned(weight))


def _packed_product(call: Call, x: Value, codes: ConstantRef, scales: ConstantRef, bits: int) -> Value:
    n, k = codes.shape
    group = k // scales.shape[1]
    packed = call.writer.add(in_blocks(codes, bits, group))
    wide = call.writer.add(reshape(convert(scales, _FLOAT), (n * scales.shape[1],)))
    return call.op("MatMulNBits", x, packed, wide, domain="com.microsoft", K=k, N=n, bits=bits, block_size=group)


def _grouped(call: Call, codes: ConstantRef, scales: ConstantRef, bits: int) -> Value:
    """Codes (one byte each) in groups along the last dimension."""
    wide, group = call.writer.add(convert(scales, _FLOAT)), codes.shape[1] // scales.shape[1]
    zeros = torch.full(scales.shape, 1 << (bits - 1), dtype=torch.uint8)
    held = call.writer.add(codes)
    return call.op("DequantizeLinear", held, wide, call.block.tensor(zeros), axis=1, block_size=group)


def _put_together(call: Call) -> Value:
    """The whole numbers −32768 to 32767 that the planes hold."""
    width = call.fake(call["x"]).shape[-1] // 2
    sizes = call.block.ints(width, width)
    high, low = call.block.ops("Split", call.value(call["x"], _FLOAT), sizes, outputs=2, axis=-1)
    both = call.op("Add", call.op("Mul", high, call.value(256.0, _FLOAT)), low)
    return call.op("Sub", both, call.value(float(PLANES_OFFSET), _FLOAT))


def _cut_from(planes: Any) -> Node | None:
    """The node with whole numbers x whose planes floor((x + 2¹⁵) / 256) and the rest are; None for other planes."""
    high, low = _arguments(planes, aten.cat.default, 0) or (None, None)
    high, low = _source(high, aten._to_copy.default), _source(low, aten._to_copy.default)
    scaled = _source(high, aten.floor.default)
    shifted = _source(scaled, aten.mul.Tensor, 1 / 256)
    if shifted is None or not (isinstance(low, Node) and low.target is aten.sub.Tensor and low.args[0] is shifted):
        return None
    if _source(low.args[1], aten.mul.Tensor, 256.0) is not high:
        return None
    fixed = _source(shifted, aten.add.Tensor, float(PLANES_OFFSET))
    return fixed if isinstance(fixed, Node) and fixed.target is aten.round.default else None


def _before_rounding(product: Node, whole: Node | None) -> Node | None:
    """x, where `whole` is round(x / steps) and nothing reads the product but multiplications with the steps."""
    scaled = None if whole is None else whole.args[0]
    x = _source(scaled, aten.mul.Tensor)
    steps = _source(scaled.args[1], aten.reciprocal.default) if isinstance(scaled, Node) and x is not None else None
    if not isinstance(steps, Node) or not isinstance(x, Node) or x.meta["val"].dtype != _FLOAT:
        return None
    return x if all(_is_product(user, product, steps) for user in product.users) else None


def _is_product(node: Node, left: Node, right: Node) -> bool:
    return node.target is aten.mul.Tensor and set(node.args) == {left, right}


def _arguments(node: Any, target: Any, position: int) -> Any:
    return node.args[position] if isinstance(node, Node) and node.target is target else None


def _source(node: Any, target: Any, number: float | None = None) -> Any:
    """The first argument of a node of `target` (whose second one is a number)."""
    if not isinstance(node, Node) or node.target is not target:
        return None
    if number is not None and not (isinstance(node.args[1], int | float) and math.isclose(node.args[1], number)):
        return None
    return node.args[0]


@writes(aten.view.dtype)
def _bits(call: Call) -> Value:
    """Casts between types of one byte only: `BitCast` is of opset 26, which ONNX Runtime does not have everywhere."""
    raise call.refuse("between types of equal size")
