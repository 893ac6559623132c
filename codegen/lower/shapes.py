"""Shapes as index expressions: from fake tensors, and how indices move through views."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import sympy
import torch

from ullage.codegen.loops.ir import Apply, Const, Dim, Expr
from ullage.codegen.lower.index import ONE, ZERO, IndexMath, constant
from ullage.errors import UnsupportedOperator

Shape = tuple[Expr, ...]
Index = tuple[Expr, ...]

_PLAIN = IndexMath({}, {})


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` → `float32`."""
    return str(dtype).removeprefix("torch.")


def size_expr(value: int | torch.SymInt) -> Expr:
    """An int or SymInt as an index expression over `Dim`s."""
    return sympy_expr(value.node.expr) if isinstance(value, torch.SymInt) else Const(int(value))


def shape_of(tensor: torch.Tensor) -> Shape:
    """The shape of a (fake) tensor as index expressions."""
    return tuple(size_expr(n) for n in tensor.shape)


def sympy_expr(expr: sympy.Basic) -> Expr:
    """A sympy size expression (sums, products, integer quotients, remainders, min, max) as an index expression."""
    if isinstance(expr, sympy.Integer):
        return Const(int(expr))
    if expr.is_Symbol:
        return Dim(str(expr))
    if isinstance(expr, sympy.Pow):
        return _power(expr)
    args = [sympy_expr(arg) for arg in expr.args]
    name = type(expr).__name__
    if expr.is_Add:
        return _PLAIN.add(*args)
    if expr.is_Mul:
        return _PLAIN.mul(*args)
    if name in ("FloorDiv", "CleanDiv", "IntTrueDiv"):
        return _PLAIN.floordiv(*args)
    if name == "CeilDiv":
        return _PLAIN.floordiv(_PLAIN.add(args[0], args[1], Const(-1)), args[1])
    if name in ("Mod", "PythonMod"):
        return _PLAIN.mod(*args)
    if name in ("Max", "Min"):
        total = args[0]
        for arg in args[1:]:
            total = Apply(name.lower(), (total, arg), "int64")
        return total
    raise UnsupportedOperator({f"size expression {expr}": ["dynamic shapes"]})


def _power(expr: sympy.Pow) -> Expr:
    base, exponent = expr.args
    if not isinstance(exponent, sympy.Integer) or int(exponent) <= 0:
        raise UnsupportedOperator({f"size expression {expr}": ["dynamic shapes"]})
    return _PLAIN.mul(*[sympy_expr(base)] * int(exponent))


def numel(shape: Shape) -> Expr:
    """The number of elements."""
    return _PLAIN.mul(ONE, *shape)


def contiguous_strides(shape: Shape) -> Shape:
    """Row-major strides in elements."""
    strides: list[Expr] = []
    total: Expr = ONE
    for size in reversed(shape):
        strides.append(total)
        total = _PLAIN.mul(total, size)
    return tuple(reversed(strides))


def ordered_strides(shape: Shape, order: Sequence[int]) -> Shape:
    """Compact strides of a tensor whose dimensions lie in memory in `order`, outermost first."""
    inner = contiguous_strides(tuple(shape[d] for d in order))
    strides: list[Expr] = [ZERO] * len(shape)
    for position, dim in enumerate(order):
        strides[dim] = inner[position]
    return tuple(strides)


def same(left: Expr, right: Expr) -> bool:
    """Whether two sizes are certainly equal."""
    return left == right or _PLAIN.sub(left, right) == ZERO


Group = tuple[tuple[int, ...], tuple[int, ...]]


def view_groups(old: Shape, new: Shape) -> tuple[Group, ...] | None:
    """Match runs of old dimensions with runs of new ones of equal product (dimensions of size 1 are left out)."""
    left = [i for i, n in enumerate(old) if n != ONE]
    right = [i for i, n in enumerate(new) if n != ONE]
    groups: list[Group] = []
    while left or right:
        if not left or not right:
            return None
        a, b = [left.pop(0)], [right.pop(0)]
        while not same(numel(tuple(old[i] for i in a)), numel(tuple(new[i] for i in b))):
            grown = _grow(a, b, left, right, old, new)
            if not grown:
                return None
        groups.append((tuple(a), tuple(b)))
    return tuple(groups)


def _grow(a: list[int], b: list[int], left: list[int], right: list[int], old: Shape, new: Shape) -> bool:
    x, y = constant(numel(tuple(old[i] for i in a))), constant(numel(tuple(new[i] for i in b)))
    take_old = x < y if x is not None and y is not None else _divides(new, b, old, a)
    source, target = (left, a) if (take_old and left) or not right else (right, b)
    if not source:
        return False
    target.append(source.pop(0))
    return True


def _divides(new: Shape, b: list[int], old: Shape, a: list[int]) -> bool:
    """With symbolic sizes: whether the old run is a factor of the new run (so the old run is the shorter one)."""
    product = numel(tuple(new[i] for i in b))
    part = numel(tuple(old[i] for i in a))
    quotient, rest = _PLAIN._divide(product, part)
    return rest is None and quotient != ZERO


def reshape_index(math: IndexMath, index: Index, old: Shape, new: Shape) -> Index:
    """The index into `old` of the element at `index` of its reshape to `new`."""
    groups = view_groups(old, new)
    if groups is None:
        groups = ((tuple(range(len(old))), tuple(range(len(new)))),)
    out: list[Expr] = [ZERO] * len(old)
    for a, b in groups:
        if len(a) == len(b) == 1:
            out[a[0]] = index[b[0]]
            continue
        flat = math.dot([index[i] for i in b], contiguous_strides(tuple(new[i] for i in b)))
        for position, value in zip(a, unflatten(math, flat, tuple(old[i] for i in a)), strict=True):
            out[position] = value
    return tuple(out)


def unflatten(math: IndexMath, flat: Expr, shape: Shape) -> Index:
    """The index of the element number `flat` in row-major order (flat < numel)."""
    out: list[Expr] = []
    strides = contiguous_strides(shape)
    for position, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        if size == ONE:
            out.append(ZERO)
            continue
        quotient = math.floordiv(flat, stride)
        outermost = all(n == ONE for n in shape[:position])
        out.append(quotient if outermost else math.mod(quotient, size))
    return tuple(out)


def reshape_strides(old: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Strides of a reshape that shares memory, or None if the elements must move."""
    groups = view_groups(old, new)
    if groups is None:
        return None
    out: list[Expr] = [ONE] * len(new)
    for a, b in groups:
        for outer, inner in pairwise(a):
            if not same(strides[outer], _PLAIN.mul(strides[inner], old[inner])):
                return None
        step = strides[a[-1]]
        for dim in reversed(b):
            out[dim] = step
            step = _PLAIN.mul(step, new[dim])
    return tuple(out)


def broadcast_index(index: Index, shape: Shape) -> Index:
    """The index into a tensor of `shape` that broadcasts (torch's rules) to the rank of `index`."""
    tail = index[len(index) - len(shape) :]
    return tuple(ZERO if size == ONE else i for i, size in zip(tail, shape, strict=True))
