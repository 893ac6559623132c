"""Floating point operations and bytes of a step, for the cost model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ullage.codegen.cpp.templates.attention import in_pairs
from ullage.codegen.loops.ir import DTYPE_BYTES, Apply, Buffer, Expr, Load, LoopKernel, Store, walk
from ullage.codegen.loops.normal import sorts
from ullage.codegen.loops.traverse import values
from ullage.codegen.lower.index import IndexMath
from ullage.codegen.templates import Attention, Conv2d, Gemm, PackedPanels
from ullage.target import Target

Cost = tuple[int, int]
_TRANSCENDENTAL = frozenset({"exp", "exp2", "log", "erf", "tanh", "sigmoid", "pow", "sin", "cos", "log1p", "expm1"})
_TRANSCENDENTAL_FLOPS = 20
_SORT_FLOPS = 200
"""What sorting takes for each element, in operations that run in vectors; roughly, as it depends on the row."""


def step_cost(
    spec: LoopKernel | Gemm | Conv2d | Attention, dim_max: Mapping[str, int], target: Target | None = None
) -> Cost:
    """(flops, bytes moved) at the upper bounds of the dimensions; operations on a word count as one.

    Attention has words on some targets, where products and convolutions have them in their weights.
    """
    math = IndexMath({}, dim_max)

    def size(expr: Expr) -> int:
        return math.bounds(expr)[1] or 1

    if isinstance(spec, Gemm | Conv2d) and spec.later:
        flops, moved = step_cost(spec.alone(), dim_max)
        return flops + sum(_loop_cost(kernel, size)[0] for kernel in spec.later), moved
    match spec:
        case Gemm():
            rows, columns, inner = size(spec.batch) * size(spec.m), size(spec.n), size(spec.k)
            moved = rows * (inner + columns) + columns * inner * (1 if spec.weight else size(spec.batch))
            return 2 * rows * columns * inner // _word(spec), 4 * moved
        case Conv2d():
            pixels = size(spec.batch) * size(spec.out_h) * size(spec.out_w)
            taps = spec.kernel[0] * spec.kernel[1] * spec.in_c // spec.groups
            inputs = size(spec.batch) * size(spec.in_h) * size(spec.in_w) * spec.in_c
            return 2 * pixels * spec.out_c * taps // _word(spec), 4 * (inputs + pixels * spec.out_c + spec.out_c * taps)
        case Attention():
            rows = size(spec.batch) * size(spec.heads) * size(spec.queries)
            width = spec.head_dim + spec.value_dim
            return 2 * rows * size(spec.keys) * width // _pair(spec, target), 4 * rows * width * 2
        case LoopKernel():
            return _loop_cost(spec, size)


def _pair(spec: Attention, target: Target | None) -> int:
    return 2 if target is not None and in_pairs(spec, target) else 1


def _word(spec: Gemm | Conv2d) -> int:
    """Values of k that are multiplied at once; those of codes by two planes."""
    if not isinstance(spec.weight, PackedPanels):
        return 1
    return spec.weight.word if spec.weight.codes is None else spec.weight.word // 2


def _loop_cost(kernel: LoopKernel, size: Callable[[Expr], int]) -> Cost:
    outer = 1
    for loop in kernel.outer:
        outer *= size(loop.extent)
    widths = {b.name: DTYPE_BYTES[b.dtype] for b in kernel.buffers if isinstance(b, Buffer)}
    flops = moved = 0
    for stage in kernel.stages:
        points = outer
        for loop in stage.loops:
            points *= size(loop.extent)
        seen: set[Expr] = {e for s in stage.body for value in values(s) for e in walk(value)}
        for expr in seen:
            if isinstance(expr, Apply) and expr.dtype != "int64":
                flops += points * (_TRANSCENDENTAL_FLOPS if expr.op in _TRANSCENDENTAL else 1)
            elif isinstance(expr, Load):
                moved += points * widths[expr.buffer]
        flops += points * _SORT_FLOPS * sorts(stage)
        moved += points * sum(widths[s.buffer] for s in stage.body if isinstance(s, Store))
    return flops, moved
