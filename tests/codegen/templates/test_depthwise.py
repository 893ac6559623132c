"""Depthwise kernels against float64, their packed weights, and the independence of their bits from tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from tests.codegen.templates.template_runner import host_targets, run_kernel
from ullage.codegen.cpp.templates.depthwise import emit_depthwise
from ullage.codegen.cpp.templates.depthwise_pack import DepthwisePacker
from ullage.codegen.loops.ir import Apply, Buffer, Cast, Const, Dim, Expr, Load, Ref, Store, Var
from ullage.codegen.templates import Conv2d, PackedDepthwise
from ullage.errors import InputError
from ullage.target import Target

TARGETS = host_targets()
ON_ALL = pytest.mark.parametrize("target", TARGETS, ids=str)
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.uint8: "uint8"}


@dataclass(frozen=True)
class Weight:
    """A tensor that is read by boxes."""

    values: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def read(self, box: tuple[slice, ...]) -> torch.Tensor:
        return self.values[box].clone()


@dataclass(frozen=True)
class Case:
    """One convolution of [batch, height, width, channels] followed by bias and ReLU."""

    x: torch.Tensor
    w: torch.Tensor
    bias: torch.Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    dynamic: bool = False
    zero: int = 0

    @property
    def out_size(self) -> tuple[int, int]:
        return tuple(  # type: ignore[return-value]
            (self.x.shape[1 + i] + 2 * self.padding[i] - self.dilation[i] * (self.w.shape[2 + i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in range(2)
        )


def case(
    size: tuple[int, int],
    channels: int,
    kernel: tuple[int, int],
    *,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    **options: object,
) -> Case:
    torch.manual_seed(channels)
    x = torch.randn(batch, *size, channels).to(dtype)
    w = torch.randn(channels, 1, *kernel).to(dtype)
    return Case(x, w, torch.randn(channels), **options)  # type: ignore[arg-type]


def truth(c: Case) -> torch.Tensor:
    x, w = c.x.double().permute(0, 3, 1, 2) - c.zero, c.w.double()
    y = torch.conv2d(x, w, c.bias.double(), c.stride, c.padding, c.dilation, c.x.shape[3])
    return torch.relu(y).permute(0, 2, 3, 1)


def _apply(op: str, a: Expr, b: Expr, dtype: str = "float32") -> Expr:
    return Apply(op, (a, b), dtype)


def spec_of(c: Case, target: Target) -> tuple[Conv2d, dict[str, int]]:
    batch, height, width, channels = c.x.shape
    sizes = {"B": batch, "H": height, "W": width, "OH": c.out_size[0], "OW": c.out_size[1]}
    b, h, w, oh, ow = (Dim(n) if c.dynamic else Const(sizes[n]) for n in sizes)
    taps = c.w.shape[2] * c.w.shape[3]
    dtype, weight_dtype = NAMES[c.x.dtype], NAMES[c.w.dtype]
    biased = _apply("add", Ref("acc", "float32"), Load("bias", Var("n"), "float32"))
    value = _apply("max", biased, Const(0.0, "float32"))
    index = _apply("add", _apply("mul", Var("m"), Const(channels), "int64"), Var("n"), "int64")
    row = _apply("mul", w, Const(channels), "int64")
    spec = Conv2d(
        buffers=(
            Buffer("x", dtype, "r"),
            Buffer("w", weight_dtype, "r"),
            Buffer("bias", "float32", "r"),
            Buffer("out", weight_dtype, "w"),
        ),
        dims=tuple(sizes),
        batch=b,
        in_h=h,
        in_w=w,
        in_c=channels,
        out_h=oh,
        out_w=ow,
        out_c=channels,
        kernel=(c.w.shape[2], c.w.shape[3]),
        stride=c.stride,
        padding=c.padding,
        dilation=c.dilation,
        groups=channels,
        transposed=False,
        x_buffer="x",
        x_stride_b=_apply("mul", row, h, "int64"),
        x_stride_h=row,
        x_stride_w=Const(channels),
        weight=PackedDepthwise(channels, taps, target.lanes, weight_dtype),
        epilogue=(Store("out", index, value if weight_dtype == "float32" else Cast(value, weight_dtype)),),
        border=c.zero,
    )
    return spec, sizes


def run(c: Case, target: Target, cuts: tuple[int, ...] = ()) -> torch.Tensor:
    spec, sizes = spec_of(c, target)
    assert isinstance(spec.weight, PackedDepthwise)
    packed = torch.frombuffer(bytearray(DepthwisePacker(Weight(c.w), spec.weight).tile(0)), dtype=c.w.dtype)
    out = torch.full((c.x.shape[0], *c.out_size, c.x.shape[3]), math.nan, dtype=c.w.dtype)
    guarded = torch.full((c.x.numel() + 2048,), math.nan if c.x.is_floating_point() else 255, dtype=c.x.dtype)
    guarded[1024:-1024] = c.x.flatten()
    tensors = {"x": guarded[1024:], "w": packed, "bias": c.bias, "out": out}
    run_kernel(emit_depthwise(spec, target), target, tensors, sizes, cuts)
    return out


def assert_close(c: Case, out: torch.Tensor) -> None:
    """Within the worst rounding of one sum over the taps, and of the storage type."""
    exact = truth(c)
    taps = c.w.shape[2] * c.w.shape[3]
    limit = (taps + 2) * torch.finfo(torch.float32).eps * 6 * math.sqrt(taps)
    if not c.x.is_floating_point():
        limit *= 255
    if c.w.dtype != torch.float32:
        limit += torch.finfo(c.w.dtype).eps * exact.abs().max().item()
    assert (out.double() - exact).abs().max().item() <= limit


GEOMETRIES = [
    ((10, 17), 20, (3, 3), {"padding": (1, 1)}),
    ((11, 9), 16, (3, 3), {"stride": (2, 2), "padding": (1, 1), "batch": 2}),
    ((7, 7), 33, (5, 5), {"padding": (2, 2)}),
    ((8, 19), 5, (7, 7), {"padding": (3, 3), "stride": (1, 2)}),
    ((20, 21), 18, (3, 3), {"dilation": (2, 3), "padding": (2, 3)}),
    ((1, 40), 24, (1, 4), {"padding": (0, 3)}),
    ((3, 3), 7, (3, 3), {"padding": (2, 2)}),
    ((40, 1), 16, (5, 1), {}),
    ((9, 9), 17, (1, 1), {"stride": (3, 3)}),
    ((2, 2), 4, (3, 3), {"padding": (4, 4), "dilation": (3, 3)}),
    ((6, 30), 8, (2, 23), {"padding": (1, 11)}),
]


@ON_ALL
@pytest.mark.parametrize(("size", "channels", "kernel", "options"), GEOMETRIES)
def test_geometries_are_close_to_float64(
    target: Target, size: tuple[int, int], channels: int, kernel: tuple[int, int], options: dict[str, object]
) -> None:
    c = case(size, channels, kernel, **options)  # type: ignore[arg-type]
    assert_close(c, run(c, target))


@ON_ALL
def test_dynamic_sizes_give_the_same_bits(target: Target) -> None:
    """One kernel for all sizes, against a kernel of its own for each."""
    for size in ((10, 17), (3, 3), (12, 31)):
        c = case(size, 20, (3, 3), padding=(1, 1), batch=2)
        assert torch.equal(run(replace(c, dynamic=True), target), run(c, target))


@ON_ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_storage(target: Target, dtype: torch.dtype) -> None:
    c = case((9, 10), 21, (3, 3), padding=(1, 1), dtype=dtype)
    assert_close(c, run(c, target))


@ON_ALL
@pytest.mark.parametrize("zero", [0, 3, 255])
@pytest.mark.parametrize(("size", "channels", "kernel", "options"), GEOMETRIES[:6])
def test_codes_with_float_weights(
    target: Target, zero: int, size: tuple[int, int], channels: int, kernel: tuple[int, int], options: dict[str, object]
) -> None:
    """Codes count from the one that stands for zero, which is what lies around the image."""
    c = case(size, channels, kernel, **options)  # type: ignore[arg-type]
    c = replace(c, x=torch.randint(0, 256, c.x.shape, dtype=torch.uint8), zero=zero)
    assert_close(c, run(c, target))


@ON_ALL
def test_bits_do_not_depend_on_tasks(target: Target) -> None:
    c = case((40, 12), 70, (3, 3), padding=(1, 1), batch=2)
    whole = run(c, target)
    assert torch.equal(run(c, target, cuts=tuple(range(1, 60))), whole)


@ON_ALL
def test_taps_outside_the_image_are_left_out(target: Target) -> None:
    """An infinite weight that only meets padding must not turn zeros into NaN."""
    c = case((4, 4), 5, (3, 3), padding=(1, 1))
    c.w[:, :, 0, 0] = math.inf
    c.x[:] = c.x.abs()
    out = run(c, target)
    assert bool(out[:, 0].isfinite().all()) and bool(out[:, 1:, 1:].isinf().all())


def test_packed_weight_layout() -> None:
    w = torch.arange(6.0 * 4).view(6, 1, 2, 2)
    tile = DepthwisePacker(Weight(w), PackedDepthwise(6, 4, 4, "float32")).tile(0)
    packed = torch.frombuffer(bytearray(tile), dtype=torch.float32)
    blocks = packed.view(2, 4, 4)
    assert torch.equal(blocks[0], w[:4].view(4, 4).T)
    assert torch.equal(blocks[1][:, :2], w[4:].view(2, 4).T) and not bool(blocks[1][:, 2:].any())


def test_unsuitable_weights_and_geometries_are_refused() -> None:
    with pytest.raises(InputError, match="depthwise weight of 8 channels"):
        DepthwisePacker(Weight(torch.zeros(6, 1, 3, 3)), PackedDepthwise(8, 9, 4, "float32"))
    target = TARGETS[0]
    spec, _ = spec_of(case((5, 5), 4, (3, 3)), target)
    assert isinstance(spec.weight, PackedDepthwise)
    bad = replace(spec, transposed=True, weight=replace(spec.weight, lanes=3))
    with pytest.raises(InputError, match=r"3 lanes.*transposed"):
        emit_depthwise(bad, target)
