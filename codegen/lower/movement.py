"""Lowerings of operators that move elements: concatenation, padding, gathering, repeating."""

from __future__ import annotations

from torch.fx import Node

from ullage.codegen.loops.ir import Apply, Cast, Const, Expr, Load
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.formulas import (
    op,
)
from ullage.codegen.lower.index import ZERO, IndexMath, constant
from ullage.codegen.lower.shapes import Index, shape_of
from ullage.codegen.lower.table import (
    TABLE,
    argument,
    aten,
    fake,
    float_of,
    int_of,
    ints_of,
    list_of,
    node_of,
    operand,
    result_dtype,
    scalar,
)
from ullage.codegen.lower.values import Lazy, NotFusable, compute_dtype, literal


def guard(expr: Expr, mask: Expr, other: float = 0) -> Expr:
    """`expr` where `mask` holds, else `other`, such that no memory outside is touched."""
    return op("where", mask, masked(expr, mask), literal(other, expr.dtype))


def masked(expr: Expr, mask: Expr) -> Expr:
    """`expr` with loads that touch no memory where `mask` does not hold."""
    match expr:
        case Load(buffer, index, dtype, old, other):
            return Load(buffer, index, dtype, mask if old is None else op("and", old, mask), other)
        case Apply(name, args, dtype):
            return Apply(name, tuple(masked(a, mask) for a in args), dtype)
        case Cast(arg, dtype):
            return Cast(masked(arg, mask), dtype)
        case _:
            return expr


def _between(value: Expr, low: Expr, high: Expr) -> Expr:
    tests = []
    if low != ZERO:
        tests.append(op("ge", value, low))
    tests.append(op("lt", value, high))
    return tests[0] if len(tests) == 1 else op("and", *tests)


def _replace(index: Index, dim: int, value: Expr) -> Index:
    return (*index[:dim], value, *index[dim + 1 :])


@TABLE.register("move", aten.cat)
def _cat(builder: Builder, node: Node) -> Lazy:
    tensors = [node_of(t) for t in list_of(node.args[0])]
    parts = [operand(builder, t) for t in tensors if fake(t).dim() == fake(node).dim()]
    shape = shape_of(fake(node))
    dim = (int_of(node.args[1]) if len(node.args) > 1 else 0) % len(shape)
    compute = compute_dtype(result_dtype(node))

    def at(index: Index) -> Expr:
        start: Expr = ZERO
        result: Expr | None = None
        for part in parts:
            end = builder.math.add(start, part.shape[dim])
            mask = _between(index[dim], start, end)
            value = part.at(_replace(index, dim, builder.math.sub(index[dim], start)))
            value = masked(value if value.dtype == compute else Cast(value, compute), mask)
            result = value if result is None else op("where", op("lt", index[dim], start), result, value)
            start = end
        assert result is not None
        return result

    return Lazy(shape, result_dtype(node), at)


@TABLE.register("move", aten.constant_pad_nd)
def _pad(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    pads = list_of(node.args[1])
    value = float_of(node.args[2]) if len(node.args) > 2 else 0.0
    rank = len(source.shape)

    def at(index: Index) -> Expr:
        moved, mask = list(index), None
        for pair in range(len(pads) // 2):
            dim, before, after = rank - 1 - pair, pads[2 * pair], pads[2 * pair + 1]
            if before == 0 and after == 0:
                continue
            low = scalar(before)
            assert low is not None
            moved[dim] = builder.math.sub(index[dim], low)
            test = _between(index[dim], low, builder.math.add(low, source.shape[dim]))
            mask = test if mask is None else op("and", mask, test)
        inner = source.at(tuple(moved))
        return inner if mask is None else guard(inner, mask, value)

    return Lazy(shape_of(fake(node)), result_dtype(node), at)


@TABLE.register("move", aten.flip)
def _flip(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dims = {d % len(source.shape) for d in ints_of(node.args[1])}

    def at(index: Index) -> Expr:
        return source.at(tuple(
            builder.math.sub(builder.math.sub(n, Const(1)), i) if d in dims else i
            for d, (i, n) in enumerate(zip(index, source.shape, strict=True))
        ))  # fmt: skip

    return Lazy(source.shape, source.dtype, at)


@TABLE.register("move", aten.roll)
def _roll(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    dims = ints_of(argument(node, 2, "dims", ()))
    if not dims:
        raise NotFusable("roll of the flattened tensor")
    shifts = dict(zip((d % len(source.shape) for d in dims), ints_of(node.args[1]), strict=True))

    def at(index: Index) -> Expr:
        return source.at(tuple(
            _rolled(builder.math, i, shifts[d], source.shape[d]) if d in shifts else i for d, i in enumerate(index)
        ))  # fmt: skip

    return Lazy(source.shape, source.dtype, at)


def _rolled(math: IndexMath, index: Expr, shift: int, size: Expr) -> Expr:
    """`(index - shift) mod size`, of a sum that is never negative."""
    known = constant(size)
    back = math.sub(size, Const(shift)) if known is None else Const(-shift % known)
    return math.mod(math.add(index, back), size)


@TABLE.register("move", aten.repeat)
def _repeat(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    shape = shape_of(fake(node))
    lead = len(shape) - len(source.shape)

    def at(index: Index) -> Expr:
        tail = index[lead:]
        return source.at(tuple(builder.math.mod(i, n) for i, n in zip(tail, source.shape, strict=True)))

    return Lazy(shape, source.dtype, at)


def wrapped(index: Expr, size: Expr) -> Expr:
    """An index that counts from the end where it is negative."""
    negative = op("lt", index, Const(0))
    return op("where", negative, op("add", index, size), index)


def _clipped(index: Expr, size: Expr) -> Expr:
    """A data-dependent index kept inside the tensor, so that no value of it can touch other memory."""
    top = op("sub", size, Const(1))
    return op("max", op("min", index, top), Const(0))


@TABLE.register("move", aten.index_select)
def _index_select(builder: Builder, node: Node) -> Lazy:
    source, ids = operand(builder, node.args[0]), operand(builder, node.args[2])
    if not source.shape:
        return Lazy(shape_of(fake(node)), result_dtype(node), lambda _index: source.at(()))
    dim = int_of(node.args[1]) % len(source.shape)

    def at(index: Index) -> Expr:
        row = ids.at((index[dim],)) if ids.shape else ids.at(())
        return source.at(_replace(index, dim, _clipped(int64(row), source.shape[dim])))

    return Lazy(shape_of(fake(node)), result_dtype(node), at)


@TABLE.register("move", aten.embedding)
def _embedding(builder: Builder, node: Node) -> Lazy:
    table, ids = operand(builder, node.args[0]), operand(builder, node.args[1])

    def at(index: Index) -> Expr:
        return table.at((_clipped(int64(ids.at(index[:-1])), table.shape[0]), index[-1]))

    return Lazy(shape_of(fake(node)), result_dtype(node), at)


@TABLE.register("move", aten.gather)
def _gather(builder: Builder, node: Node) -> Lazy:
    source, ids = operand(builder, node.args[0]), operand(builder, node.args[2])
    dim = int_of(node.args[1]) % len(source.shape)

    def at(index: Index) -> Expr:
        position = _clipped(wrapped(int64(ids.at(index)), source.shape[dim]), source.shape[dim])
        return source.at(_replace(index, dim, position))

    return Lazy(ids.shape, result_dtype(node), at)


@TABLE.register("move", aten.index, aten._unsafe_index)
def _index(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    given = list_of(node.args[1])
    if any(isinstance(t, Node) and result_dtype(t) == "bool" for t in given):
        raise NotFusable("index by a bool mask has a data-dependent shape")
    tensors = {d: operand(builder, t) for d, t in enumerate(given) if t is not None}
    dims = sorted(tensors)
    adjacent = dims == list(range(dims[0], dims[-1] + 1))
    rank = max(len(t.shape) for t in tensors.values())
    start = dims[0] if adjacent else 0

    def at(index: Index) -> Expr:
        chosen, rest = index[start : start + rank], iter((*index[:start], *index[start + rank :]))
        moved = []
        for d, size in enumerate(source.shape):
            if d not in tensors:
                moved.append(next(rest))
                continue
            t = tensors[d]
            tail = chosen[rank - len(t.shape) :]
            value = t.at(tuple(ZERO if n == Const(1) else i for i, n in zip(tail, t.shape, strict=True)))
            moved.append(_clipped(wrapped(int64(value), size), size))
        return source.at(tuple(moved))

    return Lazy(shape_of(fake(node)), result_dtype(node), at)


def int64(expr: Expr) -> Expr:
    """An integer as an index."""
    return expr if expr.dtype == "int64" else Cast(expr, "int64")


@TABLE.register("move", aten.tril, aten.triu)
def _triangle(builder: Builder, node: Node) -> Lazy:
    source = operand(builder, node.args[0])
    diagonal = int_of(node.args[1]) if len(node.args) > 1 else 0
    lower = node.target is aten.tril.default

    def at(index: Index) -> Expr:
        limit = builder.math.add(index[-2], Const(diagonal))
        keep = op("le" if lower else "ge", index[-1], limit)
        value = source.at(index)
        return op("where", keep, value, literal(0, value.dtype))

    return Lazy(source.shape, source.dtype, at)


@TABLE.register("move", aten.stack)
def _stack(builder: Builder, node: Node) -> Lazy:
    parts = [operand(builder, t) for t in list_of(node.args[0])]
    shape = shape_of(fake(node))
    dim = (int_of(node.args[1]) if len(node.args) > 1 else 0) % len(shape)

    def at(index: Index) -> Expr:
        inner = (*index[:dim], *index[dim + 1 :])
        result = parts[-1].at(inner)
        for number in range(len(parts) - 2, -1, -1):
            result = op("where", op("eq", index[dim], Const(number)), parts[number].at(inner), result)
        return result

    return Lazy(shape, result_dtype(node), at)
