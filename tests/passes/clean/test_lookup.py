"""Table look-ups become embeddings or reshapes exactly where that is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.fx import Node

from tests.graphs import build, constant, random_inputs
from ullage.graph.reference import run_captured
from ullage.graph.show import show_op
from ullage.passes.edit import Editor, calls
from ullage.passes.manager import PassManager
from ullage.passes.pipelines import parse

aten = torch.ops.aten
Make = Callable[[Editor, Node], Any]


def line(edit: Editor, start: int, stop: int, *shape: int) -> Node:
    whole = edit.call(aten.arange.start_step, start, stop, 1, dtype=torch.int64)
    return edit.call(aten.reshape.default, whole, list(shape)) if shape else whole


def at(*places: Callable[[Editor], Node]) -> Make:
    return lambda edit, x: edit.call(aten.index.Tensor, x, [place(edit) for place in places])


def listed(*values: int) -> Callable[[Editor], Node]:
    return lambda edit: constant(edit, torch.tensor(values))


def final_op(make: Make) -> str:
    """The operator that makes the result of looking things up in a [4, 5] table."""
    before = build([(4, 5)], make)
    after, _ = PassManager(parse("canonicalize, views")).run(before)
    inputs = random_inputs(before)
    assert torch.equal(run_captured(before, inputs)[0], run_captured(after, inputs)[0])
    return show_op(list(calls(after.module.graph))[-1].target)


@pytest.mark.parametrize(
    ("make", "op"),
    [
        (at(listed(3, 0, 3)), "embedding"),
        (at(listed(3, -1)), "index.Tensor"),
        (at(lambda edit: line(edit, 1, 4)), "embedding"),
        (at(lambda edit: line(edit, -2, 2)), "index.Tensor"),
        (lambda edit, x: edit.call(aten.index_select.default, x, 0, constant(edit, torch.tensor([1, 2]))), "embedding"),
        (
            lambda edit, x: edit.call(aten.index_select.default, x, 1, constant(edit, torch.tensor([1, 2]))),
            "index_select",
        ),
        (at(listed(1, 2), listed(0, 4)), "index.Tensor"),
    ],
)
def test_rows(make: Make, op: str) -> None:
    assert final_op(make) == op


@pytest.mark.parametrize(
    ("rows", "columns", "op"),
    [
        ((0, 4, 4, 1, 1), (0, 5, 1, 1, 5), "reshape"),
        ((0, 4, 1, 4), (0, 5, 5, 1), "index.Tensor"),
        ((1, 4, 3, 1), (0, 5, 1, 5), "index.Tensor"),
        ((0, 4, 4, 1), (0, 4, 1, 4), "index.Tensor"),
    ],
)
def test_everything(rows: tuple[int, ...], columns: tuple[int, ...], op: str) -> None:
    assert final_op(at(lambda edit: line(edit, *rows), lambda edit: line(edit, *columns))) == op
