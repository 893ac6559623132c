"""GEMM and convolution kernels as fractions of what one core can do, measured beside each of them.

`python -m benchmarks.kernels [--only TEXT] [--rounds N] [--target cpu:avx2]`. Rounds of the kernel and of its limit
alternate, on the thread's own clock; the limit is a loop of fused multiply-adds, or for few rows a read of the weights.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ullage.codegen.cpp.templates.conv import emit_conv
from ullage.codegen.cpp.templates.gemm import emit_gemm
from ullage.codegen.cpp.toolchain import compile_objects, link_shared
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import Apply, Buffer, Const, Expr, Load, Ref, Store, Var
from ullage.codegen.schedule.constants import panel_width
from ullage.codegen.templates import Conv2d, Gemm, PackedPanels
from ullage.plan.sizes import Size
from ullage.target import Target

_CHAINS = 12
_STREAMS = 4
_PEAK_STEPS = 100_000
_ROUND_FLOPS = 1e8
_FEW_ROWS = 8
_M, _N = Var("m"), Var("n")


@dataclass(frozen=True)
class Work:
    """One kernel to be measured; `rows` ≤ 8 marks those that are bound by reading their weights."""

    name: str
    spec: Gemm | Conv2d
    weight: PackedPanels
    rows: int
    flops: float
    inputs: int
    outputs: int


def gemm(m: int, k: int, n: int, target: Target) -> Work:
    """[m, k] · [n, k]ᵀ with bias and ReLU."""
    weight = PackedPanels(n, k, panel_width(n, target), 1, "float32")
    row = Apply("mul", (_M, Const(k)), "int64")
    stores = _bias_relu(n)
    spec = Gemm(_BUFFERS, (), Const(1), Const(m), Const(n), Const(k), "x", row, stores, weight=weight)
    return Work(f"gemm M={m} K={k} N={n}", spec, weight, m, 2.0 * m * n * k, m * k, m * n)


def conv(size: int, in_c: int, out_c: int, kernel: int, stride: int, target: Target) -> Work:
    """A square convolution with "same" padding, bias and ReLU."""
    pad, out = kernel // 2, (size + 2 * (kernel // 2) - kernel) // stride + 1
    k = kernel * kernel * in_c
    weight = PackedPanels(out_c, k, panel_width(out_c, target), 1, "float32")
    spec = Conv2d(
        buffers=_BUFFERS, dims=(), batch=Const(1), in_h=Const(size), in_w=Const(size), in_c=in_c, out_h=Const(out),
        out_w=Const(out), out_c=out_c, kernel=(kernel, kernel), stride=(stride, stride), padding=(pad, pad),
        dilation=(1, 1), groups=1, transposed=False, x_buffer="x", x_stride_b=Const(size * size * in_c),
        x_stride_h=Const(size * in_c), x_stride_w=Const(in_c), weight=weight, epilogue=_bias_relu(out_c),
    )  # fmt: skip
    name = f"conv {kernel}x{kernel}/{stride} {size}x{size} {in_c}->{out_c}"
    return Work(name, spec, weight, out * out, 2.0 * out * out * k * out_c, size * size * in_c, out * out * out_c)


_BUFFERS = (
    Buffer("x", "float32", "r"),
    Buffer("w", "float32", "r"),
    Buffer("bias", "float32", "r"),
    Buffer("y", "float32", "w"),
)


def _bias_relu(n: int) -> tuple[Store, ...]:
    value: Expr = Apply("add", (Ref("acc", "float32"), Load("bias", _N, "float32")), "float32")
    value = Apply("max", (value, Const(0.0, "float32")), "float32")
    return (Store("y", Apply("add", (Apply("mul", (_M, Const(n)), "int64"), _N), "int64"), value),)


def works(target: Target) -> list[Work]:
    """The matrix products of MiniLM, BERT and ViT, and the convolutions of ResNet-50."""
    shapes = [(384, 384), (384, 1152), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768)]
    found = [gemm(m, k, n, target) for m in (128, 197, 1) for k, n in shapes]
    found += [gemm(m, 768, 3072, target) for m in (4, 32)]
    sides = [(224, 3, 64, 7, 2), (56, 64, 64, 3, 1), (28, 128, 128, 3, 1), (14, 256, 256, 3, 1), (7, 512, 512, 3, 1)]
    sides += [(56, 128, 128, 3, 2), (56, 64, 64, 1, 1), (56, 64, 256, 1, 1), (56, 256, 64, 1, 1), (28, 128, 512, 1, 1)]
    sides += [(28, 512, 128, 1, 1), (56, 256, 512, 1, 2), (14, 256, 1024, 1, 1), (14, 1024, 256, 1, 1)]
    sides += [(14, 1024, 2048, 1, 2), (7, 512, 2048, 1, 1), (7, 2048, 512, 1, 1), (112, 3, 64, 3, 1)]
    return found + [conv(*side, target) for side in sides]


class _Args(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("p", "n", "shared", "thread")]


Function = Callable[[int | None, int, int], None]


def limits() -> list[Kernel]:
    """A loop of independent multiply-adds, and one that reads floats."""
    chains = range(_CHAINS)
    peak = ["ull_f32<ULL_LANES> x = ull_splat<ULL_LANES>(0.5f);"]
    peak += [f"ull_f32<ULL_LANES> c{i} = ull_splat<ULL_LANES>({i}.0f);" for i in chains]
    peak += ["for (ull_i64 i = begin; i < end; ++i) {"]
    peak += [f'c{i} = ull_fma<ULL_LANES>(c{i}, x, x); __asm__ volatile("" : "+x"(c{i}));' for i in chains]
    peak += ["}"]
    read = ["const float *p = (const float *)args->p[0];"]
    read += [f"ull_f32<ULL_LANES> s{i} = {{}};" for i in range(_STREAMS)]
    read += [f"for (ull_i64 i = begin; i < end; i += {_STREAMS} * ULL_LANES) {{"]
    read += [f"s{i} += ull_load<float, ULL_LANES>(p + i + {i} * ULL_LANES);" for i in range(_STREAMS)]
    read += ["}", f"s0 = {' + '.join(f's{i}' for i in range(_STREAMS))};", '__asm__ volatile("" : : "x"(s0));']
    return [_loop("limit_peak", peak), _loop("limit_read", read)]


def _loop(symbol: str, lines: Sequence[str]) -> Kernel:
    head = f'extern "C" void {symbol}(const UllageArgs *args, ull_i64 begin, ull_i64 end) {{\n'
    return Kernel(symbol, head + "\n".join(lines) + "\n}\n", ("simd.h",), ("p",), (), Size((1,)))


def compiled(kernels: Sequence[Kernel], target: Target) -> dict[str, Function]:
    """Callable kernels by symbol."""
    symbols = list(dict.fromkeys(kernel.symbol for kernel in kernels))
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(link_shared(compile_objects(kernels, target), symbols, target))
        file.flush()
        table = (ctypes.c_void_p * len(symbols)).in_dll(ctypes.CDLL(file.name), "ullage_kernels")
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_long, ctypes.c_long)
    return {symbol: prototype(address) for symbol, address in zip(symbols, table, strict=True)}


def aligned(floats: int, value: float) -> NDArray[np.float32]:
    """Floats that start at a cache line."""
    memory = np.full(floats + 16, value, np.float32)
    start = -(memory.ctypes.data // 4) % 16
    return memory[start : start + floats]


class Bench:
    """Runs kernels of one target beside their limits."""

    def __init__(self, target: Target, works: Sequence[Work]) -> None:
        self.target = target
        self.kernels = [_emit(work.spec, target) for work in works]
        self.functions = compiled([*self.kernels, *limits()], target)

    def seconds(self, function: Function, args: int | None, tasks: int, repeats: int) -> float:
        """CPU seconds of one run."""
        start = time.thread_time()
        for _ in range(repeats):
            function(args, 0, tasks)
        return (time.thread_time() - start) / repeats

    def peak(self) -> float:
        """Floating-point operations per second of the loop of multiply-adds."""
        flops = 2.0 * _CHAINS * self.target.lanes * _PEAK_STEPS
        return flops / self.seconds(self.functions["limit_peak"], None, _PEAK_STEPS, 1)

    def measure(self, work: Work, kernel: Kernel, rounds: int) -> str:
        """One line: the kernel's rate and its fraction of the limit (medians over the rounds)."""
        w = aligned(work.weight.tiles * work.weight.tile_bytes // 4, 0.01)
        arrays = {"x": aligned(work.inputs, 0.5), "w": w, "bias": aligned(work.weight.n, 0.0)}
        arrays["y"] = aligned(work.outputs, 0.0)
        thread = aligned(max(16, kernel.thread_bytes.evaluate({}) // 4), 0.0)
        pointers = (ctypes.c_void_p * len(kernel.buffers))(*[arrays[name].ctypes.data for name in kernel.buffers])
        numbers = (ctypes.c_long * 2)(0, work.weight.tiles)
        args = _Args(ctypes.addressof(pointers), ctypes.addressof(numbers), 0, thread.ctypes.data)
        only_w = (ctypes.c_void_p * 1)(w.ctypes.data)
        read = _Args(ctypes.addressof(only_w), ctypes.addressof(numbers), 0, thread.ctypes.data)
        tasks, repeats = kernel.tasks.evaluate({}) * work.weight.tiles, max(1, int(_ROUND_FLOPS / work.flops / 4))
        rates, limits = [], []
        for _ in range(rounds):
            if work.rows <= _FEW_ROWS:
                floats = w.size // (_STREAMS * self.target.lanes) * _STREAMS * self.target.lanes
                whole = self.seconds(self.functions["limit_read"], ctypes.addressof(read), floats, repeats)
                limits.append(w.nbytes / whole)
            else:
                limits.append(self.peak())
            amount = w.nbytes if work.rows <= _FEW_ROWS else work.flops
            rates.append(amount / self.seconds(self.functions[kernel.symbol], ctypes.addressof(args), tasks, repeats))
        fraction = statistics.median(rate / limit for rate, limit in zip(rates, limits, strict=True))
        unit = "GB/s" if work.rows <= _FEW_ROWS else "GFLOP/s"
        best = f"{max(rates) / 1e9:7.1f} of {max(limits) / 1e9:6.1f} {unit} at best"
        return f"{work.name:34} {fraction:6.1%} of the limit (median), {best}"


def _emit(spec: Gemm | Conv2d, target: Target) -> Kernel:
    return emit_gemm(spec, target) if isinstance(spec, Gemm) else emit_conv(spec, target)


def main() -> int:
    """Print one line per kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="measure kernels whose name contains this")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--target", default="cpu")
    options = parser.parse_args()
    target = Target.parse(options.target)
    chosen = [work for work in works(target) if options.only in work.name]
    bench = Bench(target, chosen)
    for work, kernel in zip(chosen, bench.kernels, strict=True):
        print(bench.measure(work, kernel, options.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
