"""Stores at places that are data, and sorts: shown, verified, brought to normal form and interpreted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ullage.codegen.loops.evaluate import evaluate
from ullage.codegen.loops.ir import Apply, Buffer, Const, Dim, Expr, Load, Loop, LoopKernel, Sort, Stage, Store, Var
from ullage.codegen.loops.normal import has_scan, normalise, scatters, sorts
from ullage.codegen.loops.show import show
from ullage.codegen.loops.sorting import order_elements, room
from ullage.codegen.loops.verify import problems, verify

I, J, K = Var("i"), Var("j"), Var("k")  # noqa: E741


def op(name: str, *args: Expr) -> Expr:
    return Apply(name, args, "bool" if name in ("lt", "ge", "and") else args[-1].dtype)


def at(row: Expr, column: Expr, width: int) -> Expr:
    return op("add", op("mul", row, Const(width)), column)


def scatter(combine: bool) -> LoopKernel:
    """[3, 4] with [3, 6] written along its rows at `ids`, or added there."""
    place = Load("ids", at(I, J, 6), "int64")
    inside = op("and", op("ge", place, Const(0)), op("lt", place, Const(4)))
    index = at(I, place, 4)
    value: Expr = Load("src", at(I, J, 6), "float32", inside)
    value = op("add", Load("y", index, "float32", inside), value) if combine else value
    return LoopKernel(
        (Buffer("x", "float32", "r"), Buffer("ids", "int64", "r"), Buffer("src", "float32", "r"),
         Buffer("y", "float32", "w")), (), (Loop("i", Const(3)),),
        (Stage((Loop("k", Const(4)),), (Store("y", at(I, K, 4), Load("x", at(I, K, 4), "float32")),)),
         Stage((Loop("j", Const(6)),), (Store("y", index, value, inside),))),
    )  # fmt: skip


def sort(count: int = 5, descending: bool = False, elements: int = 10) -> LoopKernel:
    """The positions of the first of 5 values in each of n rows."""
    order = Buffer("order", "int64", "local", Const(elements))
    return LoopKernel(
        (Buffer("x", "float32", "r"), Buffer("y", "int64", "w"), order), ("n",), (Loop("i", Dim("n")),),
        (Stage((Loop("j", Const(5)),), (Sort("order", Load("x", at(I, J, 5), "float32"), Const(count), descending),)),
         Stage((Loop("k", Const(count)),), (Store("y", at(I, K, count), Load("order", K, "int64")),))),
    )  # fmt: skip


GOLDEN = """\
kernel dims n
  r x: float32
  w y: int64
  local order: int64[10]
  for i < n
    for j < 5:
      order = first 5 descending x[((i * 5) + j)]
    for k < 5:
      y[((i * 5) + k)] = order[k]
"""


def test_both_are_shown() -> None:
    assert show(sort(descending=True)) == GOLDEN
    line = show(scatter(False)).splitlines()[-1].strip()
    assert line == (
        "y[((i * 4) + ids[((i * 6) + j)])] = src[((i * 6) + j)"
        " if ((ids[((i * 6) + j)] >= 0) & (ids[((i * 6) + j)] < 4)) else 0]"
        " if ((ids[((i * 6) + j)] >= 0) & (ids[((i * 6) + j)] < 4))"
    )


def test_both_are_legal() -> None:
    for kernel in (sort(), sort(3), scatter(False), scatter(True)):
        verify(kernel)
        verify(normalise(kernel))


def _with_sort(change: Sort, *more: Store) -> LoopKernel:
    kernel = sort()
    return replace(kernel, stages=(replace(kernel.stages[0], body=(change, *more)), kernel.stages[1]))


SORT = sort().stages[0].body[0]
assert isinstance(SORT, Sort)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (sort(elements=9), "order has 9 elements, not as many as a sort needs"),
        (_with_sort(replace(SORT, order="x")), "positions go to a local buffer of int64"),
        (_with_sort(replace(SORT, order="nothing")), "positions go to a local buffer of int64"),
        (_with_sort(replace(SORT, count=I)), "what a sort keeps may use constants and dimensions only"),
        (_with_sort(SORT, Store("y", I, Const(1))), "a sort is alone in a stage of one loop"),
        (_with_sort(replace(SORT, value=Load("x", K, "float32"))), "variable k has no loop"),
    ],
)
def test_each_rule_for_sorts(broken: LoopKernel, complaint: str) -> None:
    assert any(complaint in problem for problem in problems(broken)), list(problems(broken))


def test_masks_are_bool() -> None:
    kernel = scatter(False)
    store = kernel.stages[1].body[0]
    assert isinstance(store, Store)
    broken = replace(kernel, stages=(kernel.stages[0], replace(kernel.stages[1], body=(replace(store, mask=I),))))
    assert list(problems(broken)) == ["mask of a store to y is int64, not bool"]


def test_normal_form_keeps_their_loops() -> None:
    """Iterations that may meet stay in their stage and in order, and a sort of one value keeps its loop."""
    found = normalise(scatter(True))
    assert [scatters(stage) for stage in found.stages] == [False, True] and len(found.stages[1].loops) == 1
    alone = replace(scatter(False), stages=scatter(False).stages[1:])
    assert normalise(alone).stages[0].loops, "a single stage of stores at places that are data is not outer points"
    kernel = normalise(sort())
    assert [sorts(s) for s in kernel.stages] == [has_scan(s) for s in kernel.stages] == [True, False]


@pytest.mark.parametrize("combine", [False, True])
def test_iterations_that_meet_are_run_in_order(combine: bool) -> None:
    x, src = np.arange(12, dtype=np.float32), np.arange(100, 118, dtype=np.float32)
    ids = np.array([0, 0, 3, -1, 0, 4, 1, 1, 1, 1, 1, 1, 2, 0, 2, 0, 9, -9])
    wanted = x.reshape(3, 4).copy()
    for n, place in enumerate(ids):
        if 0 <= place < 4:
            wanted[n // 6, place] = src[n] + (wanted[n // 6, place] if combine else 0)
    buffers = {"x": x, "ids": ids, "src": src, "y": np.zeros(12, np.float32)}
    evaluate(scatter(combine), buffers, {})
    assert np.array_equal(buffers["y"].reshape(3, 4), wanted)


def test_sorting_keeps_the_order_of_equal_values_and_puts_nan_last() -> None:
    nan = float("nan")
    rows = np.array([2, 0, nan, -0.0, 2, nan, nan, 1, 1, 0], np.float32)
    for descending, wanted in ((False, [1, 3, 0, 4, 2, 4, 2, 3, 0, 1]), (True, [2, 0, 4, 1, 3, 0, 1, 2, 3, 4])):
        buffers = {"x": rows, "y": np.zeros(10, np.int64)}
        evaluate(sort(descending=descending), buffers, {"n": 2})
        assert buffers["y"].tolist() == wanted


def test_few_of_many_need_little_memory() -> None:
    n, k = Dim("n"), Dim("k")
    assert room(n, n) == n and room(Const(1000), Const(2)) == Const(64) and room(Const(50), Const(3)) == Const(50)
    assert order_elements("int8", Const(1000), Const(100)) == Const(800)
    assert order_elements("float64", Const(7), Const(7)) == Const(28)
    assert isinstance(room(n, k), Apply)
