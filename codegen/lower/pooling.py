"""Lowerings of pooling over windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from torch.fx import Node

from ullage.codegen.loops.ir import DTYPE_BYTES, FLOATS, Const, Expr, Loop, ReduceOp
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.formulas import (
    op,
)
from ullage.codegen.lower.index import ONE, ZERO, IndexMath, constant
from ullage.codegen.lower.movement import guard
from ullage.codegen.lower.reductions import count, finish, first_tensor, reduce_dims
from ullage.codegen.lower.shapes import Index, Shape, shape_of
from ullage.codegen.lower.table import TABLE, argument, aten, fake, float_of, int_of, operand, result_dtype
from ullage.codegen.lower.values import Lazy, NotFusable, cast, compute_dtype


def _pair(value: object, default: Sequence[int]) -> tuple[int, ...]:
    if isinstance(value, Sequence) and value:
        numbers = [int_of(v) for v in value]
        return tuple(numbers * len(default)) if len(numbers) == 1 else tuple(numbers)
    return tuple([int(value)] * len(default)) if isinstance(value, int) else tuple(default)


@TABLE.register("reduce", aten.max_pool2d, aten.max_pool2d_with_indices, aten.max_pool1d)
def _max_pool(builder: Builder, node: Node) -> Lazy:
    source, out = operand(builder, node.args[0]), shape_of(first_tensor(node))
    rank = 1 if node.target is aten.max_pool1d.default else 2
    args = [*node.args[2:], None, None, None]
    given = _pair(node.args[1], (1,) * rank)
    stride, padding, dilation = _pair(args[0], given), _pair(args[1], (0,) * rank), _pair(args[2], (1,) * rank)
    pool = _Geometry(_clipped_kernel(source, out, given, padding), stride, padding, dilation)
    return _pooled(builder, node, "max", _window(builder, source, out, pool, _lowest(source.dtype)))


def _lowest(dtype: str) -> float:
    if dtype in FLOATS:
        return -inf
    return 0 if dtype in ("uint8", "bool") else -(2 ** (8 * DTYPE_BYTES[dtype] - 1))


def _clipped_kernel(source: Lazy, out: Shape, kernel: Sequence[int], padding: Sequence[int]) -> tuple[int, ...]:
    """Windows cut to the input where there is a single one without padding (ceil mode allows larger ones)."""
    lead = len(out) - len(kernel)
    limits = [source.shape[lead + d] for d in range(len(kernel))]
    return tuple(
        min(k, int_of(limit.value)) if out[lead + d] == ONE and padding[d] == 0 and isinstance(limit, Const) else k
        for d, (k, limit) in enumerate(zip(kernel, limits, strict=True))
    )


Window = tuple[Shape, tuple[Loop, ...], Callable[[Index], Expr]]


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Kernel, stride, padding and dilation of each pooled dimension (the last ones of the tensor)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def _window(builder: Builder, source: Lazy, out: Shape, pool: _Geometry, outside: float) -> Window:
    """The loops over a window and the element at a step of it, `outside` where it lies in the padding."""
    math, lead = builder.math, len(out) - len(pool.kernel)
    loops = tuple(Loop(builder.fresh("k"), Const(k)) for k in pool.kernel)
    steps = [math.declare(loop.var, loop.extent) for loop in loops]

    def at(row: Index) -> Expr:
        index, tests = list(row), []
        for d, step in enumerate(steps):
            start = math.mul(row[lead + d], Const(pool.stride[d]))
            moved = math.add(start, math.mul(step, Const(pool.dilation[d])), Const(-pool.padding[d]))
            index[lead + d] = moved
            tests += _inside(math, moved, out[lead + d], source.shape[lead + d], pool, d)
        value = source.at(tuple(index))
        return guard(value, _all(tests), outside) if tests else value

    return out, loops, at


def _inside(math: IndexMath, moved: Expr, out: Expr, size: Expr, pool: _Geometry, d: int) -> list[Expr]:
    """The tests that keep a moved index inside, without those that always hold."""
    tests = [op("ge", moved, ZERO)] if pool.padding[d] else []
    reach = Const((pool.kernel[d] - 1) * pool.dilation[d] - pool.padding[d])
    last = math.add(math.mul(math.sub(out, ONE), Const(pool.stride[d])), reach)
    beyond = math.bounds(math.sub(last, size))[1]
    return tests if beyond is not None and beyond < 0 else [*tests, op("lt", moved, size)]


def _pooled(
    builder: Builder, node: Node, kind: ReduceOp, window: Window, scale: Callable[[Index], Expr] | None = None
) -> Lazy:
    out, loops, at = window
    row = builder.set_rows(out)
    dtype = compute_dtype(result_dtype(node))
    ref = builder.reduce(kind, cast(at(row), dtype), loops, dtype)
    reduced = builder.at_row(out, ref)
    if scale is None:
        return Lazy(out, result_dtype(node), reduced.at)
    return Lazy(out, result_dtype(node), lambda i: op("div", reduced.at(i), scale(i)))


@TABLE.register("reduce", aten.avg_pool2d, aten.avg_pool1d)
def _avg_pool(builder: Builder, node: Node) -> Lazy:
    source, out = operand(builder, node.args[0]), shape_of(fake(node))
    rank = 1 if node.target is aten.avg_pool1d.default else 2
    given = _pair(node.args[1], (1,) * rank)
    stride, padding = _pair(argument(node, 2, "stride"), given), _pair(argument(node, 3, "padding"), (0,) * rank)
    kernel = _clipped_kernel(source, out, given, padding)
    pool = _Geometry(kernel, stride, padding, (1,) * rank)
    include = argument(node, 5, "count_include_pad", True) is not False
    override, dtype = argument(node, 6, "divisor_override"), compute_dtype(source.dtype)

    def size(index: Index) -> Expr:
        if override is not None:
            return Const(float_of(override), dtype)
        return cast(_window_size(builder.math, index, source.shape, pool, include), dtype)

    return _pooled(builder, node, "sum", _window(builder, source, out, pool, 0.0), size)


def _window_size(math: IndexMath, index: Index, shape: Shape, pool: _Geometry, include: bool) -> Expr:
    """The number of elements that an average is taken over, with or without the padding."""
    total: Expr = ONE
    lead = len(index) - len(pool.kernel)
    for d, (kernel, stride, padding) in enumerate(zip(pool.kernel, pool.stride, pool.padding, strict=True)):
        start = math.add(math.mul(index[lead + d], Const(stride)), Const(-padding))
        limit = math.add(shape[lead + d], Const(padding if include else 0))
        end = op("min", math.add(start, Const(kernel)), limit)
        low = start if include else op("max", start, ZERO)
        total = op("mul", total, op("sub", end, low))
    return total


@TABLE.register("reduce", aten.adaptive_avg_pool2d, aten._adaptive_avg_pool2d, aten.adaptive_avg_pool1d)
def _adaptive_avg_pool(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    out = shape_of(fake(node))
    if all(n == ONE for n in out[2:]):
        return _global_mean(builder, node, source)
    sizes = [(constant(a), constant(b)) for a, b in zip(source.shape[2:], out[2:], strict=True)]
    bands = [_Band(a, b, Loop(builder.fresh("k"), Const(_band_width(a, b)))) for a, b in sizes if a and b]
    if len(bands) < len(sizes):
        raise NotFusable("adaptive pooling of dynamic sizes")
    return _band_means(builder, node, source, bands)


def _global_mean(builder: Builder, node: Node, source: Lazy) -> Lazy:
    dims, dtype = tuple(range(2, len(source.shape))), compute_dtype(source.dtype)
    reduced, _ = reduce_dims(builder, source, dims, "sum", dtype)
    total = count(source.shape, dims, dtype)
    return finish(node, reduced, dims, source.shape, lambda x: op("div", x, total))


@dataclass(frozen=True, slots=True)
class _Band:
    """Adaptive pooling of one dimension from `size` to `out` elements; `loop` runs over the widest band."""

    size: int
    out: int
    loop: Loop

    def start(self, math: IndexMath, i: Expr) -> Expr:
        """The first element of band i: ⌊i·size/out⌋."""
        return math.floordiv(math.mul(i, Const(self.size)), Const(self.out))

    def end(self, math: IndexMath, i: Expr) -> Expr:
        """One beyond the last element of band i: ⌈(i+1)·size/out⌉."""
        reach = math.mul(math.add(i, ONE), Const(self.size))
        return math.floordiv(math.add(reach, Const(self.out - 1)), Const(self.out))


def _band_width(size: int, out: int) -> int:
    return -(-size // out) + (size % out > 0)


def _band_means(builder: Builder, node: Node, source: Lazy, bands: Sequence[_Band]) -> Lazy:
    math, out, dtype = builder.math, shape_of(fake(node)), compute_dtype(source.dtype)
    steps = [math.declare(band.loop.var, band.loop.extent) for band in bands]
    row = builder.set_rows(out)
    index, tests = list(row), []
    for d, (band, step) in enumerate(zip(bands, steps, strict=True), 2):
        index[d] = math.add(band.start(math, row[d]), step)
        tests.append(op("lt", index[d], band.end(math, row[d])))
    value = guard(source.at(tuple(index)), _all(tests), 0)
    loops = tuple(band.loop for band in bands)
    reduced = builder.at_row(out, builder.reduce("sum", value, loops, dtype))

    def at(i: Index) -> Expr:
        total: Expr = ONE
        for d, band in enumerate(bands, 2):
            total = op("mul", total, math.sub(band.end(math, i[d]), band.start(math, i[d])))
        return op("div", reduced.at(i), cast(total, dtype))

    return Lazy(out, source.dtype, at)


def _all(tests: Sequence[Expr]) -> Expr:
    total = tests[0]
    for test in tests[1:]:
        total = op("and", total, test)
    return total
