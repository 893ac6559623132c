"""GEMM kernels against float64, and the independence of their bits from rows, tiles and tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from tests.codegen.templates.panel_cases import (
    B,
    M,
    add,
    assert_close,
    buffers,
    epilogue,
    expected,
    fenced,
    mul,
    pack,
    run,
)
from tests.codegen.templates.template_runner import host_targets
from ullage.codegen.cpp.templates.gemm import emit_gemm
from ullage.codegen.loops.ir import Const, Dim, Expr
from ullage.codegen.templates import Gemm, PackedPanels
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

    def width(self, target: Target) -> int:
        return self.vectors * target.lanes if self.vectors else target.panel_width

    def layout(self, target: Target) -> PackedPanels:
        return PackedPanels(n=self.n, k=self.k, nr=self.width(target), groups=1, dtype=self.w)

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
            a_row=mul(add(mul(B, m), M), k),
            epilogue=epilogue(self.kind, row, self.out),
            weight=self.layout(target) if packed else None,
            b_buffer=None if packed else "w",
            b_base=None if packed else mul(mul(B, n), k),
            b_stride_k=None if packed else (Const(1) if self.right == "k" else n),
            b_stride_n=None if packed else (k if self.right == "k" else Const(1)),
        )


@dataclass(frozen=True)
class Data:
    """Operands of a case, and its exact result."""

    x: torch.Tensor
    w: torch.Tensor
    bias: torch.Tensor
    residual: torch.Tensor

    @staticmethod
    def of(case: Case) -> Data:
        generator = torch.Generator().manual_seed(case.m * 7919 + case.n * 31 + case.k)
        x = torch.randn(case.batch, case.m, case.k, generator=generator).to(getattr(torch, case.x))
        w = torch.randn(case.batch, case.n, case.k, generator=generator).to(getattr(torch, case.w))
        residual = torch.randn(case.batch, case.m, case.n, generator=generator)
        return Data(x, w, torch.randn(case.n, generator=generator), residual)


def compute(
    case: Case, target: Target, data: Data, launches: tuple[int, ...] = (), cuts: tuple[int, ...] = ()
) -> torch.Tensor:
    layout = case.layout(target) if case.right == "packed" else None
    w = pack(data.w[0], layout) if layout else fenced(data.w if case.right == "k" else data.w.mT.contiguous())
    y = fenced(torch.full((case.batch, case.m, case.n), float("nan"), dtype=getattr(torch, case.out)))
    tensors = {"x": fenced(data.x), "w": w, "bias": data.bias, "residual": data.residual, "y": y}
    dims = {"batch": case.batch, "m": case.m, "n": case.n, "k": case.k}
    run(emit_gemm(case.spec(target), target), target, tensors, layout, dims, launches, cuts)
    return y


def check(case: Case, target: Target) -> None:
    data = Data.of(case)
    x, w = data.x.double(), data.w.double()
    wanted = expected(case.kind, x @ w.mT, data.bias, data.residual)
    eps = {"float32": 2**-23, "float16": 2**-10, "bfloat16": 2**-7}[case.out]
    assert_close(compute(case, target, data), wanted, x.abs() @ w.abs().mT, case.k if case.out == "float32" else 1, eps)


SHAPES = [(1, 1, 1), (1, 100, 50), (7, 50, 7), (8, 48, 384), (9, 97, 385), (20, 64, 800), (70, 33, 1000), (131, 16, 64)]


@ON_ALL
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packed_weights(shape: tuple[int, int, int], target: Target) -> None:
    check(Case(*shape), target)


@ON_ALL
@pytest.mark.parametrize("kind", ["plain", "heavy"])
def test_epilogues(kind: str, target: Target) -> None:
    check(Case(13, 70, 40, kind), target)
    check(Case(13, 70, 500, kind), target)


@ON_ALL
def test_panels_of_every_width(target: Target) -> None:
    for vectors in (1, 2, 3, 4):
        check(Case(15, 75, 31, vectors=vectors), target)


@ON_ALL
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_storage(dtype: str, target: Target) -> None:
    check(Case(13, 70, 500, x=dtype, w=dtype, out=dtype), target)
    check(Case(3, 20, 33, x=dtype, w="float32"), target)
    check(Case(5, 20, 400, x=dtype, w=dtype, right="n"), target)


@ON_ALL
@pytest.mark.parametrize("right", ["k", "n"])
def test_variable_right_operands(right: str, target: Target) -> None:
    check(Case(11, 53, 70, "plain", batch=3, right=right), target)
    check(Case(300, 10, 390, right=right), target)
    check(Case(1, 1, 1, right=right), target)


@ON_ALL
@pytest.mark.parametrize("right", ["packed", "k", "n"])
def test_dynamic_sizes_give_the_bits_of_static_ones(right: str, target: Target) -> None:
    for m, n, k in [(1, 40, 30), (3, 97, 400), (45, 20, 384)]:
        case = Case(m, n, k, right=right)
        data = Data.of(case)
        assert torch.equal(compute(replace(case, dynamic=True), target, data), compute(case, target, data))


@ON_ALL
@pytest.mark.parametrize("kind", ["relu", "heavy"])
@pytest.mark.parametrize("k", [100, 900])
def test_bits_do_not_depend_on_rows(kind: str, k: int, target: Target) -> None:
    data = Data.of(Case(33, 70, k, kind))
    whole = compute(Case(33, 70, k, kind), target, data)
    for m in (1, 2, 5, 8, 20):
        part = Data(data.x[:, -m:], data.w, data.bias, data.residual[:, -m:])
        assert torch.equal(compute(Case(m, 70, k, kind), target, part), whole[:, -m:])


@ON_ALL
def test_bits_do_not_depend_on_launches_and_tasks(target: Target) -> None:
    case = Case(100, 200, 900)
    data = Data.of(case)
    whole = compute(case, target, data)
    assert torch.equal(compute(case, target, data, launches=(1, 3), cuts=(1, 2)), whole)
    assert torch.equal(compute(case, target, data, cuts=(3,)), whole)
    assert torch.equal(compute(case, target.with_threads(7), data), whole)


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
    with pytest.raises(InputError, match="7 outputs"):
        emit_gemm(odd, target)
