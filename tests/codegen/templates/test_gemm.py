"""GEMM kernels against float64, and the independence of their bits from rows, tiles and tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from tests.codegen.templates.panel_cases import (
    B,
    Library,
    M,
    Weight,
    add,
    assert_close,
    buffers,
    epilogue,
    expected,
    fenced,
    mul,
    pack,
    pack_tiles,
    random_values,
    run,
)
from tests.codegen.templates.template_runner import host_targets
from ullage.codegen.cpp.templates.gemm import emit_gemm
from ullage.codegen.cpp.templates.pack import CodePacker
from ullage.codegen.loops.ir import Const, Dim, Expr
from ullage.codegen.schedule.constants import word_of
from ullage.codegen.templates import Codes, Gemm, PackedPanels
from ullage.errors import InputError
from ullage.target import Target

ON_ALL = pytest.mark.parametrize("target", host_targets(), ids=str)


@dataclass(frozen=True)
class Case:
    """`batch` products [m, k] · [n, k]ᵀ; the right operand is packed, or variable with k or n contiguous."""

    m: int
    n: int
    k: int
    kind: str = "relu"
    batch: int = 1
    right: str = "packed"
    x: str = "float32"
    w: str = "float32"
    out: str = "float32"
    dynamic: bool = False
    vectors: int | None = None
    codes: Codes | None = None

    def width(self, target: Target) -> int:
        return self.vectors * target.lanes if self.vectors else target.panel_width

    def layout(self, target: Target) -> PackedPanels:
        word = word_of(self.w, self.k, target) if self.x in (self.w, "uint8") else 1
        word = 4 if self.codes else word
        return PackedPanels(
            n=self.n, k=self.k, nr=self.width(target), groups=1, dtype=self.w, word=word, codes=self.codes
        )

    def size(self, name: str) -> Expr:
        return Dim(name) if self.dynamic else Const(getattr(self, name))

    def spec(self, target: Target) -> Gemm:
        batch, m, k = self.size("batch"), self.size("m"), self.size("k")
        packed = self.right == "packed"
        n = Const(self.n) if packed else self.size("n")
        row = mul(add(mul(B, m), M), n)
        return Gemm(
            buffers=buffers(self.x, self.w, self.out),
            dims=("batch", "m", "n", "k") if self.dynamic else (),
            batch=Const(1) if packed else batch,
            m=m,
            n=n,
            k=k if not packed else Const(self.k),
            a_buffer="x",
            a_row=mul(add(mul(B, m), M), k if self.codes is None else mul(k, Const(2))),
            epilogue=epilogue(self.kind, row, self.out),
            weight=self.layout(target) if packed else None,
            b_buffer=None if packed else "w",
            b_base=None if packed else mul(mul(B, n), k),
            b_stride_k=None if packed else (Const(1) if self.right == "k" else n),
            b_stride_n=None if packed else (k if self.right == "k" else Const(1)),
        )


@cache
def coded(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [n, k], scales [n, k / group] and the weight [1, n, k] that they stand for."""
    assert case.codes is not None
    generator = torch.Generator().manual_seed(case.k)
    codes = torch.randint(0, 1 << case.codes.bits, (case.n, case.k), generator=generator, dtype=torch.uint8)
    scales = torch.randn(case.n, case.k // case.codes.group, generator=generator).half()
    weight = (codes.float() - case.codes.zero) * scales.float().repeat_interleave(case.codes.group, 1)
    return codes, scales, weight[None]


def packed(case: Case, data: Data, layout: PackedPanels) -> torch.Tensor:
    """The weight of a case as the kernel reads it."""
    if case.codes is None:
        return pack(data.w[0], layout)
    codes, scales, _ = coded(case)
    return pack_tiles(CodePacker(Weight(codes), Weight(scales), layout), layout)


@dataclass(frozen=True)
class Data:
    """Operands of a case, and its exact result."""

    x: torch.Tensor
    w: torch.Tensor
    bias: torch.Tensor
    residual: torch.Tensor

    @property
    def rows(self) -> torch.Tensor:
        """What the activations stand for, in float64."""
        if self.x.shape[-1] == self.w.shape[-1]:
            return self.x.double()
        high, low = self.x.double().chunk(2, -1)
        return 256 * high + low - Codes.OFFSET

    @staticmethod
    def of(case: Case) -> Data:
        generator = torch.Generator().manual_seed(case.m * 7919 + case.n * 31 + case.k)
        x = random_values((case.batch, case.m, case.k * (2 if case.codes else 1)), case.x, generator)
        w = random_values((case.batch, case.n, case.k), case.w, generator) if case.codes is None else coded(case)[2]
        residual = torch.randn(case.batch, case.m, case.n, generator=generator)
        return Data(x, w, torch.randn(case.n, generator=generator), residual)


SHAPES = [(1, 1, 1), (1, 100, 50), (7, 50, 7), (8, 48, 384), (9, 97, 385), (20, 64, 800), (70, 33, 1000), (131, 16, 64)]
CASES = {
    **{str(shape): Case(*shape) for shape in SHAPES},
    **{f"{kind}, k={k}": Case(13, 70, k, kind) for kind in ("plain", "heavy") for k in (40, 500)},
    **{f"{vectors} vectors": Case(15, 75, 31, vectors=vectors) for vectors in (1, 2, 3, 4)},
    **{dtype: Case(13, 70, 500, x=dtype, w=dtype, out=dtype) for dtype in ("float16", "bfloat16")},
    **{f"bfloat16 {s}": Case(*s, x="bfloat16", w="bfloat16") for s in [(1, 100, 2), (9, 97, 770), (20, 64, 1700)]},
    **{f"int8 {s}": Case(*s, x="uint8", w="int8") for s in [(1, 100, 4), (9, 97, 384), (20, 64, 3200), (70, 33, 1000)]},
    **{
        f"int8 {kind}, k={k}": Case(13, 70, k, kind, x="uint8", w="int8")
        for kind in ("plain", "heavy")
        for k in (40, 1600)
    },
    **{
        f"{bits} bits by {group}, {m} rows": Case(m, 70, k, x="uint8", codes=Codes(bits, group))
        for bits in (2, 3, 4, 8)
        for m, k, group in [(1, 64, 32), (7, 800, 32), (20, 1024, 128), (33, 512, 256)]
    },
    "bfloat16, odd k": Case(9, 40, 385, x="bfloat16", w="bfloat16"),
    "float16 by float32": Case(3, 20, 33, x="float16"),
    "float32 by bfloat16": Case(3, 20, 33, w="bfloat16"),
    "variable bfloat16": Case(5, 20, 400, x="bfloat16", w="bfloat16", right="n"),
    **{f"batched, {right} contiguous": Case(11, 53, 70, "plain", batch=3, right=right) for right in "kn"},
    **{f"tall, {right} contiguous": Case(300, 10, 390, right=right) for right in "kn"},
    **{f"single, {right} contiguous": Case(1, 1, 1, right=right) for right in "kn"},
}
DYNAMIC = [Case(m, n, k, right=right) for m, n, k in [(3, 97, 400), (45, 20, 384)] for right in ("packed", "k", "n")]
ROWS = (1, 2, 5, 8, 33)
LONG = [(kind, k, dtype) for kind in ("relu", "heavy") for k in (100, 900) for dtype in ("float32", "bfloat16", "int8")]
CUT = Case(100, 200, 900)


def left_of(dtype: str) -> str:
    """The dtype of activations that weights of `dtype` are multiplied by."""
    return "uint8" if dtype == "int8" else dtype


@cache
def library(target: Target) -> Library:
    cases = [*CASES.values(), *DYNAMIC, *(replace(case, dynamic=True) for case in DYNAMIC), CUT]
    cases += [Case(m, 70, k, kind, x=left_of(dtype), w=dtype) for kind, k, dtype in LONG for m in ROWS]
    return Library(target, [emit_gemm(case.spec(target), target) for case in cases])


def compute(
    case: Case, target: Target, data: Data, launches: tuple[int, ...] = (), cuts: tuple[int, ...] = ()
) -> torch.Tensor:
    layout = case.layout(target) if case.right == "packed" else None
    w = packed(case, data, layout) if layout else fenced(data.w if case.right == "k" else data.w.mT.contiguous())
    y = fenced(torch.full((case.batch, case.m, case.n), float("nan"), dtype=getattr(torch, case.out)))
    tensors = {"x": fenced(data.x), "w": w, "bias": data.bias, "residual": data.residual, "y": y}
    dims = {"batch": case.batch, "m": case.m, "n": case.n, "k": case.k}
    kernel = emit_gemm(case.spec(target), target)
    run(kernel, library(target.with_threads(2)), tensors, layout, dims, launches, cuts)
    return y


@ON_ALL
@pytest.mark.parametrize("name", CASES)
def test_products(name: str, target: Target) -> None:
    case = CASES[name]
    data = Data.of(case)
    x, w = data.rows, data.w.double()
    wanted = expected(case.kind, x @ w.mT, data.bias, data.residual)
    eps = {"float32": 2**-23, "float16": 2**-10, "bfloat16": 2**-7}[case.out]
    magnitude = x.abs() + (Codes.OFFSET if case.codes else 0)
    assert_close(
        compute(case, target, data), wanted, magnitude @ w.abs().mT, case.k if case.out == "float32" else 1, eps
    )


@ON_ALL
@pytest.mark.parametrize("case", DYNAMIC, ids=str)
def test_dynamic_sizes_give_the_bits_of_static_ones(case: Case, target: Target) -> None:
    data = Data.of(case)
    assert torch.equal(compute(replace(case, dynamic=True), target, data), compute(case, target, data))


@ON_ALL
@pytest.mark.parametrize(("kind", "k", "dtype"), LONG)
def test_bits_do_not_depend_on_rows(kind: str, k: int, dtype: str, target: Target) -> None:
    case = Case(33, 70, k, kind, x=left_of(dtype), w=dtype)
    data = Data.of(case)
    whole = compute(case, target, data)
    for m in ROWS:
        part = Data(data.x[:, -m:], data.w, data.bias, data.residual[:, -m:])
        assert torch.equal(compute(replace(case, m=m), target, part), whole[:, -m:])


@ON_ALL
def test_bits_do_not_depend_on_launches_and_tasks(target: Target) -> None:
    data = Data.of(CUT)
    whole = compute(CUT, target, data)
    assert torch.equal(compute(CUT, target, data, launches=(1, 3), cuts=(1, 2)), whole)
    assert torch.equal(compute(CUT, target, data, cuts=(3,)), whole)
    assert torch.equal(compute(CUT, target.with_threads(7), data), whole)


def test_equal_specifications_share_a_kernel() -> None:
    target = host_targets()[-1]
    assert emit_gemm(Case(5, 6, 7).spec(target), target) == emit_gemm(Case(5, 6, 7).spec(target), target)
    assert emit_gemm(Case(5, 6, 7).spec(target), target).symbol != emit_gemm(Case(5, 6, 8).spec(target), target).symbol


def test_both_threads_have_rows_of_a_single_tile() -> None:
    target = Target("cpu", "avx512", 2)
    for m in (32, 64, 128, 197):
        assert (emit_gemm(Case(m, 48, 8).spec(target), target).tasks.constant or 0) >= 2


def test_unsuitable_operands_are_refused() -> None:
    target = host_targets()[0]
    with pytest.raises(InputError, match="int8"):
        emit_gemm(Case(5, 6, 7, x="int8").spec(target), target)
    odd = replace(Case(5, 6, 7).spec(target), weight=PackedPanels(n=6, k=7, nr=7, groups=1, dtype="float32"))
    pairs = PackedPanels(n=6, k=7, nr=16, groups=1, dtype="bfloat16", word=2)
    with pytest.raises(InputError, match="k = 7"):
        emit_gemm(replace(Case(5, 6, 7, x="bfloat16").spec(target), weight=pairs), target)
    with pytest.raises(InputError, match="words of 2"):
        emit_gemm(replace(Case(5, 6, 8, x="float32").spec(target), weight=replace(pairs, k=8)), target)
    with pytest.raises(InputError, match="7 outputs"):
        emit_gemm(odd, target)
    whole = replace(odd, weight=PackedPanels(n=6, k=7, nr=target.lanes, groups=1, dtype="int8"))
    with pytest.raises(InputError, match="int8"):
        emit_gemm(whole, target)
    fours = replace(whole, weight=PackedPanels(n=6, k=8, nr=target.lanes, groups=1, dtype="int8", word=4))
    with pytest.raises(InputError, match="uint8"):
        emit_gemm(fours, target)
    with pytest.raises(InputError, match="65536"):
        emit_gemm(Case(5, 6, 1 << 17, x="uint8", w="int8").spec(target), target)


@ON_ALL
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_bits_of_sums_over_codes_do_not_depend_on_rows(bits: int, target: Target) -> None:
    case = Case(9, 70, 512, "plain", x="uint8", codes=Codes(bits, 64))
    data = Data.of(case)
    whole = compute(case, target, data)
    for m in (1, 4, 8):
        part = Data(data.x[:, -m:], data.w, data.bias, data.residual[:, -m:])
        assert torch.equal(compute(replace(case, m=m), target, part), whole[:, -m:])


@ON_ALL
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_sums_within_a_group_are_exact(bits: int, target: Target) -> None:
    """The largest planes times the lowest codes, over the largest group: no integer overflows."""
    case = Case(1, 5, 256, "plain", x="uint8", codes=Codes(bits, 256))
    data = Data.of(case)
    data.x[...] = 255
    layout = case.layout(target)
    codes = torch.zeros(case.n, case.k, dtype=torch.uint8)
    scales = torch.ones(case.n, 1).half()
    w = pack_tiles(CodePacker(Weight(codes), Weight(scales), layout), layout)
    y = torch.full((1, 1, case.n), float("nan"))
    kernel = emit_gemm(case.spec(target), target)
    tensors = {"x": data.x, "w": w, "bias": data.bias, "residual": data.residual, "y": y}
    run(kernel, library(target.with_threads(2)), tensors, layout, {}, (), ())
    assert y.flatten().tolist() == pytest.approx([-32767.0 * 256 * case.codes.zero] * case.n, rel=1e-6)  # type: ignore[union-attr]


@ON_ALL
@pytest.mark.parametrize("k", [4, 384, 1540, 1 << 16])
def test_sums_of_integers_are_exact(k: int, target: Target) -> None:
    case = Case(2, 20, k, "plain", x="uint8", w="int8")
    data = Data.of(case)
    data.x[:, 0], data.w[:, :2] = 255, torch.tensor([[-128], [127]])
    assert torch.equal(compute(case, target, data), (data.x.double() @ data.w.double().mT).float())
