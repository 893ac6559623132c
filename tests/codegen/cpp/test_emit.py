"""Emitted kernels against the interpreter: operators, dtypes, shapes, layouts, random kernels."""

from __future__ import annotations

import dataclasses
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.codegen.cpp.loop_runner import ISAS, Bare, Case, check_cases, filled, run_emitted, target
from tests.codegen.cpp.random_kernels import op, random_case
from ullage.codegen.cpp.emit import emit
from ullage.codegen.cpp.toolchain import build_library
from ullage.codegen.loops.ir import (
    DTYPE_BYTES,
    FLOATS,
    OPS,
    Buffer,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    Loop,
    LoopKernel,
    Reduce,
    ReduceOp,
    Ref,
    Scan,
    Stage,
    Store,
    Var,
)
from ullage.codegen.loops.verify import problems
from ullage.errors import InputError

RNG = np.random.default_rng(3)


def case(kernel: LoopKernel, counts: dict[str, int], **dims: int) -> Case:
    dtypes = {b.name: b.dtype for b in kernel.buffers}
    return Case(kernel, {name: filled(dtypes[name], count, RNG) for name, count in counts.items()}, dims)


def pointwise(value: Expr, inputs: dict[str, str], count: int) -> Case:
    buffers = (*(Buffer(n, d, "r") for n, d in inputs.items()), Buffer("y", value.dtype, "w"))
    kernel = LoopKernel(buffers, (), (Loop("i", Const(count)),), (Stage((), (Store("y", Var("i"), value),)),))
    return case(kernel, dict.fromkeys((*inputs, "y"), count))


def operator_cases() -> list[Case]:
    """Every operator on every dtype that it is defined for."""
    cases = []
    for name, (arity, rule) in OPS.items():
        for dtype in DTYPE_BYTES:
            inputs = {f"x{i}": dtype for i in range(arity)}
            args: list[Expr] = [Load(n, Var("i"), d) for n, d in inputs.items()]
            if name == "where":
                inputs["x0"], args[0] = "bool", Load("x0", Var("i"), "bool")
            made = pointwise(dataclasses.replace(op(name, *args), dtype=_result(rule, dtype)), inputs, 37)
            if not list(problems(made.kernel)):
                cases.append(_in_domain(made, name))
    return cases


def _result(rule: str, dtype: str) -> str:
    return "bool" if rule == "bool" else dtype


def _in_domain(made: Case, name: str) -> Case:
    """Arguments where the function has a value; powers and shifts by small amounts."""
    x = made.buffers["x0"]
    positive = name in ("log", "log2", "log1p", "sqrt", "rsqrt", "pow", "asin", "acos", "reciprocal", "div", "fmod")
    if positive and x.dtype.kind == "f":
        for key in ("x0", "x1"):
            if key in made.buffers:
                made.buffers[key] = (np.abs(made.buffers[key]) * 0.4 + 0.1).astype(x.dtype)
    elif positive and x.dtype == np.uint16:
        made.buffers.update({k: v & np.uint16(0x3F7F) | np.uint16(0x3E00) for k, v in made.buffers.items()})
    if name in ("pow", "shl", "shr") and x.dtype.kind in "iu" and x.dtype != np.uint16:
        made.buffers["x1"] = np.abs(made.buffers["x1"]) % 3
    return made


def test_every_operator_on_every_dtype() -> None:
    cases = operator_cases()
    assert len(cases) > 250
    check_cases(cases, isas=ISAS[:1], tolerance=4e-6)
    for offset, isa in enumerate(ISAS[1:]):
        check_cases(cases[offset::4], isas=[isa], tolerance=4e-6)


def test_every_cast() -> None:
    cases = []
    for source in DTYPE_BYTES:
        for dtype in DTYPE_BYTES:
            cases.append(pointwise(Cast(Load("x", Var("i"), source), dtype), {"x": source}, 29))
            if source in FLOATS and dtype == "uint8":
                cases[-1].buffers["x"] = (
                    filled(source, 29, RNG) & 0x7FFF if source == "bfloat16" else np.abs(cases[-1].buffers["x"])
                )
    check_cases(cases)


def rows(stages: tuple[Stage, ...], buffers: tuple[Buffer, ...], count: int) -> LoopKernel:
    return LoopKernel(buffers, (), (Loop("r", Const(count)),), stages)


def at(row_length: int) -> Expr:
    return op("add", op("mul", Var("r"), Const(row_length)), Var("c"))


REDUCTIONS: tuple[tuple[ReduceOp, str], ...] = (
    ("sum", "float32"), ("sum", "float64"), ("sum", "int64"), ("sum", "int32"), ("prod", "float32"), ("max", "float32"),
    ("min", "float64"), ("max", "int64"), ("min", "int8"), ("max", "uint8"), ("max", "bfloat16"), ("min", "float16"),
    ("argmax", "float32"), ("argmin", "float32"), ("argmax", "int64"), ("argmin", "float64"), ("argmax", "int8"),
    ("any", "bool"), ("all", "bool"),
)  # fmt: skip


@pytest.mark.parametrize("along_rows", [True, False])
def test_reductions_of_every_length(along_rows: bool) -> None:
    """Along contiguous rows, and down columns."""
    cases = []
    for name, dtype in REDUCTIONS:
        for length in (3, 64, 131):
            index = at(length) if along_rows else op("add", op("mul", Var("c"), Const(35)), Var("r"))
            value = Load("x", index, dtype)
            result = "int64" if name.startswith("arg") else dtype
            stages = (
                Stage((Loop("c", Const(length)),), (Reduce("s", name, value),)),
                Stage((), (Store("y", Var("r"), Ref("s", result)),)),
            )
            made = rows(stages, (Buffer("x", dtype, "r"), Buffer("y", result, "w")), 35)
            cases.append(case(made, {"x": 35 * length, "y": 35}))
    check_cases(cases, tolerance=3e-5)


def test_extremes_propagate_nan_and_find_the_first() -> None:
    values = np.array([[1, 5, 5, 2], [1, np.nan, 7, np.nan], [-np.inf] * 4, [np.inf, 3, np.inf, 0]], np.float32)
    values = np.tile(values, (1, 10))
    length = values.shape[1]
    loop = (Loop("c", Const(length)),)
    x = Load("x", at(length), "float32")
    stages = (
        Stage(loop, (Reduce("top", "max", x), Reduce("where", "argmax", x), Reduce("low", "argmin", x))),
        Stage((), tuple(Store(b, Var("r"), Ref(r, d)) for b, r, d in OUTPUTS)),
    )
    outputs = tuple(Buffer(b, d, "w") for b, _, d in OUTPUTS)
    made = rows(stages, (Buffer("x", "float32", "r"), *outputs), 4)
    for isa in ISAS:
        emitted = emit(made, target(isa))
        arrays = {
            "x": values.reshape(-1),
            "y": np.zeros(4, np.float32),
            "i": np.zeros(4, np.int64),
            "j": np.zeros(4, np.int64),
        }
        loaded = Bare(build_library([emitted], target(isa)))
        got = run_emitted(Case(made, arrays, {}), loaded.kernels[0], emitted)
        assert np.array_equal(got["y"], values.max(1), equal_nan=True)
        assert got["i"].tolist() == values.argmax(1).tolist() == [1, 1, 0, 0]
        assert got["j"].tolist() == values.argmin(1).tolist() == [0, 1, 0, 3]


OUTPUTS = (("y", "top", "float32"), ("i", "where", "int64"), ("j", "low", "int64"))


def test_scans_of_rows_and_columns() -> None:
    cases = []
    for name in ("sum", "prod", "max", "min"):
        for index in (at(19), op("add", op("mul", Var("c"), Const(35)), Var("r"))):
            body = (Scan("s", name, Load("x", index, "int64")), Store("y", index, Ref("s", "int64")))  # type: ignore[arg-type]
            made = rows(
                (Stage((Loop("c", Const(19)),), body),), (Buffer("x", "int64", "r"), Buffer("y", "int64", "w")), 35
            )
            cases.append(case(made, {"x": 35 * 19, "y": 35 * 19}))
    check_cases(cases)


def test_linear_scans_of_rows_and_columns() -> None:
    """Two recurrences that advance together, of which one starts from a value of its row; both also where they end."""
    cases = []
    for dtype in ("float32", "float64"):
        for index in (at(19), op("add", op("mul", Var("c"), Const(35)), Var("r"))):
            x, f = (Load(name, index, dtype) for name in ("x", "f"))
            both = op("add", Ref("s", dtype), op("mul", Ref("h", dtype), x))
            body = (
                Scan("s", "linear", x, f),
                Scan("h", "linear", op("exp", f), op("tanh", x), Load("i", Var("r"), dtype)),
                Store("y", index, both),
            )
            buffers = tuple(Buffer(name, dtype, "w" if name in "ye" else "r") for name in "xfiye")
            end = Stage((), (Store("e", Var("r"), op("mul", Ref("h", dtype), Ref("s", dtype))),))
            made = rows((Stage((Loop("c", Const(19)),), body), end), buffers, 35)
            cases.append(case(made, {"x": 35 * 19, "f": 35 * 19, "i": 35, "y": 35 * 19, "e": 35}))
    check_cases(cases)


@pytest.mark.parametrize("shape", [(70, 50), (7, 3), (1, 129), (129, 1), (64, 64), (70, 2), (70, 3), (70, 4), (3, 70)])
def test_transposing_copies(shape: tuple[int, int]) -> None:
    a, b = shape
    cases = []
    for dtype in ("float32", "bfloat16", "int8", "float64"):
        source = op("add", op("mul", Var("j"), Const(a)), Var("i"))
        to = op("add", op("mul", Var("i"), Const(b)), Var("j"))
        made = LoopKernel(
            (Buffer("x", dtype, "r"), Buffer("y", dtype, "w")),
            (),
            (Loop("i", Const(a)), Loop("j", Const(b))),
            (Stage((), (Store("y", to, Load("x", source, dtype)),)),),
        )
        cases.append(case(made, {"x": a * b, "y": a * b}))
    check_cases(cases, tolerance=0)


def test_floats_become_the_nearest_codes() -> None:
    """Halves go to even numbers and what is beyond the bounds to these; other conversions keep the low bits."""
    x = Load("x", Var("i"), "float32")
    numbers = np.array([-3.5, -0.5, -0.0, 0.5, 1.5, 2.5, 254.5, 255.4, 256.0, 3e9, np.inf, -np.inf, 0.49999997, 77.3])
    values = np.resize(numbers, 67).astype(np.float32)
    cases = []
    for low in (0.0, 3.0, -7.0):
        inside = op("min", op("max", x, Const(low, "float32")), Const(255.0, "float32"))
        kernel = pointwise(Cast(op("round", inside), "uint8"), {"x": "float32"}, 67).kernel
        cases.append(Case(kernel, {"x": values, "y": np.zeros(67, np.uint8)}, {}))
    moderate = np.where(np.abs(values) < 1000, values, 100).astype(np.float32)
    for dtype in ("uint8", "int8", "int16", "int32"):
        for value in (op("round", x), x):
            kernel = pointwise(Cast(value, dtype), {"x": "float32"}, 67).kernel
            cases.append(Case(kernel, {"x": moderate, "y": np.zeros(67, dtype)}, {}))
    check_cases(cases, tolerance=0)


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 16, 19])
def test_stores_that_stride_over_vector_lanes(rows: int) -> None:
    """Planes become interleaved channels, some of them padding; neighbours of what is stored stay as they are."""
    cases = []
    for dtype in ("float32", "bfloat16", "uint8", "int16", "int64"):
        for apart in (rows, rows + 2):
            plane = op("add", op("mul", Var("c"), Const(37)), Var("p"))
            to = op("add", op("mul", Var("p"), Const(apart)), Var("c"))
            inside = op("lt", Var("c"), Const(rows - 1))
            value = op("add", Load("x", plane, dtype, inside, 0.0), Load("z", Var("p"), dtype))
            made = LoopKernel(
                (Buffer("x", dtype, "r"), Buffer("z", dtype, "r"), Buffer("y", dtype, "w")),
                (),
                (Loop("c", Const(rows)), Loop("p", Const(37))),
                (Stage((), (Store("y", to, value),)),),
            )
            cases.append(case(made, {"x": rows * 37, "z": 37, "y": apart * 37}))
    if rows < 16:
        assert all("ull_untile" in emit(c.kernel, target(ISAS[0])).source for c in cases[:4])
    check_cases(cases, tolerance=0)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 2**31), min_size=8, max_size=8, unique=True))
def test_random_kernels(seeds: list[int]) -> None:
    check_cases([random_case(Random(seed)) for seed in seeds])


def add_kernel(names: tuple[str, str, str], loop: str, dim: str) -> LoopKernel:
    a, b, y = names
    i = Var(loop)
    value = op("add", Load(a, i, "float32"), Load(b, i, "float32"))
    buffers = (Buffer(a, "float32", "r"), Buffer(b, "float32", "r"), Buffer(y, "float32", "w"))
    return LoopKernel(buffers, (dim,), (Loop(loop, Dim(dim)),), (Stage((), (Store(y, i, value),)),))


def test_equal_kernels_have_equal_symbols_whatever_their_names() -> None:
    first, second = (
        emit(add_kernel(*n), target("avx2")) for n in ((("a", "b", "y"), "i", "n"), (("u", "v", "w"), "k", "m"))
    )
    assert first.symbol == second.symbol and first.source == second.source
    assert (first.buffers, first.dims) == (("a", "b", "y"), ("n",))
    assert second.tasks.names() == {"m"}
    assert emit(add_kernel(("a", "b", "y"), "i", "n"), target("generic")).symbol != first.symbol


def test_an_illegal_kernel_is_refused() -> None:
    with pytest.raises(InputError, match="undeclared buffer"):
        emit(LoopKernel((), (), (), (Stage((), (Store("y", Const(0), Const(1.0, "float32")),)),)), target("avx2"))


@pytest.mark.parametrize("length", [5, 48, 77])
def test_bits_do_not_depend_on_how_rows_are_cut(length: int) -> None:
    """The same row in a kernel of 1 row and of 40 rows, and at any place."""

    def normalised(count: int) -> LoopKernel:
        x = Load("x", at(length), "float32")
        loop = (Loop("c", Const(length)),)
        scaled = op("mul", op("exp", op("sub", x, Ref("m", "float32"))), Ref("s", "float32"))
        stages = (
            Stage(loop, (Reduce("m", "max", x), Reduce("s", "sum", op("mul", x, x)))),
            Stage(loop, (Store("y", at(length), op("add", scaled, x)),)),
        )
        return rows(stages, (Buffer("x", "float32", "r"), Buffer("y", "float32", "w")), count)

    row = filled("float32", length, RNG)
    for isa in ISAS:
        results = []
        for count in (1, 40):
            emitted = emit(normalised(count), target(isa))
            arrays = {"x": np.tile(row, count), "y": np.zeros(count * length, np.float32)}
            loaded = Bare(build_library([emitted], target(isa)))
            got = run_emitted(Case(normalised(count), arrays, {}), loaded.kernels[0], emitted)["y"]
            results += list(got.reshape(count, length))
        assert all((r == results[0]).all() for r in results)


def test_a_product_and_a_sum_round_apart() -> None:
    """Fusing a product into a sum must not change bits, so nothing is contracted."""
    x = Load("x", Var("i"), "float32")
    fused = pointwise(op("add", op("mul", x, x), Const(-1.0, "float32")), {"x": "float32"}, 999)
    wanted = (fused.buffers["x"] * fused.buffers["x"]) - np.float32(1)
    for isa in ISAS:
        emitted = emit(fused.kernel, target(isa))
        loaded = Bare(build_library([emitted], target(isa)))
        assert (run_emitted(fused, loaded.kernels[0], emitted)["y"] == wanted).all()


def test_large_spaces_are_cut_into_tasks_of_whole_cache_lines() -> None:
    made = emit(add_kernel(("a", "b", "y"), "i", "n"), target("avx2"))
    assert made.tasks.evaluate({"n": 100}) == 1
    assert 50 <= made.tasks.evaluate({"n": 10**6}) <= 100
    assert "16384" in made.source


@pytest.mark.parametrize("columns", [False, True])
def test_local_rows(columns: bool) -> None:
    """A softmax that keeps its exponentials in a local buffer, over rows and down columns."""
    count, length = 37, 21
    index = op("add", op("mul", Var("c"), Const(count)), Var("r")) if columns else at(length)
    loop = (Loop("c", Dim("n")),)
    kept = Load("t", Var("c"), "float32")
    exponential = op("exp", op("sub", Load("x", index, "float32"), Ref("m", "float32")))
    stages = (
        Stage(loop, (Reduce("m", "max", Load("x", index, "float32")),)),
        Stage(loop, (Store("t", Var("c"), exponential), Reduce("s", "sum", kept))),
        Stage(loop, (Store("y", index, op("div", kept, Ref("s", "float32"))),)),
    )
    buffers = (
        Buffer("x", "float32", "r"),
        Buffer("y", "float32", "w"),
        Buffer("t", "float32", "local", Dim("n")),
        Buffer("u", "float64", "local", Const(3)),
    )
    made = dataclasses.replace(rows(stages, buffers, count), dims=("n",))
    check_cases([case(made, {"x": count * length, "y": count * length}, n=length)])


def test_a_load_after_a_store_sees_what_was_stored() -> None:
    i = Var("i")
    z = Load("z", i, "float32")
    body = (Store("z", i, op("add", z, Const(1.0, "float32"))), Store("y", i, op("mul", z, z)))
    kernel = LoopKernel(
        (Buffer("z", "float32", "rw"), Buffer("y", "float32", "w")), (), (Loop("i", Const(45)),), (Stage((), body),)
    )
    check_cases([case(kernel, {"z": 45, "y": 45})], tolerance=0)


def test_bits_of_a_sum_do_not_depend_on_what_is_cheapest_around_it() -> None:
    """Much scalar work per row makes vectors of rows attractive; the sum must not change with that."""
    length = 16

    def heavy(count: int) -> LoopKernel:
        value: Expr = Ref("s", "float32")
        for name in ("erf", "tanh", "sin", "exp", "log1p", "cos"):
            value = op("add", op(name, value), Ref("s", "float32"))
        stages = (
            Stage((Loop("c", Const(length)),), (Reduce("s", "sum", Load("x", at(length), "float32")),)),
            Stage((), (Store("y", Var("r"), Ref("s", "float32")), Store("z", Var("r"), value))),
        )
        outputs = (Buffer("y", "float32", "w"), Buffer("z", "float32", "w"))
        return rows(stages, (Buffer("x", "float32", "r"), *outputs), count)

    row = filled("float32", length, np.random.default_rng(5))
    for isa in ISAS:
        results = []
        for count in (1, 64):
            emitted = emit(heavy(count), target(isa))
            arrays = {"x": np.tile(row, count)} | {n: np.zeros(count, np.float32) for n in "yz"}
            loaded = Bare(build_library([emitted], target(isa)))
            got = run_emitted(Case(heavy(count), arrays, {}), loaded.kernels[0], emitted)
            results += [*got["y"]]
        assert len(set(results)) == 1
