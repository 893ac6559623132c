"""Constants under folding: boxes of recipes, what becomes a recipe, and that large constants never multiply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import Node

from tests.graphs import build, constant, random_inputs
from tests.passes.in_float64 import run_in_float64
from ullage.graph.captured import CapturedModel
from ullage.graph.constants import Box, ConstantRef
from ullage.graph.elementwise import Elementwise, literal, stepped
from ullage.graph.reference import run_captured
from ullage.graph.show import show
from ullage.passes.clean.compress import without_repeats
from ullage.passes.clean.fold_constants import FoldConstants
from ullage.passes.edit import Editor, calls
from ullage.passes.instruments import Verify
from ullage.passes.manager import PassManager

aten = torch.ops.aten


def values(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape) / 7


@st.composite
def boxes(draw: Any, shape: tuple[int, ...]) -> Box:
    starts = [draw(st.integers(0, n)) for n in shape]
    return tuple(slice(a, draw(st.integers(a, n))) for a, n in zip(starts, shape, strict=True))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.data(), st.integers(0, 2), st.integers(1, 4))
def test_any_box_of_a_stepped_constant(data: st.DataObject, dim: int, step: int) -> None:
    tensor = values(3, 5, 4)
    ref = stepped(literal("c", tensor), dim, step)
    whole = aten.slice.Tensor(tensor, dim, 0, 9, step)
    box = data.draw(boxes(ref.shape))
    assert ref.shape == tuple(whole.shape) and torch.equal(ref.read(box), whole[box])


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.data())
def test_any_box_of_an_elementwise_recipe_reads_only_what_it_needs(data: st.DataObject) -> None:
    table, row, scalar = values(3, 1, 4), values(5, 1), torch.tensor(2.0, dtype=torch.float64)
    args = (literal("t", table), literal("r", row))
    ref = ConstantRef("e", torch.float64, (3, 5, 4), Elementwise(aten.add.Tensor, args, (("alpha", 2),)))
    scaled = ConstantRef("f", torch.float64, (3, 5, 4), Elementwise(aten.mul.Tensor, (ref, literal("s", scalar))))
    box = data.draw(boxes((3, 5, 4)))
    assert torch.equal(scaled.read(box), ((table + 2 * row) * scalar)[box])


def test_keys_tell_recipes_apart() -> None:
    one, two = literal("a", values(2, 3)), literal("b", values(2, 3) + 1)
    refs = [
        ConstantRef("x", torch.float64, (2, 3), Elementwise(target, args))
        for target in (aten.add.Tensor, aten.mul.Tensor)
        for args in ((one, two), (two, one), (one, 1), (one, 1.0), (one, True))
    ]
    keys = [ref.source.key for ref in (*refs, one, two, stepped(one, 0, 2), stepped(one, 1, 2), stepped(one, 1, 3))]
    assert len(set(keys)) == len(keys)
    assert literal("c", values(2, 3)).source.key == one.source.key


def test_literals_do_not_follow_their_origin() -> None:
    tensor = values(2, 3)
    ref = literal("a", tensor)
    tensor.zero_()
    assert torch.equal(ref.read(), values(2, 3))


LARGE = (60, 50)
SMALL_LIMIT = FoldConstants(limit_bytes=1024)
Make = Callable[[Editor, Node], Any]


def folded(make: Make, shape: tuple[int, ...] = (2, 50)) -> tuple[CapturedModel, CapturedModel]:
    before = build([shape], make)
    after, _ = PassManager((SMALL_LIMIT,), (Verify(),)).run(before)
    inputs = random_inputs(before)
    for old, new in zip(run_captured(before, inputs), run_captured(after, inputs), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-12, atol=1e-12)
    return before, after


def constant_bytes(model: CapturedModel) -> int:
    return sum(ref.nbytes for ref in model.constants.values())


def targets(model: CapturedModel) -> list[Any]:
    return [node.target for node in calls(model.module.graph)]


def transposed_weight(edit: Editor, x: Node) -> Node:
    weight = edit.call(aten.permute.default, constant(edit, values(50, 60)), [1, 0])
    return edit.call(aten.linear.default, x, weight)


def wide_chain(edit: Editor, x: Node) -> Node:
    """Wider in between, but no larger at the end."""
    wide = edit.call(aten._to_copy.default, constant(edit, values(*LARGE).float()), dtype=torch.float64)
    scaled = edit.call(aten.mul.Tensor, wide, constant(edit, values(60, 1)))
    narrow = edit.call(aten._to_copy.default, scaled, dtype=torch.float32)
    return edit.call(aten.linear.default, edit.call(aten._to_copy.default, x, dtype=torch.float32), narrow)


def pieces_of_one(edit: Editor, x: Node) -> tuple[Node, ...]:
    whole = constant(edit, values(*LARGE))
    parts = [edit.call(aten.slice.Tensor, whole, 0, start, start + 20, 1) for start in (0, 20, 40)]
    return tuple(edit.call(aten.linear.default, x, part) for part in parts)


def stacked(edit: Editor, x: Node) -> Node:
    parts = [constant(edit, values(*LARGE) + i, f"part{i}") for i in range(3)]
    return edit.call(aten.linear.default, x, edit.call(aten.cat.default, parts, 0))


def regrouped(edit: Editor, x: Node) -> Node:
    weight = edit.call(aten.reshape.default, constant(edit, values(5, 12, 50)), [60, 50])
    return edit.call(aten.linear.default, x, weight)


@pytest.mark.parametrize("make", [transposed_weight, wide_chain, pieces_of_one, stacked, regrouped])
def test_large_weights_become_recipes_of_equal_size(make: Make) -> None:
    before, after = folded(make)
    assert constant_bytes(after) <= constant_bytes(before)
    assert set(targets(after)) <= {aten.linear.default, aten._to_copy.default}
    assert all(not hasattr(ref.source, "tensor") for ref in after.constants.values()), show(after)


def tied(edit: Editor, x: Node) -> tuple[Node, Node]:
    table = constant(edit, values(50, 60))
    rows = edit.call(
        aten.embedding.default,
        table,
        edit.call(aten._to_copy.default, edit.call(aten.abs.default, x), dtype=torch.int64),
    )
    return edit.call(aten.linear.default, x, edit.call(aten.permute.default, table, [1, 0])), edit.call(
        aten.neg.default, rows
    )


def grown(edit: Editor, x: Node) -> Node:
    left, right = constant(edit, values(60, 1)), constant(edit, values(1, 50))
    return edit.call(aten.linear.default, x, edit.call(aten.mul.Tensor, left, right))


def overlapping(edit: Editor, x: Node) -> tuple[Node, Node]:
    whole = constant(edit, values(*LARGE))
    parts = [edit.call(aten.slice.Tensor, whole, 0, start, start + 50, 1) for start in (0, 10)]
    return tuple(edit.call(aten.linear.default, x, part) for part in parts)  # type: ignore[return-value]


@pytest.mark.parametrize("make", [tied, grown, overlapping])
def test_folding_does_not_make_large_constants_grow(make: Make) -> None:
    before, after = folded(make)
    assert constant_bytes(after) <= constant_bytes(before) + SMALL_LIMIT.limit_bytes
    assert set(targets(after)) & {aten.permute.default, aten.mul.Tensor, aten.slice.Tensor}


def test_random_numbers_are_not_constant() -> None:
    def make(edit: Editor, x: Node) -> Node:
        noise = edit.call(aten.bernoulli.p, constant(edit, torch.ones(2, 50, dtype=torch.float64)), 0.5)
        return edit.call(aten.mul.Tensor, x, noise)

    after, _ = PassManager((FoldConstants(),)).run(build([(2, 50)], make))
    assert aten.bernoulli.p in targets(after)


def test_a_row_of_a_large_table_is_read_alone() -> None:
    class Refusing:
        key = "refusing"

        def read(self, box: Box) -> torch.Tensor:
            assert box[0] == slice(7, 8), "the whole table was read"
            return values(1, 50)

    def make(edit: Editor, x: Node) -> Node:
        table = edit.add_constant(ConstantRef("table", torch.float64, (10_000, 50), Refusing()))
        return edit.call(aten.add.Tensor, x, edit.call(aten.slice.Tensor, table, 0, 7, 8, 1))

    after, _ = PassManager((FoldConstants(),)).run(build([(2, 50)], make))
    assert targets(after) == [aten.add.Tensor]


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (torch.zeros(3, 4), (1, 1)),
        (torch.tensor([[0.0, -0.0]]), (1, 2)),
        (torch.tensor([[1.0, 2.0], [1.0, 2.0]]), (1, 2)),
        (torch.full((2, 2), float("nan")), (1, 1)),
        (torch.ones(2, 3, dtype=torch.bool), (1, 1)),
        (torch.arange(3), (3,)),
    ],
)
def test_repeats_are_kept_once(tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    small = without_repeats(tensor)
    assert tuple(small.shape) == shape
    assert torch.equal(small.expand(tensor.shape).nan_to_num(7), tensor.nan_to_num(7))


def test_weights_stay_whole_even_if_they_repeat() -> None:
    def make(edit: Editor, x: Node) -> Node:
        weight = edit.call(aten.mul.Tensor, constant(edit, torch.ones(3, 50, dtype=torch.float64)), 2.0)
        return edit.call(aten.linear.default, x, weight)

    after, _ = run_in_float64(build([(2, 50)], make), Verify())
    assert [ref.shape for ref in after.constants.values()] == [(3, 50)] and targets(after) == [aten.linear.default]
