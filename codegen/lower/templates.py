"""From a group around a matrix product, convolution or attention to a template specification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch.fx import Node

from ullage.codegen.loops.ir import FLOATS, Const, Expr, Ref, Store
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.formulas import op
from ullage.codegen.lower.geometry import Geometry, Surround, border_of
from ullage.codegen.lower.index import ONE, ZERO
from ullage.codegen.lower.operands import (
    AttentionOperands,
    ConvolutionOperands,
    LinearOperands,
    Operands,
    Packed,
    ProductOperands,
)
from ullage.codegen.lower.region import Output, dims_in
from ullage.codegen.lower.shapes import Index, Shape, dtype_name, numel, reshape_index, shape_of, unflatten, view_groups
from ullage.codegen.lower.table import aten, fake, float_of
from ullage.codegen.lower.values import Lazy, NotFusable, View, cast
from ullage.codegen.templates import Attention, Conv2d, Gemm, PackedPanels, Strided
from ullage.graph.operators import CONVOLUTION_INT8, DEPTHWISE_CODES, LINEAR_CODES, LINEAR_INT8

LINEAR = aten.linear.default
BMM = aten.bmm.default
MM = aten.mm.default
CONVOLUTION = aten.convolution.default
ATTENTION = aten.scaled_dot_product_attention.default
LINEARS = frozenset({LINEAR, LINEAR_INT8, LINEAR_CODES})
CONVOLUTIONS = frozenset({CONVOLUTION, CONVOLUTION_INT8, DEPTHWISE_CODES})
TEMPLATES = LINEARS | CONVOLUTIONS | {BMM, MM, ATTENTION}


Template = Gemm | Conv2d | Attention


def anchor_of(nodes: Sequence[Node]) -> Node:
    """The matrix product, convolution or attention of a template group."""
    (anchor,) = [n for n in nodes if n.target in TEMPLATES]
    return anchor


def lower_template(builder: Builder, node: Node, outputs: Sequence[Output], operands: Operands) -> Template:
    """Lower the group around an anchor; raises NotFusable if its other nodes do not fit an epilogue."""
    match operands:
        case LinearOperands():
            return _lower_linear(builder, node, outputs, operands)
        case ProductOperands():
            return _lower_product(builder, node, outputs, operands)
        case ConvolutionOperands():
            return _lower_convolution(builder, node, outputs, operands)
        case AttentionOperands():
            return _lower_attention(builder, node, outputs, operands)


def _acc(builder: Builder, node: Node, expected: Index, bias: object) -> Lazy:
    """The template's result: legal only at the template's own coordinates."""
    offsets = builder.value(bias) if isinstance(bias, Node) else None
    channel = expected[1] if node.target in CONVOLUTIONS else expected[-1]

    def at(index: Index) -> Expr:
        if tuple(index) != expected:
            raise NotFusable("a template's result is read at another position")
        acc: Expr = Ref("acc", "float32")
        return acc if offsets is None else op("add", acc, cast(offsets.at((channel,)), "float32"))

    lazy = Lazy(shape_of(fake(node)), dtype_name(fake(node).dtype), at)
    builder.define(node, lazy)
    return lazy


def _epilogue(builder: Builder, shape: Shape, expected: Index, outputs: Sequence[Output]) -> tuple[Store, ...]:
    stores = []
    for node, view in outputs:
        value = builder.value(node)
        if view_groups(value.shape, shape) is None:
            raise NotFusable("an epilogue changes the size")
        index = reshape_index(builder.math, expected, value.shape, shape)
        stores.append(builder.store(view, index, value.at(index)))
    return tuple(stores)


def _lower_linear(builder: Builder, node: Node, outputs: Sequence[Output], operands: LinearOperands) -> Gemm:
    x, weight = operands.x, operands.weight
    shape = shape_of(fake(node))
    rows = numel(shape[:-1])
    m, n = builder.math.declare("m", rows), builder.math.declare("n", shape[-1])
    expected = (*unflatten(builder.math, m, shape[:-1]), n if shape[-1] != ONE else ZERO)
    a_buffer = builder.bind(x, "r")
    a_row = builder.math.dot(unflatten(builder.math, m, x.shape[:-1]), x.strides[:-1])
    right = _right_operand(builder, weight)
    _acc(builder, node, expected, node.args[2] if node.target is LINEAR and len(node.args) > 2 else None)
    epilogue = _epilogue(builder, shape, expected, outputs)
    k = Const(right.packed.k) if right.packed else x.shape[-1]
    return _gemm(builder, ONE, rows, shape[-1], k, a_buffer, a_row, epilogue, right)


@dataclass(frozen=True, slots=True)
class _Right:
    packed: PackedPanels | None
    buffer: str | None = None
    base: Expr | None = None
    stride_k: Expr | None = None
    stride_n: Expr | None = None


def _right_operand(builder: Builder, weight: Packed | View) -> _Right:
    if isinstance(weight, Packed):
        assert isinstance(weight.layout, PackedPanels)
        builder.bind_constant("w", weight.name, weight.layout.dtype)
        return _Right(weight.layout)
    return _Right(None, builder.bind(weight, "r"), ZERO, weight.strides[1], weight.strides[0])


def _gemm(
    builder: Builder, batch: Expr, m: Expr, n: Expr, k: Expr, a_buffer: str, a_row: Expr, epilogue: tuple[Store, ...],
    right: _Right,
) -> Gemm:  # fmt: skip
    sizes = [batch, m, n, k, a_row, *[e for s in epilogue for e in (s.index, s.value)]]
    sizes += [e for e in (right.base, right.stride_k, right.stride_n) if e is not None]
    return Gemm(
        tuple(builder.buffers), dims_in(sizes), batch, m, n, k, a_buffer, a_row, epilogue, right.packed,
        right.buffer, right.base, right.stride_k, right.stride_n,
    )  # fmt: skip


def _lower_product(builder: Builder, node: Node, outputs: Sequence[Output], operands: ProductOperands) -> Gemm:
    left, right = operands.left, operands.right
    shape = shape_of(fake(node))
    batched = node.target is BMM
    math = builder.math
    batch = shape[0] if batched else ONE
    rows, columns = shape[-2:]
    b: Expr = math.declare("b", batch) if batch != ONE else ZERO
    m, n = math.declare("m", rows), math.declare("n", columns)
    lead = (b,) if batched else ()
    expected = (*lead, m if rows != ONE else ZERO, n if columns != ONE else ZERO)
    a_buffer = builder.bind(left, "r")
    a_row = math.dot((*lead, m), left.strides[:-1])
    base = math.dot(lead, right.strides[: len(lead)])
    other = _Right(None, builder.bind(right, "r"), base, right.strides[-2], right.strides[-1])
    _acc(builder, node, expected, None)
    epilogue = _epilogue(builder, shape, expected, outputs)
    return _gemm(builder, batch, rows, columns, left.shape[-1], a_buffer, a_row, epilogue, other)


def _lower_convolution(
    builder: Builder, node: Node, outputs: Sequence[Output], operands: ConvolutionOperands
) -> Conv2d:
    x, weight = operands.x, operands.weight
    shape = shape_of(fake(node))
    geometry = Geometry.of(node)
    padding = _padding(builder, node, geometry.padding)
    out_h, out_w = (ONE, shape[2]) if geometry.one_d else shape[2:]
    batch, channels = shape[0], shape[1]
    math = builder.math
    m, n = math.declare("m", numel((batch, out_h, out_w))), math.declare("n", channels)
    image, row, column = unflatten(math, m, (batch, out_h, out_w))
    channel: Expr = n if channels != ONE else ZERO
    expected = (image, channel, column) if geometry.one_d else (image, channel, row, column)
    x_buffer = builder.bind(x, "r")
    builder.bind_constant("w", weight.name, weight.layout.dtype)
    _acc(builder, node, expected, node.args[2])
    epilogue = _epilogue(builder, shape, expected, outputs)
    stride_h, stride_w = (ZERO, x.strides[2]) if geometry.one_d else x.strides[2:]
    in_h, in_w = (ONE, x.shape[2]) if geometry.one_d else x.shape[2:]
    sizes = [batch, in_h, in_w, out_h, out_w, *x.strides, *[e for s in epilogue for e in (s.index, s.value)]]
    return Conv2d(
        tuple(builder.buffers), dims_in(sizes), batch, in_h, in_w, geometry.in_channels, out_h, out_w,
        geometry.out_channels, geometry.kernel, geometry.stride, padding, geometry.dilation, geometry.groups,
        geometry.transposed, x_buffer, x.strides[0], stride_h, stride_w, weight.layout, epilogue,
        border=border_of(node),
    )  # fmt: skip


def _padding(builder: Builder, node: Node, own: tuple[int, int]) -> tuple[int, int]:
    """Zeros before the first row and column, with those of a padding node in the group."""
    around = Surround.of(node)
    if around is None or around.node not in builder.members:
        return own
    return own[0] + around.low[0], own[1] + around.low[1]


def _lower_attention(builder: Builder, node: Node, outputs: Sequence[Output], operands: AttentionOperands) -> Attention:
    out = _attention_result(node, outputs)
    q, k, v, mask = _four(operands.q), _four(operands.k), _four(operands.v), operands.mask
    scale = node.kwargs.get("scale", node.args[6] if len(node.args) > 6 else None)
    causal = node.kwargs.get("is_causal", node.args[5] if len(node.args) > 5 else False)
    q_at, k_at, v_at = (_strided(builder, x, "r") for x in (q, k, v))
    target = _strided(builder, _four(out), "w")
    bias = None if mask is None else _strided(builder, mask, "r")
    (batch, heads, queries, width), (_, kv_heads, keys, _) = q.shape, k.shape
    head_dim, value_dim = _static(width), _static(v.shape[3])
    strides = [e for s in (q_at, k_at, v_at, target, bias) if s is not None for e in (*s.strides, s.offset)]
    return Attention(
        tuple(builder.buffers), dims_in([batch, heads, kv_heads, queries, keys, *strides]), batch, heads, kv_heads,
        queries, keys, head_dim, value_dim, head_dim**-0.5 if scale is None else float_of(scale), bool(causal),
        q_at, k_at, v_at, target, bias, _mask_kind(mask),
    )  # fmt: skip


def _attention_result(node: Node, outputs: Sequence[Output]) -> View:
    """Where the result goes; nothing can be fused to it but conversions of which at most the last one rounds."""
    (result, out), *more = outputs
    if more or not _is_converted(result, node) or out.dtype not in FLOATS - {"float64"}:
        raise NotFusable("attention has no epilogue but conversions")
    return out


def _is_converted(result: Node, node: Node) -> bool:
    """Whether a result is the float32 sums behind `node` converted to its own type, and not rounded on the way."""
    last = result
    while result is not node:
        source = result.args[0]
        if result.target is not aten._to_copy.default or not isinstance(source, Node):
            return False
        if result is not last and dtype_name(fake(result).dtype) != "float32":
            return False
        result = source
    return True


def _mask_kind(mask: View | None) -> Literal["none", "add", "keep"]:
    if mask is None:
        return "none"
    return "keep" if mask.dtype == "bool" else "add"


def _static(size: Expr) -> int:
    if not isinstance(size, Const):
        raise NotFusable("attention with a dynamic head dimension")
    return int(size.value)


def _four(view: View) -> View:
    if len(view.shape) == 4:
        return view
    if len(view.shape) != 3:
        raise NotFusable(f"attention over {len(view.shape)} dimensions")
    return view.with_shape((view.shape[0], ONE, *view.shape[1:]), (view.strides[0], ZERO, *view.strides[1:]))


def _strided(builder: Builder, view: View, access: str) -> Strided:
    name = builder.bind(view, access)
    strides = (view.strides[0], view.strides[1], view.strides[2], view.strides[3])
    return Strided(name, view.dtype, strides, ZERO)
