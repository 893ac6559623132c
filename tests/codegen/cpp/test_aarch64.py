"""The portable C++ on another kind of machine: generated for `cpu:generic`, cross-compiled for aarch64, run by qemu.

Kernels and executor are built to one shared object by the toolchain's own functions and flags, as an artifact's code
is. A small program loads it and runs recorded launches on data in a file. Two things are compared:

- With the flags of artifacts: float64 truth, within the bounds that the same kernels are held to on this machine. No
  bits are compared here: the compiler contracts products and sums to one rounding on aarch64, and there is no such
  instruction in generic x86-64. (Loop kernels forbid that where it would show; one test looks.)
- With `-ffp-contract=off` on both machines: the bits of all buffers, against the same program built for this machine.
  Every operation is then the same IEEE operation, so any difference is a fault: undefined behaviour, the sign of char,
  a conversion, memory that was not set. Functions that call libm are left out, since two libraries may round apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.codegen.cpp.launches import TARGET, Launches, Recorded
from tests.codegen.cpp.loop_runner import Case, assert_close, run_truth
from tests.codegen.cpp.random_kernels import op, random_case
from tests.codegen.cpp.test_emit import at, case, operator_cases, pointwise, rows
from tests.codegen.cpp.test_math import assert_halves_exact, half_cases
from tests.codegen.cpp.test_math_errors import beyond
from tests.codegen.templates import test_attention, test_conv, test_depthwise, test_gemm
from tests.codegen.templates.panel_cases import M, N, add, expected, fenced, mul, pack
from tests.codegen.templates.panel_cases import assert_close as assert_sums_close
from tests.machines import AARCH64, HOST
from ullage.codegen.cpp.accuracy import FUNCTIONS, Sample, function_kernel, sample
from ullage.codegen.cpp.templates.gemm import emit_gemm
from ullage.codegen.loops.ir import (
    DTYPE_BYTES,
    FLOATS,
    Apply,
    Buffer,
    Cast,
    Const,
    Expr,
    Load,
    Loop,
    LoopKernel,
    Reduce,
    Ref,
    Stage,
    Store,
    Var,
    children,
)
from ullage.codegen.loops.traverse import expressions
from ullage.codegen.templates import Gemm, PackedPanels
from ullage.plan.sizes import Size

pytestmark = pytest.mark.skipif(bool(AARCH64.missing), reason=AARCH64.missing)
ON_HOST = pytest.mark.skipif(bool(HOST.missing), reason=HOST.missing)
EPS = {"float32": 2**-23, "float16": 2**-10, "bfloat16": 2**-7}
SEPARATE = ("-ffp-contract=off",)
TURNS = {"sin", "cos", "tan", "atan2"}  # from libm in part; float64 functions are from libm as a whole
OF_LIBM = TURNS | {"exp", "exp2", "expm1", "log", "log2", "log1p", "asin", "acos", "atan", "sinh", "cosh", "tanh",
                   "sigmoid", "erf", "pow"}  # fmt: skip
HALVES = (torch.bfloat16, torch.float16)
Check = Callable[[], None]
Record = Callable[[Launches], list[Check]]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Records what the tests of the templates would run."""
    made = Launches()
    for module in (test_attention, test_depthwise):
        monkeypatch.setattr(module, "run_kernel", made.add_kernel)
    for module in (test_gemm, test_conv):
        monkeypatch.setattr(module, "run", made.add_panels)
        monkeypatch.setattr(module, "library", lambda target: None)
    return made


# ---- elementary functions ----------------------------------------------------------------------------------------
def record_function(launches: Launches, made: Sample) -> torch.Tensor:
    """A function of its sample's arguments."""
    out = torch.full((len(made.truth),), math.nan)
    operands = {f"x{i}": torch.from_numpy(x) for i, x in enumerate(made.operands)}
    kernel = replace(function_kernel(made.function, TARGET), tasks=Size((len(out),)))
    launches.add(kernel, operands | {"y": out}, {})
    return out


def test_elementary_functions_stay_within_their_bounds(launches: Launches) -> None:
    samples = [sample(name, mantissas=32) for name in FUNCTIONS]
    results = [record_function(launches, made) for made in samples]
    launches.run(AARCH64)
    measured = [made.worst(y.numpy(), AARCH64.name) for made, y in zip(samples, results, strict=True)]
    assert beyond(measured) == {}


@ON_HOST
def test_elementary_functions_have_the_bits_of_this_machine(launches: Launches) -> None:
    """All but the sign and payload of NaN."""
    names = [name for name in FUNCTIONS if name not in TURNS]
    results = [record_function(launches, sample(name, mantissas=8)) for name in names]
    launches.run(HOST, SEPARATE)
    wanted = [y.clone() for y in results]
    launches.run(AARCH64, SEPARATE)
    same = [np.array_equal(y, w, equal_nan=True) for y, w in zip(results, wanted, strict=True)]
    assert [name for name, equal in zip(names, same, strict=True) if not equal] == []


# ---- loop kernels ------------------------------------------------------------------------------------------------
def layer_norm(source: str, count: int, length: int) -> LoopKernel:
    """`z` = the layer norm of the rows of a buffer: their means, their mean square differences, gain and shift."""
    x, share = Load(source, at(length), "float32"), Const(1 / length, "float32")
    centred = op("sub", x, op("mul", Ref("sum", "float32"), share))
    variance = op("add", op("mul", Ref("squares", "float32"), share), Const(1e-5, "float32"))
    scaled = op("mul", op("mul", centred, op("rsqrt", variance)), Load("gain", Var("c"), "float32"))
    loop = (Loop("c", Const(length)),)
    stages = (
        Stage(loop, (Reduce("sum", "sum", x),)),
        Stage(loop, (Reduce("squares", "sum", op("mul", centred, centred)),)),
        Stage(loop, (Store("z", at(length), op("add", scaled, Load("shift", Var("c"), "float32"))),)),
    )
    inputs = tuple(Buffer(name, "float32", "r") for name in (source, "gain", "shift"))
    return rows(stages, (*inputs, Buffer("z", "float32", "w")), count)


def casts() -> list[Case]:
    """Every dtype to every other; negative floats to uint8 have no defined value."""
    pairs = [(a, b) for a in DTYPE_BYTES for b in DTYPE_BYTES if not (a in FLOATS and b == "uint8")]
    return [pointwise(Cast(Load("x", Var("i"), a), b), {"x": a}, 29) for a, b in pairs]


def loop_cases() -> list[Case]:
    """A layer norm, operators and casts on all dtypes, random kernels."""
    count, length = 37, 131
    norm = case(
        layer_norm("x", count, length), {"x": count * length, "gain": length, "shift": length, "z": count * length}
    )
    return [norm, *operator_cases()[::5], *casts()[::3], *(random_case(Random(seed)) for seed in range(12))]


def record_cases(launches: Launches, cases: list[Case]) -> list[Check]:
    """Loop kernels; checks against the interpreter."""

    def check(recorded: Recorded) -> None:
        assert_close(recorded.case, recorded.got(), run_truth(recorded.case, precise=False), AARCH64.name, 4e-6)

    return [partial(check, launches.add_case(made)) for made in cases]


def of_libm(made: Case) -> bool:
    """Whether a kernel may call functions of libm that round differently on other machines."""
    roots = [e for stage in made.kernel.stages for statement in stage.body for e in expressions(statement)]
    return any(_calls_libm(root) for root in roots)


def _calls_libm(e: Expr) -> bool:
    called = isinstance(e, Apply) and (e.op in TURNS or (e.op in OF_LIBM and e.dtype == "float64"))
    return called or any(_calls_libm(child) for child in children(e))


def record_halves(launches: Launches) -> list[Check]:
    """Conversions from and to half types, exact for every pattern."""
    made = [launches.add_case(case) for case in half_cases()]
    return [partial(lambda r: assert_halves_exact(r.case, r.got()), recorded) for recorded in made]


def record_loops(launches: Launches) -> list[Check]:
    """All loop kernels."""
    return record_cases(launches, loop_cases())


def record_loops_without_libm(launches: Launches) -> list[Check]:
    """Those that call no library."""
    return record_cases(launches, [made for made in loop_cases() if not of_libm(made)])


# ---- templates ---------------------------------------------------------------------------------------------------
GEMMS = [
    test_gemm.Case(7, 50, 7),
    test_gemm.Case(13, 70, 500, "heavy"),
    test_gemm.Case(11, 53, 70, "plain", batch=3, right="k"),
    test_gemm.Case(5, 20, 400, x="bfloat16", w="bfloat16", right="n"),
    test_gemm.Case(45, 33, 384, dynamic=True),
    *(test_gemm.Case(13, 70, 500, x=dtype, w=dtype, out=dtype) for dtype in ("float16", "bfloat16")),
]
CONVOLUTIONS = (
    "3x3", "few channels with gaps", "asymmetric", "long sums", "heavy epilogue", "grouped", "transposed", "bfloat16",
    "float16, long sums",
)  # fmt: skip


def record_gemms(launches: Launches) -> list[Check]:
    """Products of odd sizes with epilogues; checks against float64."""

    def check(case: test_gemm.Case, data: test_gemm.Data, found: torch.Tensor) -> None:
        x, w = data.x.double(), data.w.double()
        wanted = expected(case.kind, x @ w.mT, data.bias, data.residual)
        k = case.k if case.out == "float32" else 1
        assert_sums_close(found, wanted, x.abs() @ w.abs().mT, k, EPS[case.out])

    made = [(case, test_gemm.Data.of(case)) for case in GEMMS]
    return [partial(check, case, data, test_gemm.compute(case, TARGET, data)) for case, data in made]


def record_row_epilogue(launches: Launches) -> list[Check]:
    """A product whose last task of a block of rows normalises the rows."""
    m, n, k = 45, 50, 70
    generator = torch.Generator().manual_seed(1)
    x, w, gain, shift = (torch.randn(*shape, generator=generator) for shape in ((m, k), (n, k), (n,), (n,)))
    layout = PackedPanels(n=n, k=k, nr=TARGET.panel_width, groups=1, dtype="float32")
    stores = (Store("y", add(mul(M, n), N), Ref("acc", "float32")),)
    spec = Gemm(
        buffers=tuple(Buffer(b, "float32", "w" if b in "yz" else "r") for b in ("x", "w", "gain", "shift", "y", "z")),
        dims=(),
        batch=Const(1),
        m=Const(m),
        n=Const(n),
        k=Const(k),
        a_buffer="x",
        a_row=mul(M, k),
        epilogue=stores,
        weight=layout,
        rows=layer_norm("y", m, n),
    )
    y, z = (fenced(torch.full((m, n), math.nan)) for _ in range(2))
    tensors = {"x": fenced(x), "w": pack(w, layout), "gain": gain, "shift": shift, "y": y, "z": z}
    launches.add_panels(emit_gemm(spec, TARGET), None, tensors, layout, cuts=(3, 7))

    def check() -> None:
        wanted = F.layer_norm(x.double() @ w.double().T, (n,), gain.double(), shift.double())
        torch.testing.assert_close(z.double(), wanted, rtol=1e-5, atol=1e-5)

    return [check]


def record_convolutions(launches: Launches) -> list[Check]:
    """Dense convolutions; checks against float64."""

    def check(case: test_conv.Case, data: test_conv.Data, found: torch.Tensor) -> None:
        wanted = expected(case.kind, data.sums(case), data.bias, data.residual)
        assert_sums_close(found, wanted, data.sums(case, absolute=True), case.layout(TARGET).k)

    made = [(case, test_conv.Data.of(case)) for case in (test_conv.CASES[name] for name in CONVOLUTIONS)]
    return [partial(check, case, data, test_conv.compute(case, TARGET, data)) for case, data in made]


def record_depthwise(launches: Launches) -> list[Check]:
    """Depthwise convolutions of several geometries and dtypes; checks against float64."""
    cases = [
        test_depthwise.case(size, c, kernel, **options) for size, c, kernel, options in test_depthwise.GEOMETRIES[:5]
    ]
    cases += [test_depthwise.case((9, 10), 21, (3, 3), padding=(1, 1), dtype=dtype) for dtype in HALVES]
    return [partial(test_depthwise.assert_close, c, test_depthwise.run(c, TARGET)) for c in cases]


def record_attention(launches: Launches) -> list[Check]:
    """Few and many queries, causal, masked, grouped heads, half dtypes; checks against float64."""
    torch.manual_seed(0)
    make = test_attention.case
    cases = [make(1, 200), make(101, 77), make(70, 20, causal=True), make(37, 80, heads=6, kv_heads=2, causal=True)]
    cases += [make(queries, 77, mask=torch.rand(2, 2, queries, 77) < 0.5) for queries in (3, 50)]
    cases += [make(50, 90, head=20, value=24, dtype=dtype) for dtype in HALVES]
    return [partial(test_attention.assert_close, c, test_attention.run(c, TARGET)) for c in cases]


RECORDS: dict[str, Record] = {
    "loops": record_loops,
    "halves": record_halves,
    "gemm": record_gemms,
    "row epilogue": record_row_epilogue,
    "convolution": record_convolutions,
    "depthwise": record_depthwise,
    "attention": record_attention,
}


@pytest.mark.parametrize("name", RECORDS)
def test_kernels_are_close_to_the_truth(name: str, launches: Launches) -> None:
    checks = RECORDS[name](launches)
    launches.run(AARCH64)
    for check in checks:
        check()


@ON_HOST
@pytest.mark.parametrize("name", RECORDS)
def test_uncontracted_kernels_have_the_bits_of_this_machine(name: str, launches: Launches) -> None:
    (record_loops_without_libm if name == "loops" else RECORDS[name])(launches)
    here, there = launches.results(HOST, SEPARATE), launches.results(AARCH64, SEPARATE)
    assert [launches.name_of(key) for key in here if not np.array_equal(here[key], there[key])] == []


# ---- what must not depend on contraction -------------------------------------------------------------------------
def test_a_product_and_a_sum_of_a_loop_kernel_round_apart(launches: Launches) -> None:
    """aarch64 always has the instruction that rounds both once."""
    x = Load("x", Var("i"), "float32")
    recorded = launches.add_case(pointwise(op("add", op("mul", x, x), Const(-1.0, "float32")), {"x": "float32"}, 999))
    launches.run(AARCH64)
    values = recorded.case.buffers["x"]
    assert (recorded.got()["y"] == values * values - np.float32(1)).all()


def test_bits_do_not_depend_on_launches_and_tasks(launches: Launches) -> None:
    gemm, conv = test_gemm.Case(45, 100, 500, "heavy"), replace(test_conv.CASES["3x3"], out_c=100)
    sums, images = test_gemm.Data.of(gemm), test_conv.Data.of(conv)
    whole = [test_gemm.compute(gemm, TARGET, sums), test_conv.compute(conv, TARGET, images)]
    cut = {"launches": (1, 3), "cuts": (1, 2)}
    parts = [test_gemm.compute(gemm, TARGET, sums, **cut), test_conv.compute(conv, TARGET, images, **cut)]
    launches.run(AARCH64)
    assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))
