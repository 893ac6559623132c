"""Index arithmetic equals Python's integers, and moves through reshapes as numpy and torch do."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ullage.codegen.loops.ir import Apply, Const, Dim, Expr, Var
from ullage.codegen.lower.index import ONE, ZERO, IndexMath, from_poly, to_poly
from ullage.codegen.lower.shapes import contiguous_strides, reshape_index, reshape_strides, unflatten, view_groups

EXTENTS: Mapping[str, Expr] = {"i": Const(5), "j": Const(7), "k": Const(12), "n": Dim("d")}
DIM_MAX = {"d": 9}
OPS = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "floordiv": lambda a, b: a // b,
       "mod": lambda a, b: a % b, "min": min, "max": max}  # fmt: skip
Env = dict[str, int]


def value(expr: Expr, env: Env) -> int:
    """The expression in Python's integers."""
    match expr:
        case Const(number):
            return int(number)
        case Var(name) | Dim(name):
            return env[name]
        case Apply("neg", (a,)):
            return -value(a, env)
        case Apply(op, (a, b)):
            return OPS[op](value(a, env), value(b, env))
    raise AssertionError(expr)


def points() -> list[Env]:
    """Corners and middles of the space that the variables live in."""
    found = []
    for d in (1, 4, 9):
        for share in (0.0, 0.3, 0.7, 1.0):
            sizes = {"i": 5, "j": 7, "k": 12, "n": d}
            found.append({"d": d} | {v: round(share * (n - 1)) for v, n in sizes.items()})
            found.append({"d": d} | {v: round(share * (n - 1)) if v in "ik" else n - 1 for v, n in sizes.items()})
    return found


LEAVES = st.sampled_from([*(Var(v) for v in EXTENTS), Dim("d")]) | st.integers(-6, 40).map(Const)
DIVISORS = st.sampled_from([Const(1), Const(2), Const(3), Const(5), Const(7), Const(12), Const(35), Dim("d")])


def plain(op: str, a: Expr, b: Expr) -> Expr:
    """The operation without any simplification."""
    return Apply(op, (a, b), "int64")


def expressions() -> st.SearchStrategy[Expr]:
    """Random trees of index operators; divisors are positive."""
    return st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.builds(plain, st.sampled_from(["add", "sub", "mul"]), inner, inner),
            st.builds(plain, st.sampled_from(["floordiv", "mod"]), inner, DIVISORS),
        ),
        max_leaves=10,
    )


def rebuilt(maths: IndexMath, expr: Expr) -> Expr:
    """The tree with every operation done by IndexMath."""
    if not isinstance(expr, Apply):
        return expr
    left, right = (rebuilt(maths, a) for a in expr.args)
    return getattr(maths, expr.op)(left, right)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(expressions())
def test_every_operation_equals_integer_arithmetic(expr: Expr) -> None:
    simplified = rebuilt(IndexMath(EXTENTS, DIM_MAX), expr)
    for env in points():
        assert value(simplified, env) == value(expr, env)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(expressions())
def test_bounds_hold_everywhere(expr: Expr) -> None:
    maths = IndexMath(EXTENTS, DIM_MAX)
    simplified = rebuilt(maths, expr)
    low, high = maths.bounds(simplified)
    for env in points():
        found = value(simplified, env)
        assert (low is None or low <= found) and (high is None or found <= high)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(expressions(), expressions())
def test_sums_do_not_depend_on_their_order(a: Expr, b: Expr) -> None:
    maths = IndexMath(EXTENTS, DIM_MAX)
    x, y = rebuilt(maths, a), rebuilt(maths, b)
    assert maths.add(x, y) == maths.add(y, x)
    assert maths.sub(maths.add(x, y), y) == maths.add(x)


def test_polynomials_are_canonical() -> None:
    i, j = Var("i"), Var("j")
    left = plain("add", plain("mul", i, Const(3)), plain("mul", j, i))
    right = plain("add", plain("mul", i, j), plain("mul", Const(3), i))
    assert from_poly(to_poly(left)) == from_poly(to_poly(right))
    assert from_poly({}) == ZERO


@pytest.mark.parametrize("divisor", [Const(4), Dim("d")])
def test_quotient_and_remainder_recombine(divisor: Expr) -> None:
    maths = IndexMath(EXTENTS, DIM_MAX)
    x = Var("k")
    split = maths.add(maths.mul(maths.floordiv(x, divisor), divisor), maths.mod(x, divisor))
    assert split == x
    scaled = maths.add(
        maths.mul(maths.floordiv(x, divisor), divisor, Const(6)), maths.mul(maths.mod(x, divisor), Const(6))
    )
    assert scaled == maths.mul(x, Const(6))


def test_what_is_known_to_be_small_vanishes() -> None:
    maths = IndexMath(EXTENTS, DIM_MAX)
    i, n = Var("i"), Var("n")
    assert maths.floordiv(i, Const(5)) == ZERO and maths.mod(i, Const(5)) == i
    assert maths.floordiv(maths.add(maths.mul(i, Dim("d")), n), Dim("d")) == i
    assert maths.mod(maths.add(maths.mul(i, Dim("d")), n), Dim("d")) == n
    assert maths.mod(i, Const(4)) != i


SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4).map(tuple)


def factors(total: int, picks: list[int]) -> tuple[int, ...]:
    """A shape with `total` elements."""
    shape = []
    for pick in picks:
        divisors = [d for d in range(1, total + 1) if total % d == 0]
        shape.append(divisors[pick % len(divisors)])
        total //= shape[-1]
    return (*shape, total)


def consts(shape: tuple[int, ...]) -> tuple[Expr, ...]:
    """Sizes as expressions."""
    return tuple(Const(n) for n in shape)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(SHAPES)
def test_unflatten_is_unravel_index(shape: tuple[int, ...]) -> None:
    total = math.prod(shape)
    maths = IndexMath({"x": Const(total)}, {})
    index = unflatten(maths, Var("x"), consts(shape))
    for flat in range(total):
        assert tuple(value(e, {"x": flat}) for e in index) == tuple(int(i) for i in np.unravel_index(flat, shape))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(SHAPES, st.lists(st.integers(0, 11), max_size=3))
def test_reshape_index_is_the_position_in_the_old_shape(old: tuple[int, ...], picks: list[int]) -> None:
    new = factors(math.prod(old), picks)
    names = [f"v{d}" for d in range(len(new))]
    maths = IndexMath(dict(zip(names, consts(new), strict=True)), {})
    index = tuple(ZERO if n == 1 else Var(v) for v, n in zip(names, new, strict=True))
    moved = reshape_index(maths, index, consts(old), consts(new))
    for position in np.ndindex(*new):
        env = dict(zip(names, position, strict=True))
        flat = int(np.ravel_multi_index(position, new))
        assert tuple(value(e, env) for e in moved) == tuple(int(i) for i in np.unravel_index(flat, old))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(SHAPES, st.permutations(range(4)), st.lists(st.integers(0, 11), max_size=3))
def test_reshape_strides_are_those_of_a_view(shape: tuple[int, ...], order: list[int], picks: list[int]) -> None:
    dims = [d for d in order if d < len(shape)]
    source = torch.arange(math.prod(shape)).reshape(shape).permute(dims)
    new = factors(math.prod(shape), picks)
    strides = reshape_strides(consts(tuple(source.shape)), consts(source.stride()), consts(new))
    if strides is None:
        return
    found = torch.as_strided(source, new, [value(s, {}) for s in strides])
    assert torch.equal(found, source.reshape(new))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(SHAPES, st.lists(st.integers(0, 11), max_size=3))
def test_row_major_memory_is_never_moved_by_a_reshape(shape: tuple[int, ...], picks: list[int]) -> None:
    new = factors(math.prod(shape), picks)
    strides = reshape_strides(consts(shape), contiguous_strides(consts(shape)), consts(new))
    sized = [d for d, n in enumerate(new) if n != 1]
    expected = contiguous_strides(consts(new))
    assert strides is not None and [strides[d] for d in sized] == [expected[d] for d in sized]


def test_symbolic_dimensions_are_matched() -> None:
    d, w = Dim("d"), Const(32)
    assert view_groups((d, Const(4), Const(8)), (d, w)) == (((0,), (0,)), ((1, 2), (1,)))
    flat = (IndexMath({}, {}).mul(d, w),)
    assert view_groups((d, w), flat) == (((0, 1), (0,)),)
    assert view_groups((d, w), (d, Const(16))) is None
    assert reshape_strides((d, w), (w, ONE), flat) == (ONE,)
