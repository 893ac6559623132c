"""Facts about positions are true: what they say is compared with the computed tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.fx import Node

from tests.graphs import build
from ullage.passes.clean.fold_constants import evaluate
from ullage.passes.clean.index_facts import Affine, Comparison, IndexFacts
from ullage.passes.edit import Editor, shape_of

aten = torch.ops.aten
Draw = Callable[[st.SearchStrategy[Any]], Any]


def affine_values(fact: Affine, shape: tuple[int, ...]) -> torch.Tensor:
    total = torch.full(shape, fact.offset)
    for dim, slope in enumerate(reversed(fact.slopes), 1):
        if slope:
            position = [1] * len(shape)
            position[-dim] = shape[-dim]
            total = total + slope * torch.arange(shape[-dim]).reshape(position)
    return total


def assert_true(fact: Any, value: torch.Tensor) -> None:
    if isinstance(fact, bool):
        assert value.dtype == torch.bool and bool((value == fact).all())
    elif isinstance(fact, Comparison):
        assert torch.equal(affine_values(fact.value, tuple(value.shape)) <= 0, value)
    elif isinstance(fact, Affine):
        assert torch.equal(affine_values(fact, tuple(value.shape)), value.long())


class Walk:
    """Draws integer tensors of shape [n, n] or with ones, all made from `arange`."""

    def __init__(self, draw: Draw, edit: Editor) -> None:
        self.draw, self.edit = draw, edit
        self.n = draw(st.integers(2, 4))
        line = edit.call(aten.arange.start_step, draw(st.integers(-2, 2)), 99, 1, dtype=torch.int64)
        self.nodes = [edit.call(aten.slice.Tensor, line, 0, draw(st.integers(0, 3)), 99, 1)]
        self.nodes = [edit.call(aten.slice.Tensor, self.nodes[0], 0, 0, self.n, 1)]

    def pick(self) -> Node:
        return self.draw(st.sampled_from(self.nodes))

    def grow(self) -> None:
        step = self.draw(st.sampled_from([self.view, self.wide, self.number, self.pair, self.shift, self.look_up]))
        self.nodes.append(step())

    def view(self) -> Node:
        sizes = [n for n in shape_of(self.pick()) if n != 1]
        x = next(n for n in reversed(self.nodes) if [k for k in shape_of(n) if k != 1] == sizes)
        places = self.draw(st.lists(st.integers(0, len(sizes)), max_size=2))
        for place in sorted(places, reverse=True):
            sizes.insert(place, 1)
        return self.edit.call(aten.reshape.default, x, sizes)

    def wide(self) -> Node:
        x = self.pick()
        return self.edit.call(aten.expand.default, x, [self.n if n == 1 else n for n in shape_of(x)])

    def number(self) -> Node:
        op = self.draw(st.sampled_from([aten.add.Tensor, aten.sub.Tensor]))
        return self.edit.call(op, self.pick(), self.draw(st.integers(-2, 2)))

    def pair(self) -> Node:
        op = self.draw(st.sampled_from([aten.add.Tensor, aten.sub.Tensor]))
        return self.edit.call(op, self.pick(), self.pick())

    def shift(self) -> Node:
        """`[x₀ + c, x]` without its last element, as segment ids are made."""
        x = self.pick()
        dim = len(shape_of(x)) - 1
        first = self.edit.call(aten.slice.Tensor, x, dim, 0, 1, 1)
        before = self.edit.call(aten.add.Tensor, first, self.draw(st.integers(-1, 0)))
        both = self.edit.call(aten.cat.default, [before, x], dim)
        return self.edit.call(aten.slice.Tensor, both, dim, 0, shape_of(x)[dim], 1)

    def look_up(self) -> Node:
        line = self.edit.call(aten.arange.start_step, 5, 5 + 40, 1, dtype=torch.int64)
        place = self.edit.call(aten.clamp.default, self.pick(), 0, 39)
        places = [place if self.draw(st.booleans()) else self.nodes[0]]
        return self.edit.call(aten.index.Tensor, line, places)

    def compare(self) -> Node:
        ops = (aten.le.Tensor, aten.lt.Tensor, aten.ge.Tensor, aten.gt.Tensor, aten.eq.Tensor, aten.ne.Tensor)
        return self.edit.call(self.draw(st.sampled_from(ops)), self.pick(), self.pick())


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_facts_are_true(data: st.DataObject) -> None:
    def make(edit: Editor) -> tuple[Node, ...]:
        walk = Walk(data.draw, edit)
        for _ in range(data.draw(st.integers(1, 6))):
            if len(shape_of(walk.nodes[-1])) < 4:
                walk.grow()
        first, second = walk.compare(), walk.compare()
        return (*walk.nodes, first, second, edit.call(aten.bitwise_and.Tensor, first, second))

    model = build([], make)
    edit, facts = Editor.of(model), IndexFacts()
    for node in model.module.graph.output_node().args[0]:  # type: ignore[union-attr]
        assert_true(facts.of(node), evaluate(edit, node))  # type: ignore[arg-type]


def rows_and_columns(edit: Editor) -> tuple[Node, Node]:
    line = edit.call(aten.arange.start_step, 0, 5, 1, dtype=torch.int64)
    return edit.call(aten.reshape.default, line, [5, 1]), edit.call(aten.reshape.default, line, [1, 5])


@pytest.mark.parametrize(
    ("op", "swapped", "shift", "is_causal"),
    [
        (aten.le.Tensor, False, 0, True),
        (aten.ge.Tensor, True, 0, True),
        (aten.lt.Tensor, False, -1, True),
        (aten.gt.Tensor, True, 1, False),
        (aten.lt.Tensor, False, 0, False),
        (aten.le.Tensor, True, 0, False),
        (aten.le.Tensor, False, 1, False),
        (aten.eq.Tensor, False, 0, False),
    ],
)
def test_causal_comparisons(op: Any, swapped: bool, shift: int, is_causal: bool) -> None:
    def make(edit: Editor) -> Node:
        queries, keys = rows_and_columns(edit)
        shifted = edit.call(aten.add.Tensor, keys, shift)
        return edit.call(op, *((queries, shifted) if swapped else (shifted, queries)))

    model = build([], make)
    fact = IndexFacts().of(next(iter(model.module.graph.output_node().args[0])))  # type: ignore[union-attr, arg-type]
    assert (isinstance(fact, Comparison) and fact.is_causal(2)) == is_causal


def test_packed_sequences_of_one_document_are_one_segment() -> None:
    """Differences of neighbouring positions are 1, so no new segment begins and all segment ids are equal."""

    def make(edit: Editor) -> Node:
        line = edit.call(aten.arange.start_step, 0, 6, 1, dtype=torch.int64)
        first = edit.call(aten.sub.Tensor, edit.call(aten.slice.Tensor, line, 0, 0, 1, 1), 1)
        longer = edit.call(aten.cat.default, [first, line], 0)
        later, earlier = (edit.call(aten.slice.Tensor, longer, 0, start, start + 6, 1) for start in (1, 0))
        jumps = edit.call(aten.ne.Scalar, edit.call(aten.sub.Tensor, later, earlier), 1)
        ids = edit.call(aten.cumsum.default, jumps, 0)
        return edit.call(aten.eq.Tensor, edit.call(aten.reshape.default, ids, [6, 1]), ids)

    model = build([], make)
    assert IndexFacts().of(operator.getitem(model.module.graph.output_node().args[0], 0)) is True  # type: ignore[arg-type]
