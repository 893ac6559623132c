"""Views compose and cancel: how many remain, and that they still show the same elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import Node

from tests.graphs import build, constant
from ullage.graph.captured import CapturedModel
from ullage.graph.reference import run_captured
from ullage.graph.show import show_op
from ullage.passes.edit import Editor, args_of, calls
from ullage.passes.instruments import Verify
from ullage.passes.manager import PassManager
from ullage.passes.pipelines import parse

aten = torch.ops.aten
Make = Callable[..., Any]


def after_views(make: Make, *shapes: tuple[int, ...], exact: bool = True) -> tuple[CapturedModel, list[str]]:
    before = build(list(shapes), make)
    after, _ = PassManager(parse("canonicalize, views, simplify, views"), (Verify(),)).run(before)
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    for old, new in zip(run_captured(before, inputs), run_captured(after, inputs), strict=True):
        assert torch.equal(old, new) if exact else torch.allclose(old, new, rtol=1e-12)
    return after, [show_op(node.target) for node in calls(after.module.graph)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_slices_of_slices_are_one(data: st.DataObject) -> None:
    def cut(size: int) -> tuple[int, int, int]:
        start = data.draw(st.integers(0, size - 1))
        return start, data.draw(st.integers(start + 1, size)), data.draw(st.integers(1, 3))

    first = cut(12)
    second = cut(-(-(first[1] - first[0]) // first[2]))

    def make(edit: Editor, x: Node) -> Node:
        return edit.call(aten.slice.Tensor, edit.call(aten.slice.Tensor, x, 1, *first), 1, *second)

    assert len(after_views(make, (2, 12))[1]) <= 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.permutations(range(4)), min_size=1, max_size=3))
def test_permutes_are_one_or_none(orders: list[list[int]]) -> None:
    def make(edit: Editor, x: Node) -> Node:
        for order in orders:
            x = edit.call(aten.permute.default, x, list(order))
        return edit.call(aten.neg.default, x)

    names = after_views(make, (2, 3, 4, 5))[1]
    assert names in (["neg"], ["permute", "neg"])
    total = list(range(4))
    for order in orders:
        total = [total[d] for d in order]
    assert (total == [0, 1, 2, 3]) == (names == ["neg"])


@pytest.mark.parametrize(
    ("start", "stop", "is_inside"),
    [(0, 2, True), (2, 5, True), (3, 4, True), (1, 3, False), (0, 5, False), (5, 6, True)],
)
def test_slices_of_a_cat_read_its_parts(start: int, stop: int, is_inside: bool) -> None:
    def make(edit: Editor, x: Node, y: Node, z: Node) -> Node:
        return edit.call(aten.slice.Tensor, edit.call(aten.cat.default, [x, y, z], 1), 1, start, stop, 1)

    names = after_views(make, (2, 2), (2, 3), (2, 1))[1]
    assert ("cat" not in names) == is_inside


@pytest.mark.parametrize(
    ("spans", "left"),
    [
        (((0, 2), (2, 5)), ["slice.Tensor"]),
        (((0, 2), (2, 5), (5, 6)), []),
        (((2, 4), (0, 2)), ["slice.Tensor", "slice.Tensor", "cat"]),
        (((0, 2), (3, 5)), ["slice.Tensor", "slice.Tensor", "cat"]),
        (((3, 6), (0, 1), (1, 3)), ["slice.Tensor", "slice.Tensor", "cat"]),
    ],
)
def test_neighbouring_slices_are_joined(spans: tuple[tuple[int, int], ...], left: list[str]) -> None:
    def make(edit: Editor, x: Node) -> Node:
        return edit.call(aten.cat.default, [edit.call(aten.slice.Tensor, x, 1, a, b, 1) for a, b in spans], 1)

    assert after_views(make, (2, 6))[1] == left


def test_permutes_of_single_elements_are_reshapes() -> None:
    _, names = after_views(lambda edit, x: edit.call(aten.permute.default, x, [1, 0, 2]), (1, 3, 4))
    assert names == ["reshape"]
    assert after_views(lambda edit, x: edit.call(aten.permute.default, x, [2, 1, 0]), (2, 1, 3))[1] == ["permute"]


def around(order: list[int], back: list[int], constant_shape: tuple[int, ...]) -> Make:
    def make(edit: Editor, x: Node, y: Node) -> Node:
        first, second = (edit.call(aten.permute.default, t, order) for t in (x, y))
        weight = constant(
            edit, torch.arange(1.0, 1 + torch.Size(constant_shape).numel()).double().reshape(constant_shape)
        )
        total = edit.call(aten.mul.Tensor, edit.call(aten.add.Tensor, first, second), weight)
        return edit.call(aten.permute.default, edit.call(aten.abs.default, total), back)

    return make


def test_permutes_cancel_around_elementwise_operators() -> None:
    names = after_views(around([0, 2, 3, 1], [0, 3, 1, 2], (2, 4, 5, 3)), (2, 3, 4, 5), (2, 3, 4, 5))[1]
    assert names.count("permute") == 1, "that of the constant is left, for folding"


def test_permutes_cancel_around_a_factor_per_channel() -> None:
    """The vector gets the rank of the whole first."""
    assert after_views(around([0, 2, 3, 1], [0, 3, 1, 2], (3,)), (2, 3, 4, 5), (2, 3, 4, 5))[1].count("permute") <= 1


def test_permutes_stay_where_they_do_not_cancel() -> None:
    names = after_views(around([0, 2, 3, 1], [0, 2, 1, 3], (2, 4, 5, 3)), (2, 3, 4, 5), (2, 3, 4, 5))[1]
    assert names.count("permute") == 3


def test_an_expand_stays_where_it_gives_the_shape() -> None:
    def make(edit: Editor, x: Node, y: Node) -> Node:
        return edit.call(
            aten.add.Tensor, edit.call(aten.expand.default, x, [4, 3]), edit.call(aten.expand.default, y, [4, 3])
        )

    assert after_views(make, (1, 3), (1, 3))[1].count("expand") == 1
    assert after_views(make, (1, 3), (4, 1))[1] == ["add.Tensor"]


def test_an_expand_stays_where_it_gives_the_rank() -> None:
    def make(edit: Editor, x: Node, y: Node) -> Node:
        return edit.call(aten.add.Tensor, *(edit.call(aten.expand.default, t, [3, 3]) for t in (x, y)))

    assert after_views(make, (3,), (3,))[1].count("expand") == 1


def test_an_expand_moves_behind_what_works_on_it_alone() -> None:
    def make(edit: Editor, x: Node) -> Node:
        wide = edit.call(aten.expand.default, x, [4, 3])
        return edit.call(aten.mul.Tensor, edit.call(aten.neg.default, wide), 2.0)

    _, names = after_views(make, (1, 3))
    assert names == ["neg", "mul.Tensor", "expand"]


@pytest.mark.parametrize(("shape", "is_moved"), [((6, 4), True), ((3, 2, 4), True), ((12, 2), False)])
def test_rows_are_regrouped_behind_linear(shape: tuple[int, ...], is_moved: bool) -> None:
    def make(edit: Editor, x: Node) -> Node:
        weight = constant(edit, torch.randn(5, shape[-1], dtype=torch.float64))
        return edit.call(aten.linear.default, edit.call(aten.reshape.default, x, list(shape)), weight)

    names = after_views(make, (2, 3, 4), exact=False)[1]
    assert names == (["linear", "reshape"] if is_moved else ["reshape", "linear"])


def test_batch_dimensions_of_products_are_kept() -> None:
    def make(edit: Editor, x: Node, y: Node) -> Node:
        left = edit.call(aten.reshape.default, x, [6, 4, 5])
        right = edit.call(aten.reshape.default, edit.call(aten.expand.default, y, [2, 3, 5, 4]), [6, 5, 4])
        product = edit.call(aten.bmm.default, left, right)
        return edit.call(aten.reshape.default, product, [2, 3, 4, 4])

    after, names = after_views(make, (2, 3, 4, 5), (2, 1, 5, 4), exact=False)
    assert names == ["matmul"]
    (product,) = calls(after.module.graph)
    assert all(node.op == "placeholder" for node in args_of(product))


def test_products_are_flattened_for_kernels() -> None:
    def make(edit: Editor, x: Node, y: Node) -> Node:
        return edit.call(aten.matmul.default, x, y)

    before = build([(2, 3, 4, 5), (3, 5, 6)], make)
    after, _ = PassManager(parse("flatten_products"), (Verify(),)).run(before)
    inputs = [torch.randn(s.shape, dtype=torch.float64) for s in before.inputs]
    assert torch.allclose(run_captured(before, inputs)[0], run_captured(after, inputs)[0])
    assert "matmul" not in [show_op(node.target) for node in calls(after.module.graph)]
