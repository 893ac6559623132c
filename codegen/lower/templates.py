"""From a group around a matrix product, convolution or attention to a template specification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.fx import Node

from ullage.codegen.loops.ir import Const, Expr, Ref, Store
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.index import ONE, ZERO
from ullage.codegen.lower.pointwise import op
from ullage.codegen.lower.region import Output, dims_in
from ullage.codegen.lower.shapes import Index, Shape, dtype_name, numel, reshape_index, shape_of, unflatten, view_groups
from ullage.codegen.lower.table import aten, fake, float_of, int_of
from ullage.codegen.lower.values import Lazy, NotFusable, View, cast
from ullage.codegen.templates import Attention, Conv2d, Gemm, PackedDepthwise, PackedPanels, Strided

LINEAR = aten.linear.default
BMM = aten.bmm.default
MM = aten.mm.default
CONVOLUTION = aten.convolution.default
ATTENTION = aten.scaled_dot_product_attention.default
TEMPLATES = frozenset({LINEAR, BMM, MM, CONVOLUTION, ATTENTION})


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed weight: the constant's name in the artifact and its layout."""

    name: str
    layout: PackedPanels | PackedDepthwise


def _acc(builder: Builder, node: Node, expected: Index, bias: object) -> Lazy:
    """The template's result: legal only at the template's own coordinates."""
    offsets = builder.value(bias) if isinstance(bias, Node) else None
    channel = expected[1] if node.target is CONVOLUTION else expected[-1]

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


def lower_linear(builder: Builder, node: Node, outputs: Sequence[Output], x: View, weight: Packed | View) -> Gemm:
    """`x[..., k] · wᵀ + bias` with an epilogue; a weight that is no constant is read as a variable operand."""
    shape = shape_of(fake(node))
    rows = numel(shape[:-1])
    m, n = builder.math.declare("m", rows), builder.math.declare("n", shape[-1])
    expected = (*unflatten(builder.math, m, shape[:-1]), n if shape[-1] != ONE else ZERO)
    a_buffer = builder.bind(x, "r")
    a_row = builder.math.dot(unflatten(builder.math, m, x.shape[:-1]), x.strides[:-1])
    right = _right_operand(builder, weight)
    _acc(builder, node, expected, node.args[2] if len(node.args) > 2 else None)
    epilogue = _epilogue(builder, shape, expected, outputs)
    return _gemm(builder, ONE, rows, shape[-1], x.shape[-1], a_buffer, a_row, epilogue, right)


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


def lower_bmm(builder: Builder, node: Node, outputs: Sequence[Output], left: View, right: View) -> Gemm:
    """Batched (or plain) product of two variable operands."""
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


def lower_convolution(builder: Builder, node: Node, outputs: Sequence[Output], x: View, weight: Packed) -> Conv2d:
    """A 1-d or 2-d convolution over channels-last activations."""
    shape = shape_of(fake(node))
    geometry = Geometry.of(node)
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
        geometry.out_channels, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, geometry.groups,
        geometry.transposed, x_buffer, x.strides[0], stride_h, stride_w, weight.layout, epilogue,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Geometry:
    """The static numbers of a convolution, brought to two spatial dimensions."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    transposed: bool
    one_d: bool

    @staticmethod
    def of(node: Node) -> Geometry:
        """Read a convolution node; NotFusable for three spatial dimensions."""
        x, weight = node.args[0], node.args[1]
        assert isinstance(x, Node) and isinstance(weight, Node)
        spatial = fake(x).dim() - 2
        if spatial not in (1, 2):
            raise NotFusable(f"convolution over {spatial} spatial dimensions")
        kernel = tuple(int(n) for n in fake(weight).shape[2:])
        stride, padding, dilation = (_ints(node.args[i], spatial) for i in (3, 4, 5))
        lead = (2 - spatial) * (1,)
        return Geometry(
            int(fake(x).shape[1]), int(fake(node).shape[1]), _two(lead + kernel), _two(lead + stride),
            _two((2 - spatial) * (0,) + padding), _two(lead + dilation), int_of(node.args[8]), bool(node.args[6]),
            spatial == 1,
        )  # fmt: skip

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved alone."""
        return self.in_channels == self.out_channels == self.groups and self.groups > 1 and not self.transposed


def _ints(value: object, count: int) -> tuple[int, ...]:
    assert isinstance(value, Sequence)
    numbers = tuple(int_of(v) for v in value)
    return numbers * count if len(numbers) == 1 else numbers


def _two(numbers: tuple[int, ...]) -> tuple[int, int]:
    return numbers[0], numbers[1]


def lower_attention(builder: Builder, node: Node, out: View, q: View, k: View, v: View, mask: View | None) -> Attention:
    """Attention over [batch, heads, length, dimension] views."""
    scale = node.kwargs.get("scale")
    causal = node.kwargs.get("is_causal", node.args[5] if len(node.args) > 5 else False)
    given = tuple(_strided(builder, _four(x), "r") for x in (q, k, v))
    target = _strided(builder, _four(out), "w")
    bias = None if mask is None else _strided(builder, mask, "r")
    (batch, heads, queries, width), (_, kv_heads, keys, _) = _four(q).shape, _four(k).shape
    head_dim, value_dim = _static(width), _static(_four(v).shape[3])
    sizes = [
        batch,
        heads,
        kv_heads,
        queries,
        keys,
        *[e for s in (*given, target, bias) if s for e in (*s.strides, s.offset)],
    ]
    kind = "none" if mask is None else "keep" if mask.dtype == "bool" else "add"
    return Attention(
        tuple(builder.buffers), dims_in(sizes), batch, heads, kv_heads, queries, keys, head_dim, value_dim,
        float_of(scale) if isinstance(scale, int | float) else head_dim**-0.5, bool(causal), *given, target, bias, kind,
    )  # fmt: skip


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


Requirement = Callable[[View], bool]


def inner_contiguous(view: View) -> bool:
    """The last dimension has stride 1 (or size 1)."""
    return view.shape[-1] == ONE or view.strides[-1] == ONE


def either_contiguous(view: View) -> bool:
    """One of the last two dimensions has stride 1."""
    return view.strides[-1] == ONE or view.strides[-2] == ONE


def channels_contiguous(view: View) -> bool:
    """Dimension 1 (the channels) has stride 1."""
    return view.strides[1] == ONE
