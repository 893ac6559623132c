"""Dense convolution kernels against float64, and the independence of their bits from tiles and tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import prod

import pytest
import torch
import torch.nn.functional as F

from tests.codegen.templates.panel_cases import (
    Library,
    M,
    N,
    add,
    assert_close,
    buffers,
    epilogue,
    expected,
    fenced,
    mul,
    pack,
    random_values,
    run,
)
from tests.codegen.templates.template_runner import host_targets
from ullage.codegen.cpp.templates.conv import emit_conv
from ullage.codegen.loops.ir import Apply, Const, Dim, Expr
from ullage.codegen.schedule.constants import word_of
from ullage.codegen.templates import Conv2d, PackedPanels
from ullage.errors import InputError
from ullage.target import Target

ON_ALL = pytest.mark.parametrize("target", host_targets(), ids=str)


@dataclass(frozen=True)
class Case:
    """A convolution of [batch, height, width, in_c]; `gap` are unused channels between neighbouring pixels."""

    size: tuple[int, int, int]
    in_c: int
    out_c: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    transposed: bool = False
    extra: tuple[int, int] = (0, 0)
    kind: str = "relu"
    dtype: str = "float32"
    gap: int = 0
    dynamic: bool = False
    vectors: int | None = None
    border: int = 0
    channels_first: str = ""
    """What is in channels-first order: "y", "residual", both, or neither."""

    @property
    def out_size(self) -> tuple[int, int]:
        def extent(axis: int) -> int:
            n, reach = self.size[1 + axis], self.dilation[axis] * (self.kernel[axis] - 1)
            if self.transposed:
                return (n - 1) * self.stride[axis] - 2 * self.padding[axis] + reach + 1 + self.extra[axis]
            return (n + 2 * self.padding[axis] - reach - 1) // self.stride[axis] + 1

        return extent(0), extent(1)

    def layout(self, target: Target) -> PackedPanels:
        width = self.vectors * target.lanes if self.vectors else target.panel_width
        k = self.kernel[0] * self.kernel[1] * self.in_c // self.groups
        word = word_of(self.dtype, self.in_c // self.groups, target)
        return PackedPanels(self.out_c // self.groups, k, width, self.groups, self.dtype, word)

    def dims(self) -> dict[str, int]:
        names = ("batch", "in_h", "in_w", "out_h", "out_w")
        return dict(zip(names, (*self.size, *self.out_size), strict=True))

    def place(self, buffer: str, values: dict[str, Expr]) -> Expr | None:
        """Where an output is in a channels-first buffer; in a single image rows are pixels."""
        if buffer not in self.channels_first:
            return None
        pixels = mul(values["out_h"], values["out_w"]) if self.dynamic else Const(prod(self.out_size))
        if self.size[0] == 1 and not self.dynamic:
            return add(M, mul(N, pixels))
        image, pixel = Apply("floordiv", (M, pixels), "int64"), Apply("mod", (M, pixels), "int64")
        return add(mul(image, mul(pixels, self.out_c)), mul(N, pixels), pixel)

    def spec(self, target: Target) -> Conv2d:
        values: dict[str, Expr] = {n: Dim(n) if self.dynamic else Const(value) for n, value in self.dims().items()}
        pitch = self.in_c + self.gap
        line = mul(values["in_w"], pitch) if self.dynamic else Const(self.size[2] * pitch)
        image: Expr = Apply("mul", (line, values["in_h"]), "int64")
        return Conv2d(
            buffers=buffers("uint8" if self.dtype == "int8" else self.dtype, self.dtype),
            dims=tuple(values) if self.dynamic else (),
            batch=values["batch"],
            in_h=values["in_h"],
            in_w=values["in_w"],
            in_c=self.in_c,
            out_h=values["out_h"],
            out_w=values["out_w"],
            out_c=self.out_c,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            transposed=self.transposed,
            x_buffer="x",
            x_stride_b=image if self.dynamic else Const(self.size[1] * self.size[2] * pitch),
            x_stride_h=line,
            x_stride_w=Const(pitch),
            weight=self.layout(target),
            epilogue=epilogue(
                self.kind,
                mul(M, self.out_c),
                at=self.place("y", values),
                residual_at=self.place("residual", values),
            ),
            border=self.border,
        )


@dataclass(frozen=True)
class Data:
    """Operands of a case in torch's channels-first order."""

    x: torch.Tensor
    w: torch.Tensor
    bias: torch.Tensor
    residual: torch.Tensor

    @staticmethod
    def of(case: Case) -> Data:
        generator = torch.Generator().manual_seed(case.in_c * 7919 + case.out_c)
        batch, height, width = case.size
        x = random_values((batch, case.in_c, height, width), "uint8" if case.dtype == "int8" else case.dtype, generator)
        outer, inner = (case.in_c, case.out_c) if case.transposed else (case.out_c, case.in_c)
        w = random_values((outer, inner // case.groups, *case.kernel), case.dtype, generator)
        residual = torch.randn(batch, *case.out_size, case.out_c, generator=generator)
        return Data(x, w, torch.randn(case.out_c, generator=generator), residual)

    def sums(self, case: Case, absolute: bool = False) -> torch.Tensor:
        """The exact sums (of absolute values) in [batch, height, width, channel] order."""
        x, w = (t.double().abs() if absolute else t.double() for t in (self.x, self.w))
        if case.transposed:
            out = F.conv_transpose2d(x, w, None, case.stride, case.padding, case.extra, case.groups, case.dilation)
        else:
            top, left = case.padding
            x = F.pad(x, (left, left, top, top), value=case.border)
            out = F.conv2d(x, w, None, case.stride, 0, case.dilation, case.groups)
        return out.permute(0, 2, 3, 1)


CASES = {
    **{f"{v} vectors": Case((1, 6, 7), 20, 75, padding=(1, 1), vectors=v) for v in (1, 4)},
    **{
        f"{kind}, panels that end in half a vector": Case((1, 6, 7), 20, 88, padding=(1, 1), dtype=kind, vectors=3)
        for kind in ("float32", "bfloat16", "int8")
    },
    "at most half a vector": Case((1, 6, 7), 20, 5, padding=(1, 1)),
    "3x3": Case((2, 9, 7), 40, 50, padding=(1, 1)),
    "int8, 3x3": Case((2, 9, 7), 40, 50, padding=(1, 1), dtype="int8", border=128),
    "int8, few channels": Case((1, 15, 13), 4, 20, (7, 7), (2, 2), (3, 3), dtype="int8", border=37),
    "int8, many chunks": Case((1, 5, 6), 640, 20, padding=(1, 1), dtype="int8", border=255),
    "int8, groups": Case((1, 5, 6), 24, 36, padding=(1, 1), dtype="int8", border=128, groups=3),
    "int8, 1x1": Case((1, 5, 6), 24, 36, (1, 1), dtype="int8"),
    "int8, transposed": Case((1, 5, 6), 24, 36, stride=(2, 2), dtype="int8", transposed=True),
    "few channels": Case((1, 15, 13), 3, 20, (7, 7), (2, 2), (3, 3)),
    "few channels with gaps": Case((1, 9, 8), 3, 20, padding=(1, 1), gap=1),
    "tiles inside a line": Case((1, 5, 24), 40, 20, padding=(0, 1)),
    "tiles inside a line, few channels": Case((1, 5, 24), 3, 20, padding=(0, 1)),
    "tiles inside a line, strided": Case((2, 9, 37), 20, 20, stride=(2, 2), padding=(1, 1)),
    "1x1": Case((2, 5, 7), 30, 20, (1, 1)),
    "1x1 with gaps": Case((2, 5, 7), 30, 20, (1, 1), gap=2),
    "1x1 strided": Case((2, 5, 7), 30, 20, (1, 1), (2, 2)),
    "1x1 padded": Case((1, 3, 3), 30, 20, (1, 1), padding=(1, 2)),
    "asymmetric": Case((1, 10, 11), 33, 17, (3, 2), (2, 1), (1, 0), (2, 3)),
    "long sums": Case((1, 5, 6), 500, 17, padding=(1, 1)),
    "heavy epilogue": Case((1, 6, 6), 64, 20, padding=(1, 1), kind="heavy"),
    "grouped": Case((2, 6, 7), 24, 36, padding=(1, 1), groups=4),
    "one-dimensional": Case((1, 1, 50), 1, 20, (1, 10), (1, 5)),
    "one-dimensional, long taps": Case((1, 1, 800), 1, 5, (1, 700), (1, 10), (0, 20)),
    "larger than the image": Case((1, 2, 3), 4, 5, (5, 5), padding=(2, 2)),
    "transposed": Case((2, 5, 6), 40, 10, (4, 4), (2, 2), (1, 1), transposed=True),
    "transposed, grouped, dilated": Case(
        (1, 5, 6), 8, 12, (3, 2), (3, 2), (0, 1), (1, 2), groups=2, transposed=True, extra=(1, 0), kind="heavy"
    ),
    "transposed, stride beyond the kernel": Case((1, 4, 5), 8, 10, (2, 2), (3, 3), transposed=True),
    "bfloat16": Case((1, 7, 6), 5, 9, padding=(1, 1), dtype="bfloat16"),
    **{
        f"bfloat16 {name}": replace(case, dtype="bfloat16")
        for name, case in {
            "3x3": Case((2, 9, 7), 40, 50, padding=(1, 1)),
            "few channels": Case((1, 15, 13), 4, 20, (7, 7), (2, 2), (3, 3)),
            "few channels with gaps": Case((1, 9, 8), 6, 20, padding=(1, 1), gap=1),
            "tiles inside a line, few channels": Case((1, 5, 24), 2, 20, padding=(0, 1)),
            "1x1": Case((2, 5, 7), 30, 20, (1, 1)),
            "1x1 strided": Case((2, 5, 7), 30, 20, (1, 1), (2, 2)),
            "long sums": Case((1, 5, 6), 900, 17, padding=(1, 1)),
            "grouped": Case((2, 6, 7), 24, 36, padding=(1, 1), groups=4),
            "grouped, odd": Case((2, 6, 7), 12, 36, padding=(1, 1), groups=4),
            "transposed": Case((2, 5, 6), 40, 10, (4, 4), (2, 2), (1, 1), transposed=True),
        }.items()
    },
    **{
        f"channels first, {name}": replace(case, channels_first="y, residual")
        for name, case in {
            "1x1": Case((1, 9, 15), 30, 21, (1, 1)),
            "1x1, int8": Case((1, 9, 15), 24, 36, (1, 1), dtype="int8"),
            "several images": Case((3, 5, 7), 30, 20, (1, 1), kind="heavy"),
            "few pixels": Case((5, 1, 2), 20, 75, (1, 1)),
            "3x3": Case((2, 9, 7), 40, 50, padding=(1, 1), kind="heavy"),
            "long sums": Case((1, 12, 11), 500, 19, padding=(1, 1)),
            "transposed": Case((2, 5, 6), 40, 10, (4, 4), (2, 2), (1, 1), transposed=True),
        }.items()
    },
    "residual, channels last, result first": Case((2, 5, 9), 30, 20, (1, 1), kind="heavy", channels_first="y"),
    "residual, channels first, result last": Case((2, 5, 9), 30, 20, (1, 1), kind="heavy", channels_first="residual"),
    "float16, long sums": Case((1, 6, 5), 400, 9, padding=(1, 1), dtype="float16"),
}
FIRST = ("channels first, several images", "channels first, 3x3")
DYNAMIC = [CASES[name] for name in ("3x3", "few channels", "1x1", "long sums", "transposed", *FIRST)]
CUT = [
    replace(CASES[name], out_c=100, size=(3, 8, 9)) for name in ("3x3", "long sums", "grouped", "transposed", *FIRST)
]


@cache
def library(target: Target) -> Library:
    cases = [*CASES.values(), *(replace(case, dynamic=True) for case in DYNAMIC), *CUT]
    cases += [replace(case, size=(1, *case.size[1:])) for case in CUT]
    return Library(target, [emit_conv(case.spec(target), target) for case in cases])


def compute(
    case: Case, target: Target, data: Data, launches: tuple[int, ...] = (), cuts: tuple[int, ...] = ()
) -> torch.Tensor:
    layout = case.layout(target)
    pixels = data.x.permute(0, 2, 3, 1)
    odd = float("nan") if pixels.dtype.is_floating_point else 113
    gap = torch.full((*pixels.shape[:3], case.gap), odd, dtype=pixels.dtype)
    y = fenced(torch.full((case.size[0], *case.out_size, case.out_c), float("nan")))
    w = pack(data.w, layout, outputs=1 if case.transposed else 0)
    x = fenced(torch.cat([pixels, gap], dim=-1).contiguous())
    residual = data.residual
    if "residual" in case.channels_first:
        residual = residual.permute(0, 3, 1, 2).contiguous()
    if "y" in case.channels_first:
        y = fenced(torch.full((case.size[0], case.out_c, *case.out_size), float("nan")))
    tensors = {"x": x, "w": w, "bias": data.bias, "residual": residual, "y": y}
    kernel = emit_conv(case.spec(target), target)
    run(kernel, library(target.with_threads(2)), tensors, layout, case.dims(), launches, cuts)
    return y.permute(0, 2, 3, 1) if "y" in case.channels_first else y


@ON_ALL
@pytest.mark.parametrize("name", CASES)
def test_convolutions(name: str, target: Target) -> None:
    case = CASES[name]
    data = Data.of(case)
    wanted = expected(case.kind, data.sums(case), data.bias, data.residual)
    assert_close(compute(case, target, data), wanted, data.sums(case, absolute=True), case.layout(target).k)


@ON_ALL
@pytest.mark.parametrize("case", DYNAMIC, ids=str)
def test_dynamic_sizes_give_the_bits_of_static_ones(case: Case, target: Target) -> None:
    data = Data.of(case)
    assert torch.equal(compute(replace(case, dynamic=True), target, data), compute(case, target, data))


@ON_ALL
@pytest.mark.parametrize("case", CUT, ids=str)
def test_bits_do_not_depend_on_launches_tasks_and_images(case: Case, target: Target) -> None:
    data = Data.of(case)
    whole = compute(case, target, data)
    assert torch.equal(compute(case, target, data, launches=(1, 3), cuts=(1, 2)), whole)
    assert torch.equal(compute(case, target.with_threads(7), data, cuts=(3,)), whole)
    last = Data(data.x[2:], data.w, data.bias, data.residual[2:])
    assert torch.equal(compute(replace(case, size=(1, *case.size[1:])), target, last), whole[2:])


@ON_ALL
def test_lanes_run_along_pixels_where_results_do(target: Target) -> None:
    last, first = CASES["3x3"], replace(CASES["3x3"], channels_first="y, residual")
    data = Data.of(last)
    assert "scatter" not in emit_conv(first.spec(target), target).source
    assert torch.equal(compute(first, target, data), compute(last, target, data))


def test_transposed_convolutions_multiply_no_inserted_zeros() -> None:
    target = host_targets()[-1]
    kernel = emit_conv(CASES["transposed"].spec(target), target)
    assert "static const int table[16][3]" in kernel.source
    assert "static const int phases[4][4]" in kernel.source


def test_unsuitable_operands_are_refused() -> None:
    target = host_targets()[0]
    spec = CASES["3x3"].spec(target)
    with pytest.raises(InputError, match="7 outputs"):
        emit_conv(replace(spec, weight=PackedPanels(n=50, k=360, nr=7, groups=1, dtype="float32")), target)
    with pytest.raises(InputError, match="int8"):
        emit_conv(replace(spec, buffers=buffers("int8", "float32")), target)
