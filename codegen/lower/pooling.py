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
from ullage.codegen.lower.table import (
    TABLE,
    argument,
    aten,
    fake,
    float_of,
    int_of,
    ints_of,
    list_of,
    operand,
    result_dtype,
)
from ullage.codegen.lower.values import Lazy, NotFusable, cast, compute_dtype
from ullage.graph.operators import MAX_POOL_POSITIONS


def _pair(value: object, default: Sequence[int]) -> tuple[int, ...]:
    if isinstance(value, Sequence) and value:
        numbers = [int_of(v) for v in value]
        return tuple(numbers * len(default)) if len(numbers) == 1 else tuple(numbers)
    return tuple([int(value)] * len(default)) if isinstance(value, int) else tuple(default)


_RANKS: dict[object, int] = {
    overload: rank
    for rank in (1, 2, 3)
    for kind in ("avg", "max")
    for overload in (getattr(aten, f"{kind}_pool{rank}d").default,)
}


@TABLE.register("reduce", aten.max_pool1d, aten.max_pool2d, aten.max_pool3d)
def _max_pool(builder: Builder, node: Node) -> Lazy:
    source, out = operand(builder, node.args[0]), shape_of(first_tensor(node))
    rank = _RANKS[node.target]
    args = [*node.args[2:], None, None, None]
    given = _pair(node.args[1], (1,) * rank)
    stride, padding, dilation = _pair(args[0], given), _pair(args[1], (0,) * rank), _pair(args[2], (1,) * rank)
    pool = _Geometry(_clipped_kernel(source, out, given, padding), stride, padding, dilation)
    return _pooled(builder, node, "max", _window(builder, source, out, pool, _lowest(source.dtype)))


@TABLE.register("reduce", MAX_POOL_POSITIONS)
def _max_pool_positions(builder: Builder, node: Node) -> Lazy:
    """The first extreme of a window, as a place in the image.

    A place in the padding wins only if nothing in the window is above the lowest value, as the first of all: then the
    first place inside is meant.
    """
    source, out = operand(builder, node.args[0]), shape_of(fake(node))
    kernel, stride, padding, dilation = (ints_of(value) for value in node.args[1:5])
    rank = len(kernel)
    pool = _Geometry(_clipped_kernel(source, out, kernel, padding), stride, padding, dilation)
    reduced = _pooled(builder, node, "argmax", _window(builder, source, out, pool, _lowest(source.dtype)), keep=True)
    sizes = source.shape[-rank:]

    def at(index: Index) -> Expr:
        steps = _digits(reduced.at(index), pool.kernel)
        place: Expr = ZERO
        for d, (step, size) in enumerate(zip(steps, sizes, strict=True)):
            moved = op("add", op("mul", step, Const(dilation[d])), _start(builder.math, index[-rank + d], pool, d))
            inside = op("max", moved, _first_inside(builder.math, index[-rank + d], pool, d))
            place = op("add", op("mul", place, size), inside)
        return place

    return Lazy(out, "int64", at)


def _digits(number: Expr, sizes: Sequence[int]) -> list[Expr]:
    """A row-major place as one position per dimension."""
    digits: list[Expr] = []
    for size in reversed(sizes):
        digits.append(op("mod", number, Const(size)))
        number = op("floordiv", number, Const(size))
    return digits[::-1]


def _start(math: IndexMath, out: Expr, pool: _Geometry, d: int) -> Expr:
    return math.add(math.mul(out, Const(pool.stride[d])), Const(-pool.padding[d]))


def _first_inside(math: IndexMath, out: Expr, pool: _Geometry, d: int) -> Expr:
    """The first place of a window that is not in the padding before the image."""
    if not pool.padding[d]:
        return ZERO
    step = Const(pool.dilation[d])
    before = op("max", op("sub", ZERO, _start(math, out, pool, d)), ZERO)
    skipped = op("floordiv", op("add", before, Const(pool.dilation[d] - 1)), step)
    return op("add", _start(math, out, pool, d), op("mul", skipped, step))


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
    builder: Builder, node: Node, kind: ReduceOp, window: Window, scale: Callable[[Index], Expr] | None = None,
    keep: bool = False,
) -> Lazy:  # fmt: skip
    """A window reduced, its values in the dtype of the result or (`keep`) in their own."""
    out, loops, at = window
    row = builder.set_rows(out)
    dtype = compute_dtype(result_dtype(node))
    value = at(row)
    ref = builder.reduce(kind, value if keep else cast(value, dtype), loops, dtype)
    reduced = builder.at_row(out, ref)
    if scale is None:
        return Lazy(out, result_dtype(node), reduced.at)
    return Lazy(out, result_dtype(node), lambda i: op("div", reduced.at(i), scale(i)))


@TABLE.register("reduce", aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d)
def _avg_pool(builder: Builder, node: Node) -> Lazy:
    source, out = operand(builder, node.args[0]), shape_of(fake(node))
    rank = _RANKS[node.target]
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


@TABLE.register(
    "reduce", aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten._adaptive_avg_pool2d, aten.adaptive_avg_pool3d,
    aten._adaptive_avg_pool3d,
)  # fmt: skip
def _adaptive_avg_pool(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    out, rank = shape_of(fake(node)), len(list_of(node.args[1]))
    if all(n == ONE for n in out[-rank:]):
        return _global_mean(builder, node, source, rank)
    sizes = [(constant(a), constant(b)) for a, b in zip(source.shape[-rank:], out[-rank:], strict=True)]
    bands = [_Band(a, b, Loop(builder.fresh("k"), Const(_band_width(a, b)))) for a, b in sizes if a and b]
    if len(bands) < len(sizes):
        raise NotFusable("adaptive pooling of dynamic sizes")
    return _band_means(builder, node, source, bands)


def _global_mean(builder: Builder, node: Node, source: Lazy, rank: int) -> Lazy:
    dims, dtype = tuple(range(len(source.shape))[-rank:]), compute_dtype(source.dtype)
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
    lead = len(out) - len(bands)
    for d, (band, step) in enumerate(zip(bands, steps, strict=True), lead):
        index[d] = math.add(band.start(math, row[d]), step)
        tests.append(op("lt", index[d], band.end(math, row[d])))
    value = guard(source.at(tuple(index)), _all(tests), 0)
    loops = tuple(band.loop for band in bands)
    reduced = builder.at_row(out, builder.reduce("sum", value, loops, dtype))

    def at(i: Index) -> Expr:
        total: Expr = ONE
        for d, band in enumerate(bands, lead):
            total = op("mul", total, math.sub(band.end(math, i[d]), band.start(math, i[d])))
        return op("div", reduced.at(i), cast(total, dtype))

    return Lazy(out, source.dtype, at)


def _all(tests: Sequence[Expr]) -> Expr:
    total = tests[0]
    for test in tests[1:]:
        total = op("and", total, test)
    return total
