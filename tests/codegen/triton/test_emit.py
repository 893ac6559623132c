"""Loop kernels as Triton: run in Triton's interpreter against the loops' own interpreter, and compiled to cubins."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ullage.codegen.loops.evaluate import evaluate
from ullage.codegen.loops.ir import (
    FLOATS,
    OPS,
    Apply,
    Buffer,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    Loop,
    LoopKernel,
    Reduce,
    Ref,
    Scan,
    Sort,
    Stage,
    Store,
    Var,
)
from ullage.codegen.triton.blocks import Blocks
from ullage.codegen.triton.build import compile_cubin
from ullage.codegen.triton.emit import emit_triton
from ullage.errors import UnsupportedOperator

I, J, K = Var("i"), Var("j"), Var("k")  # noqa: E741
N, M = Dim("N"), Dim("M")


@dataclass(frozen=True)
class Case:
    """A kernel with its inputs; `blocks` overrides the chosen block sizes, `exact` asks for equal values, `expected`
    stands in for what the loops' interpreter (which does not run iterations in turn) would give."""

    kernel: LoopKernel
    buffers: Mapping[str, torch.Tensor]
    dims: Mapping[str, int]
    blocks: Blocks | None = None
    exact: bool = False
    expected: Mapping[str, torch.Tensor] | None = None


def op(name: str, *args: Expr) -> Expr:
    return Apply(name, args, "bool" if OPS[name][1] == "bool" else args[-1].dtype)


def add(a: Expr, b: Expr | int) -> Expr:
    return op("add", a, Const(b) if isinstance(b, int) else b)


def mul(a: Expr, b: Expr | int) -> Expr:
    return op("mul", a, Const(b) if isinstance(b, int) else b)


def f32(value: float) -> Expr:
    return Const(value, "float32")


def kernel(buffers: Sequence[Buffer], outer: Sequence[Loop], *stages: Stage) -> LoopKernel:
    return LoopKernel(tuple(buffers), ("N", "M"), tuple(outer), stages)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).flatten()


def zeros(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(count, dtype=dtype)


AT = add(mul(I, M), J)
ROWS, COLUMNS = Loop("i", N), Loop("j", M)


def softmax() -> LoopKernel:
    x = Load("x", AT, "float32")
    e = op("exp", op("sub", x, Ref("top", "float32")))
    return kernel(
        [Buffer("x", "float32", "r"), Buffer("y", "float32", "w")],
        [ROWS],
        Stage((COLUMNS,), (Reduce("top", "max", x),)),
        Stage((COLUMNS,), (Reduce("total", "sum", e),)),
        Stage((COLUMNS,), (Store("y", AT, op("div", e, Ref("total", "float32"))),)),
    )


def pointwise_of(name: str, dtype: str) -> LoopKernel:
    args = tuple(Load(f"x{i}", I, dtype) for i in range(OPS[name][0]))
    if name == "where":
        args = (op("lt", args[1], args[2]), args[1], args[2])
    value = op(name, *args)
    buffers = [Buffer(f"x{i}", dtype, "r") for i in range(OPS[name][0])]
    return kernel([*buffers, Buffer("y", value.dtype, "w")], [Loop("i", N)], Stage((), (Store("y", I, value),)))


def pointwise_case(name: str, dtype: str) -> Case:
    count, kind = 70, getattr(torch, dtype)
    arity = OPS[name][0]
    if dtype in FLOATS:
        tensors = [normal(count, dtype=kind) * (0.4 if name in ("asin", "acos") else 3) for _ in range(arity)]
        tensors = [t.clamp(-0.99, 0.99) if name in ("asin", "acos") else t for t in tensors]
        tensors = [t.abs() + 0.1 if name in ("log", "log2", "log1p", "sqrt", "rsqrt", "pow") else t for t in tensors]
    else:
        generator = torch.Generator().manual_seed(5)
        low, high = (0, 2) if dtype == "bool" else (0, 9) if dtype == "uint8" else (-9, 9)
        tensors = [torch.randint(low, high, (count,), generator=generator).to(kind) for _ in range(arity)]
    tensors = [t.roll(7 * i) for i, t in enumerate(tensors)]
    result = "bool" if OPS[name][1] == "bool" else dtype
    buffers = {f"x{i}": t for i, t in enumerate(tensors)} | {"y": zeros(count, getattr(torch, result))}
    return Case(pointwise_of(name, dtype), buffers, {"N": count, "M": 1}, exact=dtype not in FLOATS)


FLOAT_OPS = sorted(set(OPS) - {"and", "or", "xor", "not", "shl", "shr", "floordiv", "mod", "truncdiv"})
INT_OPS = [
    "add", "sub", "mul", "floordiv", "mod", "truncdiv", "fmod", "pow", "max", "min", "and", "or", "xor", "shl", "shr",
    "eq", "lt", "neg", "abs", "not", "sign", "where", "floor",
]  # fmt: skip
BOOL_OPS = ["and", "or", "xor", "not", "max", "min", "eq", "lt", "ge", "where"]


def reduce_case(
    name: str, dtype: str, data: torch.Tensor, rows: int, result: str, blocks: Blocks | None = None
) -> Case:
    value: Expr = Load("x", AT, dtype)
    value = Cast(value, "bool") if name in ("any", "all") else value
    built = kernel(
        [Buffer("x", dtype, "r"), Buffer("y", result, "w")],
        [ROWS],
        Stage((COLUMNS,), (Reduce("q", name, value),)),  # type: ignore[arg-type]
        Stage((), (Store("y", I, Ref("q", result)),)),
    )
    dims = {"N": rows, "M": data.numel() // rows}
    return Case(built, {"x": data, "y": zeros(rows, getattr(torch, result))}, dims, blocks, dtype not in FLOATS)


def scan_case(name: str, dtype: str, data: torch.Tensor) -> Case:
    """Scans along the last of two stage loops, with carries over blocks of 8."""
    index = add(mul(add(mul(I, 3), K), M), J)
    built = kernel(
        [Buffer("x", dtype, "r"), Buffer("y", dtype, "w")],
        [ROWS],
        Stage(
            (Loop("k", Const(3)), COLUMNS),
            (Scan("q", name, Load("x", index, dtype)), Store("y", index, Ref("q", dtype))),  # type: ignore[arg-type]
        ),
    )
    dims = {"N": 5, "M": data.numel() // 15}
    return Case(built, {"x": data, "y": torch.zeros_like(data)}, dims, Blocks(2, (8,), 4), dtype not in FLOATS)


def linear_scan_case(starts: bool) -> Case:
    """Linear scans with carries over blocks of 8, from 0 or from a value of the row, to the last ones."""
    index = add(mul(I, M), J)
    x, f = (Load(name, index, "float32") for name in ("x", "f"))
    scan = Scan("q", "linear", x, f, Load("h", I, "float32") if starts else None)
    buffers = [Buffer(name, "float32", "w" if name == "y" else "r") for name in "xfhy"]
    body, q = Stage((COLUMNS,), (scan, Store("y", index, Ref("q", "float32")))), Ref("q", "float32")
    built = kernel([*buffers, Buffer("e", "float32", "w")], [ROWS], body, Stage((), (Store("e", I, q),)))
    data = {"x": normal(5 * 21), "f": normal(5 * 21) / 2, "h": normal(5), "y": zeros(5 * 21), "e": zeros(5)}
    return Case(built, data, {"N": 5, "M": 21}, Blocks(2, (8,), 4))


def transpose_case() -> Case:
    built = kernel(
        [Buffer("x", "int32", "r"), Buffer("y", "int32", "w")],
        [Loop("i", N), Loop("j", M), Loop("k", Const(3))],
        Stage((), (Store("y", add(mul(add(mul(K, M), J), N), I), Load("x", add(mul(AT, 3), K), "int32")),)),
    )
    data = torch.arange(7 * 11 * 3, dtype=torch.int32)
    return Case(built, {"x": data, "y": torch.zeros_like(data)}, {"N": 7, "M": 11}, exact=True)


def padding_case() -> Case:
    """A masked load: y[i] = x[i - 2] inside, else -1.5."""
    inside = op("and", op("ge", I, Const(2)), op("lt", I, add(M, 2)))
    load = Load("x", op("sub", I, Const(2)), "float32", inside, -1.5)
    buffers = [Buffer("x", "float32", "r"), Buffer("y", "float32", "w")]
    built = kernel(buffers, [ROWS], Stage((), (Store("y", I, load),)))
    return Case(built, {"x": normal(30), "y": zeros(34)}, {"N": 34, "M": 30}, exact=True)


def gather_case() -> Case:
    """An index that is loaded, and an int64 comparison with a loop variable."""
    row = Load("ids", I, "int64")
    value = op("where", op("lt", J, row), Load("x", add(mul(row, M), J), "float32"), f32(0))
    built = kernel(
        [Buffer("ids", "int64", "r"), Buffer("x", "float32", "r"), Buffer("y", "float32", "w")],
        [Loop("i", N), Loop("j", M)],
        Stage((), (Store("y", AT, value),)),
    )
    return Case(
        built, {"ids": torch.tensor([4, 0, 9, 3, 3]), "x": normal(10, 6), "y": zeros(30)}, {"N": 5, "M": 6}, exact=True
    )


def scatter_case() -> Case:
    """Rows with values added at places that are data, some of which meet and some of which are outside."""
    place = Load("ids", AT, "int64")
    inside = op("and", op("ge", place, Const(0)), op("lt", place, Const(5)))
    index = add(mul(I, 5), place)
    total = op("add", Load("y", index, "float32", inside), Load("x", AT, "float32", inside))
    copied = add(mul(I, 5), K)
    built = kernel(
        [
            Buffer("z", "float32", "r"), Buffer("ids", "int64", "r"), Buffer("x", "float32", "r"),
            Buffer("y", "float32", "w"),
        ],
        [ROWS],
        Stage((Loop("k", Const(5)),), (Store("y", copied, Load("z", copied, "float32")),)),
        Stage((COLUMNS,), (Store("y", index, total, inside),)),
    )  # fmt: skip
    ids = torch.randint(-1, 7, (7 * 20,), generator=torch.Generator().manual_seed(1))
    data = {"z": normal(35), "ids": ids, "x": normal(7, 20), "y": zeros(35)}
    return Case(built, data, {"N": 7, "M": 20}, exact=True)


def local_case() -> Case:
    """A stage fills scratch, the next reads it reversed."""
    back = op("sub", op("sub", M, Const(1)), J)
    built = kernel(
        [Buffer("x", "float32", "r"), Buffer("y", "float32", "w"), Buffer("tmp", "float32", "local", M)],
        [ROWS],
        Stage((COLUMNS,), (Store("tmp", J, op("mul", Load("x", AT, "float32"), f32(2))),)),
        Stage((COLUMNS,), (Store("y", AT, Load("tmp", back, "float32")),)),
    )
    return Case(built, {"x": normal(6, 40), "y": zeros(240)}, {"N": 6, "M": 40}, exact=True)


def recurrence_case() -> Case:
    """Each iteration reads what the one before stored: y[j] = y[j - 1] / 2 + x[j]."""
    before = Load("y", op("sub", AT, Const(1)), "float32", op("gt", J, Const(0)), 0)
    value = op("add", op("mul", before, f32(0.5)), Load("x", AT, "float32"))
    built = kernel(
        [Buffer("x", "float32", "r"), Buffer("y", "float32", "rw")], [ROWS], Stage((COLUMNS,), (Store("y", AT, value),))
    )
    x = normal(3, 9)
    expected, y = x.view(3, 9).clone(), zeros(27)
    for j in range(1, 9):
        expected[:, j] += expected[:, j - 1] / 2
    return Case(built, {"x": x, "y": y}, {"N": 3, "M": 9}, expected={"y": expected.flatten()})


def scalar_case() -> Case:
    """No outer loop: one number over everything, then its use by a second stage."""
    x = Load("x", J, "float32")
    built = kernel(
        [Buffer("x", "float32", "r"), Buffer("y", "float32", "w"), Buffer("z", "float32", "w")],
        [],
        Stage((COLUMNS,), (Reduce("q", "sum", x),)),
        Stage((), (Store("z", Const(0), Ref("q", "float32")),)),
        Stage((COLUMNS,), (Store("y", J, op("sub", x, op("div", Ref("q", "float32"), Cast(M, "float32")))),)),
    )
    return Case(built, {"x": normal(3000), "y": zeros(3000), "z": zeros(1)}, {"N": 1, "M": 3000})


def column_sum_case() -> Case:
    """Sums over rows for each column, over two stage loops."""
    at = add(mul(add(mul(J, 4), K), N), I)
    built = kernel(
        [Buffer("x", "float32", "r"), Buffer("y", "float32", "w")],
        [ROWS],
        Stage((COLUMNS, Loop("k", Const(4))), (Reduce("q", "sum", Load("x", at, "float32")),)),
        Stage((), (Store("y", I, Ref("q", "float32")),)),
    )
    return Case(built, {"x": normal(50, 4, 33), "y": zeros(33)}, {"N": 33, "M": 50})


def halves_case(dtype: str) -> Case:
    x, y = Load("x", I, dtype), Load("z", I, dtype)
    value = op("mul", op("add", x, y), x)
    buffers = [Buffer("x", dtype, "r"), Buffer("z", dtype, "r"), Buffer("y", dtype, "w")]
    built = kernel(buffers, [ROWS], Stage((), (Store("y", I, value),)))
    kind = getattr(torch, dtype)
    data = {"x": normal(90, dtype=kind), "z": normal(91, dtype=kind)[:90], "y": zeros(90, kind)}
    return Case(built, data, {"N": 90, "M": 1}, exact=True)


def cast_case(source: str, target: str) -> Case:
    built = kernel(
        [Buffer("x", source, "r"), Buffer("y", target, "w")],
        [ROWS],
        Stage((), (Store("y", I, Cast(Load("x", I, source), target)),)),
    )
    data = (normal(60) * 20).to(getattr(torch, source))
    data = data.abs() if target == "uint8" and source != "bool" else data
    return Case(built, {"x": data, "y": zeros(60, getattr(torch, target))}, {"N": 60, "M": 1}, exact=True)


def _with_nan(data: torch.Tensor) -> torch.Tensor:
    data = data.clone()
    data[17] = math.nan
    return data


def _build() -> dict[str, Case]:
    cases = {f"{name}_{dtype}": pointwise_case(name, dtype) for dtype in ("float32", "float64") for name in FLOAT_OPS}
    cases |= {f"{n}_{d}": pointwise_case(n, d) for d in ("int64", "int32", "int8", "uint8") for n in INT_OPS}
    cases |= {f"{name}_bool": pointwise_case(name, "bool") for name in BOOL_OPS}
    types = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"]
    cases |= {f"cast_{a}_{b}": cast_case(a, b) for a in types for b in types if a != b}
    for name in ("sum", "prod", "max", "min", "argmax", "argmin"):
        result = "int64" if name.startswith("arg") else ""
        x, i = normal(6, 50), torch.randint(-3, 3, (300,), generator=torch.Generator().manual_seed(1))
        cases[f"{name}_rows"] = reduce_case(name, "float32", x, 6, result or "float32")
        cases[f"{name}_blocks"] = reduce_case(name, "float64", x.double(), 6, result or "float64", Blocks(4, (16,), 4))
        cases[f"{name}_int"] = reduce_case(name, "int64", i, 6, result or "int64", Blocks(2, (8,), 4))
        cases[f"{name}_int32"] = reduce_case(name, "int32", i.int(), 6, result or "int32")
    for name in ("max", "min", "argmax", "argmin"):
        data, result = _with_nan(normal(4, 30)), "int64" if name.startswith("arg") else "float32"
        cases[f"{name}_nan"] = reduce_case(name, "float32", data, 4, result, Blocks(2, (8,), 4))
    cases["argmax_ties"] = reduce_case("argmax", "float32", zeros(90).fill_(-math.inf), 3, "int64", Blocks(1, (8,), 4))
    for name in ("any", "all"):
        data = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0]]).flatten()
        cases[name] = reduce_case(name, "int64", data, 4, "bool")
    for name in ("sum", "prod", "max", "min"):
        cases[f"scan_{name}"] = scan_case(name, "float32", normal(15, 21))
        cases[f"scan_{name}_int"] = scan_case(name, "int64", torch.arange(15 * 21) % 5 - 2)
    x = normal(5, 70)
    for label, blocks in (("", None), ("_blocks", Blocks(2, (16, 8, 32), 4))):
        cases[f"softmax{label}"] = Case(softmax(), {"x": x, "y": zeros(350)}, {"N": 5, "M": 70}, blocks)
    cases |= {f"scan_linear{['', '_started'][starts]}": linear_scan_case(starts) for starts in (False, True)}
    cases |= {f"halves_{dtype}": halves_case(dtype) for dtype in ("float16", "bfloat16")}
    cases |= {"transpose": transpose_case(), "padding": padding_case(), "gather": gather_case(), "local": local_case()}
    cases["scatter"] = scatter_case()
    cases |= {"recurrence": recurrence_case(), "scalar": scalar_case(), "column_sum": column_sum_case()}
    return cases


CASES = _build()


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, torch.Tensor] | str]:
    """All cases, run by one process in which Triton interprets."""
    payload = pickle.dumps({n: (c.kernel, dict(c.buffers), dict(c.dims), c.blocks) for n, c in CASES.items()})
    command = [sys.executable, str(Path(__file__).with_name("interpret.py"))]
    done = subprocess.run(command, input=payload, capture_output=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    loaded: dict[str, dict[str, torch.Tensor] | str] = pickle.loads(done.stdout)
    return loaded


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.uint16).numpy().copy() if tensor.dtype == torch.bfloat16 else tensor.numpy().copy()


def _from_numpy(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor


def _evaluated(case: Case) -> dict[str, torch.Tensor]:
    """What the loops' own interpreter writes."""
    arrays = {n: _to_numpy(t) for n, t in case.buffers.items()}
    evaluate(case.kernel, arrays, case.dims)
    written = [b.name for b in case.kernel.buffers if b.access in ("w", "rw")]
    return {name: _from_numpy(arrays[name], case.buffers[name].dtype) for name in written}


@pytest.mark.parametrize("name", CASES)
def test_matches_the_loops(name: str, results: dict[str, dict[str, torch.Tensor] | str]) -> None:
    case, found = CASES[name], results[name]
    assert not isinstance(found, str), found
    for name, want in (case.expected or _evaluated(case)).items():
        tolerance = 0.0 if case.exact else 2e-6
        torch.testing.assert_close(found[name], want, equal_nan=True, rtol=tolerance, atol=tolerance)


CUBINS = [
    "softmax", "scan_sum", "scan_max", "argmax_rows", "argmin_int", "any", "sum_blocks", "max_int32", "transpose",
    "padding", "gather", "scatter", "local", "recurrence", "scalar", "column_sum", "halves_bfloat16", "halves_float16",
    "cast_float64_bfloat16", "cast_float32_uint8", "cast_bool_float16", "cast_uint8_float64", "pow_int64", "shr_int8",
    "floordiv_uint8", "not_bool", "prod_int", "scan_prod_int", "max_nan",
]  # fmt: skip


@pytest.mark.parametrize("name", CUBINS)
def test_compiles_to_cubins_without_a_gpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = emit_triton(CASES[name].kernel)
    for arch in (80, 90) if name in ("softmax", "scan_max", "halves_bfloat16") else (90,):
        cubin = compile_cubin(kernel, arch, aligned=kernel.buffers)
        assert cubin.code.startswith(b"\x7fELF") and cubin.symbol == kernel.symbol


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_float_operators_compile(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel that applies every operator, so that the assembler runs once."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    x = Load("x", I, dtype)
    stores = []
    for i, name in enumerate(FLOAT_OPS):
        args = [op("lt", x, x), x, x] if name == "where" else [x] * OPS[name][0]
        value = op(name, *args)
        stores.append(Store("y", add(mul(I, len(FLOAT_OPS)), i), Cast(value, dtype)))
    built = kernel([Buffer("x", dtype, "r"), Buffer("y", dtype, "w")], [ROWS], Stage((), tuple(stores)))
    assert compile_cubin(emit_triton(built), 80).code


def test_launch_description() -> None:
    emitted = emit_triton(softmax(), Blocks(4, (16, 16, 32), 2))
    assert emitted.buffers == ("x", "y") and emitted.dims == ("N", "M")
    assert emitted.constexprs == {"X": 4, "R0": 16, "R1": 16, "R2": 32} and emitted.warps == 2
    assert emitted.programs.evaluate({"N": 9, "M": 1}) == 3
    assert emitted.signature == {"b0": "*fp32", "b1": "*fp32", "n0": "i64", "n1": "i64"}
    (scratch,) = emit_triton(local_case().kernel).scratch
    assert scratch.name == "tmp" and scratch.bytes.evaluate({"N": 6, "M": 40}) == 6 * 40 * 4


def test_scratch_of_missing_points_is_not_read() -> None:
    """Each outer point has its own scratch, so every access needs the mask of outer points too."""
    lines = emit_triton(local_case().kernel).source.splitlines()
    reads = [line for line in lines if "tl.load(local0" in line]
    assert reads and all("xmask" in line for line in reads)


def test_equal_kernels_share_a_symbol_and_others_do_not() -> None:
    assert emit_triton(softmax()) == emit_triton(softmax())
    assert emit_triton(softmax()).symbol != emit_triton(softmax(), Blocks(1, (8, 8, 8), 4)).symbol


def test_missing_operators_are_named_together() -> None:
    x = Load("x", I, "int32")
    bad = op("mul", op("sin", x), op("atan2", x, x))
    built = kernel([Buffer("x", "int32", "r"), Buffer("y", "int32", "w")], [ROWS], Stage((), (Store("y", I, bad),)))
    with pytest.raises(UnsupportedOperator) as error:
        emit_triton(built)
    assert set(error.value.operators) == {"sin on int32", "atan2 on int32"}


def test_sorts_are_refused_by_name() -> None:
    order, sort = Buffer("order", "int64", "local", mul(M, 2)), Sort("order", Load("x", AT, "float32"), M)
    back = Stage((COLUMNS,), (Store("y", AT, Load("order", J, "int64")),))
    built = kernel(
        [Buffer("x", "float32", "r"), Buffer("y", "int64", "w"), order], [ROWS], Stage((COLUMNS,), (sort,)), back
    )
    with pytest.raises(UnsupportedOperator) as error:
        emit_triton(built)
    assert set(error.value.operators) == {"sort over float32"}
