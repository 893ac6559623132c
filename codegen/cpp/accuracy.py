"""How far the elementary functions are from the truth: `python -m ullage.codegen.cpp.accuracy [isa]` prints a table.

Errors are in units in the last place of float32, against float64 results of the platform, over random bit patterns
(every exponent, denormals, infinities, NaNs) and dense ranges.
"""

from __future__ import annotations

import ctypes
import math
import sys
from _ctypes import dlclose
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ullage.codegen.cpp.toolchain import build_library
from ullage.codegen.kernel import Kernel
from ullage.plan.sizes import Size
from ullage.target import Target, best_isa

Array = NDArray[Any]
_MISMATCH = math.inf


def _sigmoid(x: Array) -> Array:
    z = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, z, 1.0) / (1.0 + z))


FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log1p": np.log1p,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "sigmoid": _sigmoid,
    "erf": np.vectorize(math.erf, otypes=[np.float64]), "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x, "round": np.rint, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Worst:
    """The largest error of a function in ulp (infinite where one is NaN or infinite and the other not), and where."""

    function: str
    ulp: float
    argument: float


def arguments(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Random bit patterns, the smallest denormals, special values, and dense uniform ranges."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, count, dtype=np.uint32)
    special = np.array([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF, 0x00800000], np.uint32)
    patterns = np.concatenate([bits, np.arange(1, 1025, dtype=np.uint32), special]).view(np.float32)
    dense = [rng.uniform(-r, r, count // 2).astype(np.float32) for r in (1, 10, 105)]
    values = np.concatenate([patterns, *dense])
    return np.concatenate([values, np.zeros(-len(values) % 16, np.float32)])


def ulps(got: NDArray[np.float32], truth: Array) -> Array:
    """Errors in float32 ulp of the truth."""
    with np.errstate(all="ignore"):
        rounded = truth.astype(np.float32)
        spacing = np.abs(np.spacing(np.where(np.isfinite(rounded), rounded, np.float32(1)))).astype(np.float64)
        error = np.abs(got.astype(np.float64) - truth) / spacing
    both = (np.isnan(got) & np.isnan(truth)) | (got == rounded)
    ordinary = np.isfinite(got) & np.isfinite(rounded)
    return np.where(ordinary, error, np.where(both, 0.0, _MISMATCH))


def _function_kernel(name: str, target: Target) -> Kernel:
    n = target.lanes
    body = f"ull_store<float, {n}>(y + i, ull_{name}<{n}>(ull_load<float, {n}>(x + i)));"
    text = f"""extern "C" void accuracy_{name}(const UllageArgs *args, ull_i64, ull_i64 end) {{
    const float *x = (const float *)args->p[0];
    float *y = (float *)args->p[1];
    for (ull_i64 i = 0; i < end; i += {n}) {body}
}}
"""
    return Kernel(f"accuracy_{name}", text, ("simd.h", "math.h"), ("x", "y"), (), Size((1,)))


def measure(target: Target, count: int = 1 << 20) -> list[Worst]:
    """The worst error of every function on this machine, which must be able to run the target."""
    code = build_library([_function_kernel(name, target) for name in FUNCTIONS], target)
    values = arguments(count)
    results = _run_all(code, values)
    with np.errstate(all="ignore"):
        wide = values.astype(np.float64)
    worst = []
    for (name, truth), got in zip(FUNCTIONS.items(), results, strict=True):
        with np.errstate(all="ignore"):
            errors = ulps(got, truth(wide))
        at = int(np.argmax(errors))
        worst.append(Worst(name, float(errors[at]), float(values[at])))
    return worst


def _run_all(code: bytes, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    with TemporaryDirectory(prefix="ullage-") as folder:
        path = Path(folder) / "accuracy.so"
        path.write_bytes(code)
        native = ctypes.CDLL(str(path))
    table = (ctypes.c_void_p * len(FUNCTIONS)).in_dll(native, "ullage_kernels")
    results = [_run(address, values) for address in table if address]
    dlclose(native._handle)
    return results


def _run(address: int, values: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.empty_like(values)
    pointers = (ctypes.c_void_p * 2)(values.ctypes.data, out.ctypes.data)
    args = (ctypes.c_void_p * 4)(ctypes.addressof(pointers), None, None, None)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_long, ctypes.c_long)(address)(
        ctypes.addressof(args), 0, len(values)
    )
    return out


def main() -> None:
    """Print the table for the instruction set given as argument, or for the best one of this machine."""
    isa = sys.argv[1] if len(sys.argv) > 1 else best_isa()
    print(f"{'function':<12}{'max ulp':>9}  at    ({isa})")
    for row in measure(Target("cpu", isa, 1)):
        print(f"{row.function:<12}{row.ulp:>9.3f}  {row.argument:.9g}")


if __name__ == "__main__":
    main()
