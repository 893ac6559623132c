"""How far the elementary functions are from the truth, and how far they may be: one table of bounds.

Errors are in units in the last place (ulp) of the correctly rounded float32 result, against float64 results of the
platform. `python -m benchmarks.vector_math` prints what is measured; a test holds every instruction set to the bounds.
"""

from __future__ import annotations

import ctypes
import math
from _ctypes import dlclose
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ullage.codegen.cpp.toolchain import build_library
from ullage.codegen.kernel import Kernel
from ullage.plan.sizes import Size
from ullage.target import Target

Array = NDArray[Any]
Floats = NDArray[np.float32]
_MISMATCH = math.inf


@dataclass(frozen=True, slots=True)
class Function:
    """A function's truth on float64, the largest error in ulp on any instruction set, and its special values."""

    truth: Callable[..., Array]
    limit_ulp: float
    specials: str
    operands: int = 1


def _sigmoid(x: Array) -> Array:
    z = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, z, 1.0) / (1.0 + z))


_ERF = np.vectorize(math.erf, otypes=[np.float64])
_ODD = "±0 at ±0"
FUNCTIONS: Mapping[str, Function] = {
    "exp": Function(np.exp, 1.1, "0 at −∞, ∞ at ∞; 0 and ∞ beyond float32"),
    "exp2": Function(np.exp2, 1.15, "0 at −∞, ∞ at ∞; 0 and ∞ beyond float32"),
    "expm1": Function(np.expm1, 1.75, f"{_ODD}, −1 at −∞, ∞ at ∞"),
    "log": Function(np.log, 0.85, "−∞ at ±0, NaN below 0, ∞ at ∞"),
    "log2": Function(np.log2, 1.6, "−∞ at ±0, NaN below 0, ∞ at ∞"),
    "log1p": Function(np.log1p, 1.55, f"{_ODD}, −∞ at −1, NaN below −1, ∞ at ∞"),
    "sin": Function(np.sin, 1.55, f"{_ODD}, NaN at ±∞"),
    "cos": Function(np.cos, 1.55, "NaN at ±∞"),
    "tan": Function(np.tan, 1.75, f"{_ODD}, NaN at ±∞"),
    "asin": Function(np.arcsin, 1.45, f"{_ODD}, NaN beyond ±1"),
    "acos": Function(np.arccos, 1.15, "+0 at 1, NaN beyond ±1"),
    "atan": Function(np.arctan, 1.95, f"{_ODD}, ±π/2 at ±∞"),
    "sinh": Function(np.sinh, 1.7, f"{_ODD}, ±∞ at ±∞ and beyond float32"),
    "cosh": Function(np.cosh, 1.6, "∞ at ±∞ and beyond float32"),
    "tanh": Function(np.tanh, 1.5, f"{_ODD}, ±1 at ±∞"),
    "sigmoid": Function(_sigmoid, 1.85, "0 at −∞, 1 at ∞; denormal results are kept"),
    "erf": Function(_ERF, 2.0, f"{_ODD}, ±1 at ±∞"),
    "sqrt": Function(np.sqrt, 0.5, f"{_ODD}, NaN below 0, ∞ at ∞"),
    "rsqrt": Function(lambda x: 1 / np.sqrt(x), 1.5, "±∞ at ±0, NaN below 0, 0 at ∞"),
    "reciprocal": Function(lambda x: 1 / x, 0.5, "±∞ at ±0, ±0 at ±∞"),
    "round": Function(np.rint, 0, "exact; ties to even; zeros keep the sign"),
    "floor": Function(np.floor, 0, "exact; zeros keep the sign"),
    "ceil": Function(np.ceil, 0, "exact; zeros keep the sign"),
    "trunc": Function(np.trunc, 0, "exact; zeros keep the sign"),
    "pow": Function(np.power, 0.51, "as C's `pow`", operands=2),
    "atan2": Function(np.arctan2, 0.51, "as C's `atan2`", operands=2),
    "fmod": Function(np.fmod, 0, "exact, as C's `fmod`", operands=2),
}


@dataclass(frozen=True, slots=True)
class Worst:
    """A function's largest error in ulp (infinite where one is NaN or infinite and the other not), and where it is."""

    function: str
    isa: str
    ulp: float
    arguments: tuple[float, ...]


# ---- arguments ------------------------------------------------------------------------------------------------
_SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0, 2.5, 1e-40, 1e30, -1e30, math.inf, -math.inf, math.nan, 2.0**24, 7.0)
# Where methods change, results leave the range of float32, or turns begin and end; both signs are taken.
_EDGES = (
    2.0**-25, 1e-30, math.tan(math.pi / 8), math.tan(3 * math.pi / 8), math.sin(math.pi / 2 - 1), math.sqrt(0.5), 0.25,
    0.5, 0.55, 0.92, 1.0, math.sqrt(2), 2.0, 3.93, 4.0, 9.1, 10.0, 16.64, 17.33, 20.0, 87.3365, 88.0297, 88.7228, 89.0,
    89.4160, 90.0, 103.2789, 103.9721, 104.5, 105.0, 120.0, 126.0, 127.0, 128.0, 129.0, 149.0, 150.0, 151.0, 2.0**12,
    2.0**16, *(k * math.pi / 4 for k in (*range(1, 129), 5215, 5216, 83443, 83444)),
)  # fmt: skip
# The worst that a search through every float of the octaves with the largest errors found.
_HARD = (
    8.94069672e-08, 0.000862196786, 0.215143412, 0.377863556, 0.385741323, 0.410614669, 0.443377048, 0.44815883,
    0.49583602, 0.541706264, 0.548486471, 0.55041647, 0.626106143, 0.91714257, 1.00618589, 1.09950495, 1.10477149,
    1.10576379, 1.41061473, 1.41284192, 1.4138875, 1.41824055, 4.54249573, 4.54465246, 5.84937668, 5.85590219,
    126.476227, 168.106461, 483.930573, 625.051819, 1228.86768, 1857.78381, 2289.15186, 62180.0977,
)  # fmt: skip
_NEIGHBOURS = 32


def arguments(mantissas: int, seed: int = 0) -> Floats:
    """Both signs of every exponent (denormals, infinities and NaNs too) with so many mantissas, edges, dense ranges."""
    rng = np.random.default_rng(seed)
    exponents = np.arange(512, dtype=np.uint32)[:, None] << np.uint32(23)
    ends = np.tile(np.array([0, 1, 2, 0x7FFFFE, 0x7FFFFF], np.uint32), (512, 1))
    inner = rng.integers(0, 1 << 23, (512, mantissas), dtype=np.uint32)
    patterns = (exponents | np.concatenate([ends, inner], 1)).reshape(-1)
    edges = np.array(_EDGES + _HARD, np.float32).view(np.uint32)[:, None] + np.arange(-_NEIGHBOURS, _NEIGHBOURS).astype(
        np.uint32
    )
    near = np.concatenate([edges, edges | np.uint32(1 << 31)]).reshape(-1)
    dense = [rng.uniform(-r, r, mantissas * 128).astype(np.float32) for r in (1, 10, 105)]
    return np.concatenate([patterns.view(np.float32), near.view(np.float32), *dense])


@dataclass(frozen=True, slots=True)
class Sample:
    """A function's arguments and its float64 results."""

    function: str
    operands: tuple[Floats, ...]
    truth: Array

    def worst(self, got: Floats, isa: str) -> Worst:
        """The largest error of float32 results that an instruction set gave."""
        errors = ulps(got, self.truth)
        at = int(np.argmax(errors))
        return Worst(self.function, isa, float(errors[at]), tuple(float(x[at]) for x in self.operands))


def sample(function: str, mantissas: int, seed: int = 0) -> Sample:
    """Arguments of a function with so many mantissas per exponent and sign, and their results."""
    operands = _operands(function, mantissas, seed)
    with np.errstate(all="ignore"):
        return Sample(function, operands, FUNCTIONS[function].truth(*(x.astype(np.float64) for x in operands)))


def _operands(function: str, mantissas: int, seed: int) -> tuple[Floats, ...]:
    """Arguments of a function: all of them, or pairs that are shuffled, special, and moderate."""
    x = arguments(mantissas, seed)
    if FUNCTIONS[function].operands == 1:
        return (_padded(x),)
    rng = np.random.default_rng(seed + 1)
    special = [v.reshape(-1) for v in np.meshgrid(*[np.array(_SPECIAL, np.float32)] * 2)]
    moderate = [rng.uniform(*r, len(x) // 4).astype(np.float32) for r in ((0, 3), (-90, 90))]
    pairs = ((x[::4], rng.permutation(x)[::4]), special, moderate)
    return tuple(_padded(np.concatenate(side)) for side in zip(*pairs, strict=True))


def _padded(x: Floats) -> Floats:
    return np.concatenate([x, np.zeros(-len(x) % 16, np.float32)])


# ---- errors ---------------------------------------------------------------------------------------------------
def ulps(got: Floats, truth: Array) -> Array:
    """Errors in float32 ulp of the truth; a NaN, an infinity or the sign of a zero that differs is infinitely wrong."""
    with np.errstate(all="ignore"):
        rounded = truth.astype(np.float32)
        spacing = np.abs(np.spacing(np.where(np.isfinite(rounded), rounded, np.float32(1)))).astype(np.float64)
        error = np.abs(got.astype(np.float64) - truth) / spacing
    both = (np.isnan(got) & np.isnan(truth)) | (got == rounded)
    ordinary = np.isfinite(got) & np.isfinite(rounded)
    turned = (got == 0) & (rounded == 0) & (np.signbit(got) != np.signbit(rounded))
    return np.where(turned, _MISMATCH, np.where(ordinary, error, np.where(both, 0.0, _MISMATCH)))


def measure(targets: Sequence[Target], mantissas: int, seed: int = 0) -> list[Worst]:
    """The worst error of every function on every target; this machine must be able to run them."""
    worst = []
    with _loaded(targets) as kernels:
        for name in FUNCTIONS:
            made = sample(name, mantissas, seed)
            worst += [made.worst(_run(kernels[t.isa, name], made.operands), t.isa) for t in targets]
    return worst


# ---- kernels --------------------------------------------------------------------------------------------------
def function_kernel(name: str, target: Target) -> Kernel:
    """A kernel of one task over the buffers `x0`, …, `y` that applies a function to the first `end` elements."""
    n = target.lanes
    inputs = [f"x{k}" for k in range(FUNCTIONS[name].operands)]
    pointers = "".join(f"    const float *{x} = (const float *)args->p[{k}];\n" for k, x in enumerate(inputs))
    loads = ", ".join(f"ull_load<float, {n}>({x} + i)" for x in inputs)
    text = f"""extern "C" void accuracy_{name}(const UllageArgs *args, ull_i64, ull_i64 end) {{
{pointers}    float *y = (float *)args->p[{len(inputs)}];
    for (ull_i64 i = 0; i < end; i += {n}) ull_store<float, {n}>(y + i, ull_{name}<{n}>({loads}));
}}
"""
    return Kernel(f"accuracy_{name}", text, ("simd.h", "math.h"), (*inputs, "y"), (), Size((1,)))


@contextmanager
def _loaded(targets: Sequence[Target]) -> Iterator[dict[tuple[str, str], int]]:
    """Addresses of the kernels by instruction set and function."""
    libraries = [_load(build_library([function_kernel(f, t) for f in FUNCTIONS], t)) for t in targets]
    try:
        yield {
            (target.isa, name): address
            for target, library in zip(targets, libraries, strict=True)
            for name, address in zip(FUNCTIONS, _addresses(library), strict=True)
        }
    finally:
        for library in libraries:
            dlclose(library._handle)


def _addresses(library: ctypes.CDLL) -> list[int]:
    return [a for a in (ctypes.c_void_p * len(FUNCTIONS)).in_dll(library, "ullage_kernels") if a is not None]


def _load(code: bytes) -> ctypes.CDLL:
    with TemporaryDirectory(prefix="ullage-") as folder:
        path = Path(folder) / "accuracy.so"
        path.write_bytes(code)
        return ctypes.CDLL(str(path))


def _run(address: int, operands: Sequence[Floats]) -> Floats:
    out = np.empty_like(operands[0])
    pointers = (ctypes.c_void_p * (len(operands) + 1))(*(x.ctypes.data for x in (*operands, out)))
    args = (ctypes.c_void_p * 4)(ctypes.addressof(pointers), None, None, None)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_long, ctypes.c_long)(address)
    function(ctypes.addressof(args), 0, len(out))
    return out
