"""Lowerings of reductions, softmax, normalisation, pooling and scans."""

from __future__ import annotations

import math as pymath
from collections.abc import Callable, Sequence

from torch.fx import Node

from ullage.codegen.loops.ir import Const, Expr, Load, Loop, ReduceOp, Store
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.index import ONE, ZERO
from ullage.codegen.lower.movement import guard
from ullage.codegen.lower.pointwise import const_like, op
from ullage.codegen.lower.shapes import Index, Shape, numel, shape_of
from ullage.codegen.lower.table import GETITEM, TABLE, aten, fake, float_of, int_of, operand, result_dtype
from ullage.codegen.lower.values import Lazy, NotFusable, cast, compute_dtype


def dims_of(value: object, rank: int) -> tuple[int, ...]:
    """Normalised reduction dimensions (None or empty: all)."""
    if value is None or (isinstance(value, Sequence) and not value):
        return tuple(range(rank))
    given = value if isinstance(value, Sequence) else [value]
    return tuple(sorted(int_of(d) % rank for d in given)) if rank else ()


def count(shape: Shape, dims: Sequence[int], dtype: str) -> Expr:
    """The number of reduced elements as a value of `dtype`."""
    return cast(numel(tuple(shape[d] for d in dims)), dtype)


def reduce_dims(
    builder: Builder, source: Lazy, dims: Sequence[int], kind: ReduceOp, dtype: str,
    value: Callable[[Expr], Expr] = lambda x: x,
) -> tuple[Lazy, Index]:  # fmt: skip
    """Reduce over dimensions; the result has the remaining dimensions (row shape), also returns the space index."""
    index, loops = builder.reduce_space(source.shape, dims)
    rows = tuple(n for d, n in enumerate(source.shape) if d not in dims)
    if not loops:
        loops = (Loop(builder.fresh("one"), ONE),)
    ref = builder.reduce(kind, value(source.at(index)), loops, dtype)
    return builder.at_row(rows, ref), index


def keep_dims(source: Lazy, dims: Sequence[int], shape: Shape) -> Lazy:
    """A reduced tensor with the reduced dimensions kept at size 1 (any index is taken there)."""
    rest = [d for d in range(len(shape)) if d not in dims]
    kept = tuple(ONE if d in dims else n for d, n in enumerate(shape))
    return Lazy(kept, source.dtype, lambda index: source.at(tuple(index[d] for d in rest)))


def _finish(node: Node, reduced: Lazy, dims: Sequence[int], shape: Shape, fn: Callable[[Expr], Expr]) -> Lazy:
    value = node.meta["val"]
    result = fake(node) if not isinstance(value, tuple | list) else value[0]
    out = shape_of(result)
    rest = [d for d in range(len(shape)) if d not in dims]
    kept = len(out) == len(shape) and bool(dims)

    def at(index: Index) -> Expr:
        row = tuple(index[d] for d in rest) if kept else tuple(index)
        return cast(fn(reduced.at(row)), compute_dtype(result_dtype(node)))

    return Lazy(out, result_dtype(node), at)


def _arg(node: Node, position: int, name: str, default: object = None) -> object:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


@TABLE.register("reduce", aten.sum, aten.mean, aten.prod, aten.amax, aten.amin, aten.any, aten.all)
def _reduce(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dims = dims_of(_arg(node, 1, "dim"), len(source.shape))
    name = str(node.target).split(".")[1]
    kind: ReduceOp = {"mean": "sum", "amax": "max", "amin": "min"}.get(name, name)
    result = compute_dtype(result_dtype(node))
    dtype = "bool" if name in ("any", "all") else result
    reduced, _ = reduce_dims(builder, source, dims, kind, dtype, lambda x: cast(x, dtype))
    if name != "mean":
        return _finish(node, reduced, dims, source.shape, lambda x: x)
    total = count(source.shape, dims, dtype)
    return _finish(node, reduced, dims, source.shape, lambda x: op("div", x, total))


@TABLE.register("reduce", aten.argmax, aten.argmin)
def _arg_extreme(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dims = dims_of(_arg(node, 1, "dim"), len(source.shape))
    kind: ReduceOp = "argmax" if node.target == aten.argmax.default else "argmin"
    reduced, _ = reduce_dims(builder, source, dims, kind, "int64")
    return _finish(node, reduced, dims, source.shape, lambda x: x)


@TABLE.register("reduce", aten.var, aten.var_mean, aten.std)
def _variance(builder: Builder, node: Node) -> Lazy:
    if node.target not in (aten.var.correction, aten.var.dim, aten.std.correction, aten.std.dim):
        raise NotFusable(f"{node.target} has several results")
    source = operand(builder, node.args[0])
    dims = dims_of(_arg(node, 1, "dim"), len(source.shape))
    correction = node.kwargs.get("correction", 1)
    if node.target in (aten.var.dim, aten.std.dim):
        correction = 1 if _arg(node, 2, "unbiased", True) else 0
    _, variance = moments(builder, source, dims, float(1 if correction is None else correction))
    root = "std" in str(node.target)
    return _finish(node, variance, dims, source.shape, lambda x: op("sqrt", x) if root else x)


def moments(builder: Builder, source: Lazy, dims: Sequence[int], correction: float = 0.0) -> tuple[Lazy, Lazy]:
    """Mean and variance by two passes (the centred second pass avoids cancellation)."""
    dtype = compute_dtype(source.dtype)
    total, _ = reduce_dims(builder, source, dims, "sum", dtype)
    size = count(source.shape, dims, dtype)
    rest = [d for d in range(len(source.shape)) if d not in dims]
    mean = Lazy(total.shape, dtype, lambda i: op("div", total.at(i), size))
    index, _ = builder.reduce_space(source.shape, dims)
    centre = mean.at(tuple(index[d] for d in rest))

    def squared(x: Expr) -> Expr:
        delta = op("sub", x, centre)
        return op("mul", delta, delta)

    squares, _ = reduce_dims(builder, source, dims, "sum", dtype, squared)
    divisor = size if correction == 0 else op("sub", size, const_like(correction, size))
    return mean, Lazy(squares.shape, dtype, lambda i: op("div", squares.at(i), divisor))


@TABLE.register("reduce", aten.layer_norm, aten.native_layer_norm)
def _layer_norm(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    normalized = node.args[1]
    assert isinstance(normalized, Sequence)
    rank, width = len(source.shape), len(normalized)
    dims = tuple(range(rank - width, rank))
    weight, bias = (operand(builder, a) if a is not None else None for a in _optional(node, 2, 4))
    eps = float_of(_arg(node, 4, "eps", 1e-5))
    mean, variance = moments(builder, source, dims)

    def at(index: Index) -> Expr:
        row, inner = tuple(index[: rank - width]), tuple(index[rank - width :])
        value = _normalised(source.at(index), mean.at(row), variance.at(row), eps)
        return _affine(value, weight, bias, inner)

    return Lazy(source.shape, source.dtype, at)


def _optional(node: Node, start: int, stop: int) -> list[object]:
    return [*node.args[start:stop], *[None] * (stop - start)][: stop - start]


def _normalised(x: Expr, mean: Expr, variance: Expr, eps: float) -> Expr:
    scale = op("div", const_like(1.0, x), op("sqrt", op("add", variance, const_like(eps, variance))))
    return op("mul", op("sub", x, mean), scale)


def _affine(value: Expr, weight: Lazy | None, bias: Lazy | None, index: Index) -> Expr:
    if weight is not None:
        value = op("mul", value, cast(weight.at(index), value.dtype))
    return value if bias is None else op("add", value, cast(bias.at(index), value.dtype))


@TABLE.register("reduce", aten.rms_norm, aten._fused_rms_norm)
def _rms_norm(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    normalized = node.args[1]
    assert isinstance(normalized, Sequence)
    rank, width = len(source.shape), len(normalized)
    dims = tuple(range(rank - width, rank))
    (given,) = _optional(node, 2, 3)
    weight = operand(builder, given) if given is not None else None
    eps = _arg(node, 3, "eps")
    dtype = compute_dtype(source.dtype)
    epsilon = 1.1920929e-07 if eps is None else float_of(eps)
    squares, _ = reduce_dims(builder, source, dims, "sum", dtype, lambda x: op("mul", x, x))
    size = count(source.shape, dims, dtype)

    def at(index: Index) -> Expr:
        mean = op("div", squares.at(tuple(index[: rank - width])), size)
        scale = op("div", const_like(1.0, mean), op("sqrt", op("add", mean, const_like(epsilon, mean))))
        return _affine(op("mul", source.at(index), scale), weight, None, tuple(index[rank - width :]))

    return Lazy(source.shape, source.dtype, at)


@TABLE.register("reduce", aten.group_norm, aten.native_group_norm)
def _group_norm(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    if node.target == aten.group_norm.default:
        groups, (given_w, given_b), eps = int_of(node.args[1]), _optional(node, 2, 4), _arg(node, 4, "eps", 1e-5)
    else:
        groups, (given_w, given_b), eps = int_of(node.args[6]), _optional(node, 1, 3), node.args[7]
    weight, bias = (operand(builder, a) if a is not None else None for a in (given_w, given_b))
    batch, channels, *spatial = source.shape
    math = builder.math
    per_group = math.floordiv(channels, Const(groups))
    split = (batch, Const(groups), per_group, *spatial)

    def split_at(index: Index) -> Expr:
        n, g, c, *rest = index
        return source.at((n, math.add(math.mul(g, per_group), c), *rest))

    grouped = Lazy(split, source.dtype, split_at)
    mean, variance = moments(builder, grouped, tuple(range(2, len(split))))

    def at(index: Index) -> Expr:
        row = (index[0], math.floordiv(index[1], per_group) if per_group != ONE else index[1])
        value = _normalised(source.at(index), mean.at(row), variance.at(row), float_of(eps))
        return _affine(value, weight, bias, (index[1],))

    return Lazy(source.shape, source.dtype, at)


@TABLE.register("pointwise", aten.batch_norm, aten._native_batch_norm_legit_no_training, aten.native_batch_norm)
def _batch_norm(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    weight, bias, mean, variance = (operand(builder, a) if a is not None else None for a in node.args[1:5])
    short = node.target == aten._native_batch_norm_legit_no_training.default
    if not short and node.args[5]:
        raise NotFusable("batch norm in training mode")
    eps = float_of(node.args[6 if short else 7])
    assert mean is not None and variance is not None

    def at(index: Index) -> Expr:
        channel = (index[1],)
        x = source.at(index)
        centre, spread = cast(mean.at(channel), x.dtype), cast(variance.at(channel), x.dtype)
        return _affine(_normalised(x, centre, spread, eps), weight, bias, channel)

    return Lazy(source.shape, source.dtype, at)


@TABLE.register("reduce", aten._softmax, aten.softmax, aten._log_softmax, aten.log_softmax, aten._safe_softmax)
def _softmax(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dims = (int_of(node.args[1]) % max(1, len(source.shape)),) if source.shape else ()
    dtype = compute_dtype(result_dtype(node))
    rest = [d for d in range(len(source.shape)) if d not in dims]
    top, index = reduce_dims(builder, source, dims, "max", dtype, lambda x: cast(x, dtype))
    row = tuple(index[d] for d in rest)
    shifted = op("sub", cast(source.at(index), dtype), top.at(row))
    width = tuple(source.shape[d] for d in dims)
    log = "log_softmax" in str(node.target)
    name, _ = builder.local(dtype, width)
    kept = shifted if log else op("exp", shifted)
    store = Store(name, index[dims[0]] if dims else ZERO, kept)
    loops = tuple(Loop(f"r{d}", source.shape[d]) for d in dims if source.shape[d] != ONE) or (
        Loop(builder.fresh("one"), ONE),
    )
    total = builder.reduce("sum", op("exp", shifted), loops, dtype, (store,))
    sums = builder.at_row(tuple(source.shape[d] for d in rest), total)

    def at(position: Index) -> Expr:
        value = Load(name, position[dims[0]] if dims else ZERO, dtype)
        scale = sums.at(tuple(position[d] for d in rest))
        if log:
            return op("sub", value, op("log", scale))
        return op("mul", value, op("div", const_like(1.0, scale), scale))

    return Lazy(source.shape, result_dtype(node), at)


@TABLE.register("reduce", aten.logsumexp)
def _logsumexp(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dims = dims_of(node.args[1], len(source.shape))
    dtype = compute_dtype(source.dtype)
    rest = [d for d in range(len(source.shape)) if d not in dims]
    top, index = reduce_dims(builder, source, dims, "max", dtype)
    row = tuple(index[d] for d in rest)
    sums, _ = reduce_dims(builder, source, dims, "sum", dtype, lambda x: op("exp", op("sub", x, top.at(row))))
    joined = Lazy(sums.shape, dtype, lambda i: op("add", op("log", sums.at(i)), top.at(i)))
    return _finish(node, joined, dims, source.shape, lambda x: x)


@TABLE.register("reduce", aten.linalg_vector_norm)
def _vector_norm(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    order = float_of(_arg(node, 1, "ord", 2))
    dims = dims_of(_arg(node, 2, "dim"), len(source.shape))
    dtype = compute_dtype(result_dtype(node))
    if order in (pymath.inf, -pymath.inf):
        kind: ReduceOp = "max" if order > 0 else "min"
        reduced, _ = reduce_dims(builder, source, dims, kind, dtype, lambda x: op("abs", x))
        return _finish(node, reduced, dims, source.shape, lambda x: x)
    if order == 2:
        reduced, _ = reduce_dims(builder, source, dims, "sum", dtype, lambda x: op("mul", x, x))
        return _finish(node, reduced, dims, source.shape, lambda x: op("sqrt", x))
    if order == 1:
        reduced, _ = reduce_dims(builder, source, dims, "sum", dtype, lambda x: op("abs", x))
        return _finish(node, reduced, dims, source.shape, lambda x: x)
    reduced, _ = reduce_dims(
        builder, source, dims, "sum", dtype, lambda x: op("pow", op("abs", x), const_like(order, x))
    )
    return _finish(node, reduced, dims, source.shape, lambda x: op("pow", x, const_like(1.0 / order, x)))


def _pair(value: object, default: Sequence[int]) -> tuple[int, ...]:
    if isinstance(value, Sequence) and value:
        numbers = [int_of(v) for v in value]
        return tuple(numbers * len(default)) if len(numbers) == 1 else tuple(numbers)
    return tuple([int(value)] * len(default)) if isinstance(value, int) else tuple(default)


@TABLE.register("reduce", aten.max_pool2d, aten.max_pool2d_with_indices, aten.max_pool1d)
def _max_pool(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dims = 1 if node.target == aten.max_pool1d.default else 2
    kernel = _pair(node.args[1], (1,) * dims)
    args = [*node.args[2:], None, None, None, None]
    stride, padding, dilation = _pair(args[0], kernel), _pair(args[1], (0,) * dims), _pair(args[2], (1,) * dims)
    lowest = -pymath.inf if source.dtype.startswith(("float", "bfloat")) else -(2**31)
    kernel = _clipped_kernel(source, shape_of(_first(node)), kernel, padding)
    window = _window(builder, source, shape_of(_first(node)), kernel, stride, padding, dilation, lowest)
    return _pooled(builder, node, "max", window)


def _clipped_kernel(source: Lazy, out: Shape, kernel: Sequence[int], padding: Sequence[int]) -> tuple[int, ...]:
    """Windows cut to the input where there is a single one without padding (ceil mode allows larger ones)."""
    lead = len(out) - len(kernel)
    limits = [source.shape[lead + d] for d in range(len(kernel))]
    return tuple(
        min(k, int_of(limit.value)) if out[lead + d] == ONE and padding[d] == 0 and isinstance(limit, Const) else k
        for d, (k, limit) in enumerate(zip(kernel, limits, strict=True))
    )


Window = tuple[Shape, tuple[Loop, ...], Callable[[Index], Expr]]


def _first(node: Node) -> object:
    value = node.meta["val"]
    return value[0] if isinstance(value, tuple | list) else value


def _window(
    builder: Builder, source: Lazy, out: Shape, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], outside: float,
) -> Window:  # fmt: skip
    math, lead = builder.math, len(out) - len(kernel)
    loops = tuple(Loop(builder.fresh("k"), Const(k)) for k in kernel)
    steps = [math.declare(loop.var, loop.extent) for loop in loops]

    def at(row: Index) -> Expr:
        index, mask = list(row), None
        for d, step in enumerate(steps):
            moved = math.add(
                math.mul(row[lead + d], Const(stride[d])), math.mul(step, Const(dilation[d])), Const(-padding[d])
            )
            index[lead + d] = moved
            size = source.shape[lead + d]
            reach = (out[lead + d], Const(stride[d]), Const((kernel[d] - 1) * dilation[d] - padding[d]))
            last = math.bounds(math.sub(math.add(math.mul(math.sub(reach[0], ONE), reach[1]), reach[2]), size))[1]
            tests = [op("ge", moved, ZERO)] if padding[d] else []
            if last is None or last >= 0:
                tests.append(op("lt", moved, size))
            for test in tests:
                mask = test if mask is None else op("and", mask, test)
        value = source.at(tuple(index))
        return value if mask is None else guard(value, mask, outside)

    return out, loops, at


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
    source = operand(builder, node.args[0])
    dims = 1 if node.target == aten.avg_pool1d.default else 2
    kernel = _pair(node.args[1], (1,) * dims)
    args = [*node.args[2:], None, None, None, None, None][:5]
    stride, padding = _pair(args[0], kernel), _pair(args[1], (0,) * dims)
    include = args[3] is not False
    override = args[4]
    out = shape_of(fake(node))
    kernel = _clipped_kernel(source, out, kernel, padding)
    window = _window(builder, source, out, kernel, stride, padding, (1,) * dims, 0.0)
    math, lead, dtype = builder.math, len(out) - dims, compute_dtype(source.dtype)

    def size(index: Index) -> Expr:
        if override is not None:
            return Const(float(override), dtype)
        total: Expr = ONE
        for d in range(dims):
            start = math.add(math.mul(index[lead + d], Const(stride[d])), Const(-padding[d]))
            limit = math.add(source.shape[lead + d], Const(padding[d] if include else 0))
            end = op("min", math.add(start, Const(kernel[d])), limit)
            low = start if include else op("max", start, ZERO)
            total = op("mul", total, op("sub", end, low))
        return cast(total, dtype)

    return _pooled(builder, node, "sum", window, size)


@TABLE.register("reduce", aten.adaptive_avg_pool2d, aten._adaptive_avg_pool2d, aten.adaptive_avg_pool1d)
def _adaptive_avg_pool(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    out = shape_of(fake(node))
    lead = 2
    spatial = list(range(lead, len(out)))
    if all(out[d] == ONE for d in spatial):
        dtype = compute_dtype(source.dtype)
        reduced, _ = reduce_dims(builder, source, spatial, "sum", dtype)
        total = count(source.shape, spatial, dtype)
        return _finish(node, reduced, spatial, source.shape, lambda x: op("div", x, total))
    math = builder.math
    sizes = [(source.shape[d], out[d]) for d in spatial]
    if any(not isinstance(a, Const) or not isinstance(b, Const) for a, b in sizes):
        raise NotFusable("adaptive pooling of dynamic sizes")
    widths = [-(-int(a.value) // int(b.value)) + (int(a.value) % int(b.value) > 0) for a, b in sizes]
    loops = tuple(Loop(builder.fresh("k"), Const(w)) for w in widths)
    steps = [math.declare(loop.var, loop.extent) for loop in loops]
    row = builder.set_rows(out)

    def limits(d: int, i: Expr) -> tuple[Expr, Expr]:
        a, b = sizes[d]
        start = math.floordiv(math.mul(i, a), b)
        return start, math.floordiv(math.add(math.mul(math.add(i, ONE), a), math.sub(b, ONE)), b)

    index, mask = list(row), None
    for d, step in enumerate(steps):
        start, end = limits(d, row[lead + d])
        index[lead + d] = math.add(start, step)
        test = op("lt", index[lead + d], end)
        mask = test if mask is None else op("and", mask, test)
    assert mask is not None
    dtype = compute_dtype(source.dtype)
    ref = builder.reduce("sum", guard(source.at(tuple(index)), mask), loops, dtype)
    reduced = builder.at_row(out, ref)

    def at(i: Index) -> Expr:
        total: Expr = ONE
        for d in range(len(spatial)):
            start, end = limits(d, i[lead + d])
            total = op("mul", total, math.sub(end, start))
        return op("div", reduced.at(i), cast(total, dtype))

    return Lazy(out, source.dtype, at)


@TABLE.register("reduce", aten.max, aten.min)
def _max(builder: Builder, node: Node) -> Lazy:
    kind: ReduceOp = "max" if "max" in str(node.target) else "min"
    if node.target in (aten.max.default, aten.min.default):
        source = operand(builder, node.args[0])
        dims = tuple(range(len(source.shape)))
        reduced, _ = reduce_dims(builder, source, dims, kind, compute_dtype(source.dtype))
        return _finish(node, reduced, dims, source.shape, lambda x: x)
    if node.target in (aten.max.other, aten.min.other):
        raise NotFusable("elementwise max is spelled maximum")
    source = operand(builder, node.args[0])
    dims = dims_of(node.args[1], len(source.shape))
    reduced, _ = reduce_dims(builder, source, dims, kind, compute_dtype(source.dtype))
    return _finish(node, reduced, dims, source.shape, lambda x: x)


@TABLE.register("reduce", aten.cumsum, aten.cumprod)
def _scan(builder: Builder, node: Node) -> Lazy:
    raise NotFusable(f"{node.target} is stored by its own kernel and not read lazily")


def scan_node(node: Node) -> bool:
    """Whether a node is a running reduction, which must be the only node of its kernel."""
    return node.target in (aten.cumsum.default, aten.cumprod.default)


def first_result(node: Node) -> bool:
    """Whether a getitem takes the first result of an operator of which only that is lowered."""
    return node.target is GETITEM and node.args[1] == 0
