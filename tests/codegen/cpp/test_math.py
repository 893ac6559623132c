"""Operators at special values, powers, integer division and conversions (errors: test_math_errors.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.codegen.cpp.loop_runner import ISAS, Bare, Case, launch, run_emitted, target
from ullage.codegen.cpp.accuracy import ulps
from ullage.codegen.cpp.emit import emit
from ullage.codegen.cpp.toolchain import build_library
from ullage.codegen.loops.evaluate import STORAGE
from ullage.codegen.loops.ir import Apply, Buffer, Cast, Const, Load, Loop, LoopKernel, Stage, Store, Var


def run_binary(op: str, a: NDArray[Any], b: NDArray[Any], isa: str) -> NDArray[Any]:
    dtype = str(a.dtype)
    loads = (Load("a", Var("i"), dtype), Load("b", Var("i"), dtype))
    kernel = LoopKernel(
        (Buffer("a", dtype, "r"), Buffer("b", dtype, "r"), Buffer("y", dtype, "w")),  # type: ignore[arg-type]
        (),
        (Loop("i", Const(len(a))),),
        (Stage((), (Store("y", Var("i"), Apply(op, loads, dtype)),)),),
    )
    emitted = emit(kernel, target(isa))
    loaded = Bare(build_library([emitted], target(isa)))
    y = np.empty_like(a)
    launch(loaded.kernels[0], emitted, {"a": a, "b": b, "y": y}, {}, one_by_one=False)
    return y


SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0, 2.5, 1e-40, 1e30, -1e30, np.inf, -np.inf, np.nan, 16777216.0, 7.0)


@pytest.mark.parametrize("op", ["pow", "atan2", "fmod", "max", "min"])
def test_two_argument_functions_at_special_values(op: str) -> None:
    a, b = (x.reshape(-1).astype(np.float32) for x in np.meshgrid(SPECIAL, SPECIAL))
    truth = {"pow": np.power, "atan2": np.arctan2, "fmod": np.fmod, "max": np.maximum, "min": np.minimum}[op]
    with np.errstate(all="ignore"):
        wanted = truth(a.astype(np.float64), b.astype(np.float64))
    for isa in ISAS:
        assert ulps(run_binary(op, a, b, isa), wanted).max() <= 1


def test_one_argument_operators_at_special_values() -> None:
    """Infinities, NaN and signed zeros through the operators that are not elementary functions."""
    x = np.array(SPECIAL, np.float32)
    truths = {
        "sign": np.where(np.isnan(x), 0, np.sign(x)), "abs": np.abs(x), "neg": -x, "isnan": np.isnan(x),
        "isinf": np.isinf(x),
    }  # fmt: skip
    for name, truth in truths.items():
        dtype = "bool" if truth.dtype == np.bool_ else "float32"
        store = Store("y", Var("i"), Apply(name, (Load("x", Var("i"), "float32"),), dtype))
        buffers = (Buffer("x", "float32", "r"), Buffer("y", dtype, "w"))
        kernel = LoopKernel(buffers, (), (Loop("i", Const(len(x))),), (Stage((), (store,)),))
        for isa in ISAS:
            emitted = emit(kernel, target(isa))
            y = np.zeros(len(x), truth.dtype)
            loaded = Bare(build_library([emitted], target(isa)))
            launch(loaded.kernels[0], emitted, {"x": x, "y": y}, {}, one_by_one=False)
            assert np.array_equal(y, truth, equal_nan=y.dtype != np.bool_), name


def test_powers_are_rounded_once() -> None:
    rng = np.random.default_rng(1)
    a = rng.uniform(0, 3, 4096).astype(np.float32)
    b = rng.uniform(-90, 90, 4096).astype(np.float32)
    wanted = np.power(a.astype(np.float64), b.astype(np.float64))
    for isa in ISAS:
        assert ulps(run_binary("pow", a, b, isa), wanted).max() < 0.51


def test_integer_division_never_traps() -> None:
    a = np.array([-(2**31), 2**31 - 1, 7, -7, 7, -7, 0, 5], np.int32)
    b = np.array([-1, 0, 2, 2, -2, -2, 0, 0], np.int32)
    assert run_binary("floordiv", a, b, ISAS[0]).tolist() == [-(2**31), 0, 3, -4, -4, 3, 0, 0]
    assert run_binary("mod", a, b, ISAS[0]).tolist() == [0, 0, 1, 1, -1, -1, 0, 0]
    assert run_binary("truncdiv", a, b, ISAS[0]).tolist() == [-(2**31), 0, 3, -3, -3, 3, 0, 0]


def cast_case(values: NDArray[Any], source: str, results: Sequence[str]) -> Case:
    """Casts of all values to the dtypes of `results`, each into the buffer of its name."""
    x, i = Load("x", Var("i"), source), Var("i")
    outputs = {name: np.zeros(len(values), STORAGE[name]) for name in results}
    kernel = LoopKernel(
        (Buffer("x", source, "r"), *(Buffer(name, name, "w") for name in results)),
        (),
        (Loop("i", Const(len(values))),),
        (Stage((), tuple(Store(name, i, Cast(x, name)) for name in results)),),
    )
    return Case(kernel, {"x": values, **outputs}, {})


def half_cases() -> list[Case]:
    """Every float16 to float32; those, what lies between neighbours, and what lies nearby to both half types."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[~np.isnan(halves)]
    finite = halves[np.isfinite(halves)].astype(np.float32)
    between = np.concatenate([finite, (finite[:-1] + finite[1:]) / 2, finite * np.float32(1.0002)])
    return [cast_case(halves, "float16", ["float32"]), cast_case(between, "float32", ["float16", "bfloat16"])]


def assert_halves_exact(case: Case, got: Mapping[str, NDArray[Any]]) -> None:
    """All bits are those of the nearest value, of two the even one."""
    for name in got.keys() - {"x"}:
        wanted = torch.from_numpy(case.buffers["x"]).to(getattr(torch, name))
        assert torch.equal(torch.from_numpy(got[name]).view(wanted.dtype), wanted), name


def test_half_conversions_are_exact_for_every_pattern() -> None:
    for isa in ISAS:
        cases = half_cases()
        kernels = [emit(case.kernel, target(isa)) for case in cases]
        for case, kernel, address in zip(
            cases, kernels, Bare(build_library(kernels, target(isa))).kernels, strict=True
        ):
            assert_halves_exact(case, run_emitted(case, address, kernel))
