"""Kernels that write at computed places and kernels that sort, on every instruction set, against the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.codegen.cpp.loop_runner import ISAS, Case, check_cases, filled, target
from ullage.codegen.cpp.emit import emit
from ullage.codegen.loops.evaluate import STORAGE
from ullage.codegen.loops.ir import (
    Apply,
    Buffer,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    Loop,
    LoopKernel,
    Sort,
    Stage,
    Store,
    Var,
)
from ullage.codegen.loops.sorting import order_elements

I, J, K, N = Var("i"), Var("j"), Var("k"), Dim("n")  # noqa: E741
RNG = np.random.default_rng(5)


def op(name: str, *args: Expr) -> Expr:
    return Apply(name, args, "bool" if name in ("lt", "ge", "and") else args[-1].dtype)


def at(row: Expr, column: Expr, width: Expr) -> Expr:
    return op("add", op("mul", row, width), column)


def scatter(dtype: str, rows: int, length: int, places: int, by_rows: bool, adds: bool) -> Case:
    """[rows, n] with `places` values per row written along it; or, transposed, rows of n at places of their own.

    Some places are outside, and as many rows as there are less 2 have any.
    """
    step = Load("ids", at(I, J, Const(places)) if by_rows else J, "int64")
    inside = op("and", op("ge", step, Const(0)), op("lt", step, N))
    inside = op("and", op("lt", I, Const(rows - 2)), inside)
    index = at(I, step, N) if by_rows else at(step, I, Const(rows))
    copied = at(I, K, N) if by_rows else at(K, I, Const(rows))
    source = at(I, J, Const(places)) if by_rows else at(J, I, Const(rows))
    value: Expr = Load("src", source, dtype, inside)
    if adds:
        wide = "float32" if dtype in ("float16", "bfloat16") else dtype
        total = op("add", _as(Load("y", index, dtype, inside), wide), _as(value, wide))
        value = _as(total, dtype)
    kernel = LoopKernel(
        (Buffer("x", dtype, "r"), Buffer("ids", "int64", "r"), Buffer("src", dtype, "r"), Buffer("y", dtype, "w")),
        ("n",), (Loop("i", Const(rows)),),
        (Stage((Loop("k", N),), (Store("y", copied, Load("x", copied, dtype)),)),
         Stage((Loop("j", Const(places)),), (Store("y", index, value, inside),))),
    )  # fmt: skip
    ids = RNG.integers(-1, length + 2, rows * places)
    size = rows * length
    buffers: dict[str, Any] = {
        "x": filled(dtype, size, RNG), "ids": ids, "src": filled(dtype, rows * places, RNG),
        "y": np.zeros(size, STORAGE[dtype]),
    }  # fmt: skip
    return Case(kernel, buffers, {"n": length})


def _as(e: Expr, dtype: str) -> Expr:
    return e if e.dtype == dtype else Cast(e, dtype)


def sort(dtype: str, rows: int, length: int, count: int, descending: bool) -> Case:
    """Positions and values of the first `count` of each row in order."""
    size = Const(length)
    value = Load("x", at(I, J, size), dtype)
    value = Cast(value, "float32") if dtype in ("float16", "bfloat16") else value
    order = Buffer("order", "int64", "local", order_elements(value.dtype, size, Const(count)))
    place = Load("order", K, "int64")
    kernel = LoopKernel(
        (Buffer("x", dtype, "r"), Buffer("y", "int64", "w"), Buffer("z", dtype, "w"), order), (),
        (Loop("i", Const(rows)),),
        (Stage((Loop("j", size),), (Sort("order", value, Const(count), descending),)),
         Stage((Loop("k", Const(count)),), (Store("y", at(I, K, Const(count)), place),
                                            Store("z", at(I, K, Const(count)), Load("x", at(I, place, size), dtype)))))
    )  # fmt: skip
    x = filled(dtype, rows * length, RNG)
    if dtype in ("float32", "float64", "float16"):
        x[RNG.integers(0, x.size, x.size // 4)] = RNG.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], x.size // 4)
    out = {"y": np.zeros(rows * count, np.int64), "z": np.zeros(rows * count, x.dtype)}
    return Case(kernel, {"x": x, **out}, {})


def test_writes_at_computed_places() -> None:
    cases = [
        scatter(dtype, rows, length, places, by_rows, adds)
        for dtype, adds in (("float32", True), ("bfloat16", True), ("int64", True), ("bool", False), ("int8", False))
        for rows, length, places, by_rows in ((5, 9, 30, True), (37, 6, 20, False))
    ]
    check_cases(cases)


def test_sorting() -> None:
    shapes = [("float32", 3, 40, 40), ("float64", 2, 33, 33), ("int64", 3, 300, 10), ("int8", 5, 20, 20)]
    shapes += [("float16", 2, 1, 1), ("bool", 3, 65, 65), ("float32", 2, 2000, 33), ("uint8", 1, 700, 40)]
    check_cases([sort(*shape, descending) for shape in shapes for descending in (False, True)])


def test_equal_rows_and_rows_in_order_are_found_among_many() -> None:
    """What comes in grows until it is sorted away, again and again."""
    cases = []
    for x in (np.zeros(900), np.arange(900.0), -np.arange(900.0), np.tile([3.0, 1.0, 2.0], 300)):
        case = sort("float32", 1, 900, 20, True)
        cases.append(Case(case.kernel, {**case.buffers, "x": x.astype(np.float32)}, {}))
    check_cases(cases, isas=ISAS[:1])


def test_only_rows_whose_places_are_the_same_become_vectors() -> None:
    """Rows with places of their own are walked one by one; of those that share theirs several are walked at once."""
    apart = emit(scatter("float32", 64, 9, 30, True, True).kernel, target(ISAS[0])).source
    together = emit(scatter("float32", 64, 9, 30, False, True).kernel, target(ISAS[0])).source
    assert "ull_scatter<float" in together and "ull_scatter<" not in apart


def test_what_is_in_place_is_not_copied() -> None:
    assert "!= (const void *)" in emit(scatter("float32", 5, 9, 30, True, True).kernel, target(ISAS[0])).source
