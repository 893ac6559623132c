"""Runs emitted kernels through ctypes and compares them with the interpreter."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ullage.codegen.cache import Cache
from ullage.codegen.cpp.emit import emit
from ullage.codegen.cpp.toolchain import build_library
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.evaluate import STORAGE, evaluate, from_bfloat16, to_bfloat16
from ullage.codegen.loops.ir import FLOATS, LoopKernel
from ullage.target import Target, best_isa

_ALL = ("avx512", "avx2", "generic")
ISAS = _ALL[_ALL.index(best_isa().removesuffix("_bf16")) :]
Arrays = dict[str, NDArray[Any]]
_GUARD = 256


class _Args(ctypes.Structure):
    _fields_ = (
        ("p", ctypes.c_void_p),
        ("n", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("thread", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Case:
    """A kernel with inputs and the values of its dimensions."""

    kernel: LoopKernel
    buffers: Arrays
    dims: Mapping[str, int]


def target(isa: str) -> Target:
    """A CPU target with two threads."""
    return Target("cpu", isa, 2)


def library(kernels: Sequence[Kernel], isa: str, cache: Cache | None = None) -> Bare:
    """The kernels, compiled and loaded, without the executor."""
    return Bare(build_library(kernels, target(isa), (), cache))


class Bare:
    """A library of kernels alone."""

    def __init__(self, code: bytes) -> None:
        self._file = os.memfd_create("kernels")
        os.write(self._file, code)
        self._native = ctypes.CDLL(f"/proc/self/fd/{self._file}")
        count = ctypes.c_long.in_dll(self._native, "ullage_kernel_count").value
        self.kernels = tuple((ctypes.c_void_p * count).in_dll(self._native, "ullage_kernels"))


def launch(address: int, kernel: Kernel, buffers: Arrays, dims: Mapping[str, int], one_by_one: bool) -> None:
    """Run all tasks of a kernel in place, in one call or in reverse order one by one."""
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_long, ctypes.c_long)(address)
    pointers = (ctypes.c_void_p * (len(kernel.buffers) + 1))(*(buffers[b].ctypes.data for b in kernel.buffers))
    integers = (ctypes.c_long * (len(kernel.dims) + 1))(*(dims[d] for d in kernel.dims))
    work = np.full(kernel.thread_bytes.evaluate(dims) + 64, 0xEE, np.uint8)
    thread = work.ctypes.data + -work.ctypes.data % 64
    args = _Args(ctypes.addressof(pointers), ctypes.addressof(integers), None, thread)
    tasks = kernel.tasks.evaluate(dims)
    ranges = [(t, t + 1) for t in reversed(range(tasks))] if one_by_one else [(0, tasks)]
    for begin, end in ranges:
        function(ctypes.addressof(args), begin, end)


def guarded(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """A copy between two guard zones; the second result is the whole memory."""
    whole = np.full(array.nbytes + 2 * _GUARD, 0xA5, np.uint8)
    inside = whole[_GUARD : _GUARD + array.nbytes].view(array.dtype)
    inside[:] = array
    return inside, whole


def run_emitted(case: Case, address: int, kernel: Kernel, one_by_one: bool = True) -> Arrays:
    """Buffers after the kernel ran on copies; fails if it wrote outside of them."""
    copies = {name: guarded(values) for name, values in case.buffers.items()}
    launch(address, kernel, {name: inside for name, (inside, _) in copies.items()}, case.dims, one_by_one)
    for name, (_, whole) in copies.items():
        assert (whole[:_GUARD] == 0xA5).all() and (whole[-_GUARD:] == 0xA5).all(), f"wrote outside {name}"
    return {name: inside.copy() for name, (inside, _) in copies.items()}


def run_truth(case: Case, precise: bool) -> Arrays:
    """Buffers after the interpreter ran on copies (float64 for floats if `precise`)."""
    dtypes = {b.name: b.dtype for b in case.kernel.buffers}
    copies = {name: _as_truth(v, dtypes[name], precise) for name, v in case.buffers.items()}
    evaluate(case.kernel, copies, case.dims, precise)
    return copies


def _as_truth(values: NDArray[Any], dtype: str, precise: bool) -> NDArray[Any]:
    if not precise or dtype not in FLOATS:
        return values.copy()
    return as_float(values, dtype)


def as_float(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Numbers of a buffer as float64 (integers too)."""
    stored = dtype == "bfloat16" and values.dtype == np.uint16
    return np.asarray(from_bfloat16(values) if stored else values, np.float64)


def assert_close(case: Case, got: Arrays, want: Arrays, note: str, float_tolerance: float = 3e-6) -> None:
    """Integers and bools are equal, floats agree to a tolerance of their dtype."""
    tolerance = {"float64": 1e-12, "float32": float_tolerance, "float16": 2e-3, "bfloat16": 1.6e-2}
    for b in case.kernel.buffers:
        if b.access == "local":
            continue
        a, t = as_float(got[b.name], b.dtype), as_float(want[b.name], b.dtype)
        allowed = tolerance.get(b.dtype, 0.0)
        np.testing.assert_allclose(a, t, rtol=allowed, atol=allowed, err_msg=f"{note}: buffer {b.name}")


def check_cases(
    cases: Sequence[Case], precise: bool = False, isas: Sequence[str] = ISAS, tolerance: float = 3e-6
) -> None:
    """Every case on every instruction set, tasks in reverse order one by one and all in one call."""
    truths = [run_truth(case, precise) for case in cases]
    for isa in isas:
        kernels = [emit(case.kernel, target(isa)) for case in cases]
        loaded = library(kernels, isa)
        for case, kernel, address, truth in zip(cases, kernels, loaded.kernels, truths, strict=True):
            for one_by_one in (True, False):
                got = run_emitted(case, address, kernel, one_by_one)
                assert_close(case, got, truth, f"{isa}\n{kernel.source}", tolerance)


def filled(dtype: str, count: int, rng: np.random.Generator) -> NDArray[Any]:
    """Values of a dtype that no operator overflows on."""
    if dtype == "bfloat16":
        return to_bfloat16(rng.uniform(-2, 2, count).astype(np.float32))
    if dtype in FLOATS:
        return rng.uniform(-2, 2, count).astype(STORAGE[dtype])
    if dtype == "bool":
        return rng.integers(0, 2, count).astype(np.bool_)
    return rng.integers(0 if dtype == "uint8" else -9, 10, count).astype(STORAGE[dtype])
