"""Only calls that compute the same thing are merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx import Node

from tests.graphs import build, constant
from ullage.passes.clean.common_subexpressions import CommonSubexpressions
from ullage.passes.edit import Editor, calls
from ullage.passes.manager import PassManager

aten = torch.ops.aten


def left_after(first: Any, second: Any) -> int:
    """How many of two calls are left; each is a function of (edit, x)."""
    model = build([(2, 3)], lambda edit, x: (first(edit, x), second(edit, x)), torch.int64)
    after, _ = PassManager((CommonSubexpressions(),)).run(model)
    return len(list(calls(after.module.graph)))


def call(target: Any, *args: Any, **kwargs: Any) -> Any:
    return lambda edit, x: edit.call(target, x, *args, **kwargs)


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (call(aten.mul.Tensor, 2), call(aten.mul.Tensor, 2), 1),
        (call(aten.mul.Tensor, 1), call(aten.mul.Tensor, 1.0), 2),
        (call(aten.mul.Tensor, 1), call(aten.mul.Tensor, True), 2),
        (call(aten.mul.Tensor, 0.0), call(aten.mul.Tensor, -0.0), 2),
        (call(aten.add.Tensor, 1), call(aten.mul.Tensor, 1), 2),
        (call(aten.add.Tensor, 1, alpha=2), call(aten.add.Tensor, 1, alpha=3), 2),
        (call(aten.permute.default, [1, 0]), call(aten.permute.default, [1, 0]), 1),
        (call(aten.permute.default, [1, 0]), call(aten.permute.default, [0, 1]), 2),
        (call(aten._to_copy.default, dtype=torch.int32), call(aten._to_copy.default, dtype=torch.float32), 2),
        (call(aten.rand_like.default, dtype=torch.float32), call(aten.rand_like.default, dtype=torch.float32), 2),
    ],
)
def test_calls(first: Any, second: Any, left: int) -> None:
    assert left_after(first, second) == left


def test_constants_of_one_source_are_one() -> None:
    tensor = torch.arange(6).reshape(2, 3)

    def make(edit: Editor, x: Node) -> Node:
        same = [constant(edit, tensor, "a"), constant(edit, tensor, "b"), constant(edit, tensor.clone(), "c")]
        for part in same:
            x = edit.call(aten.add.Tensor, x, part)
        return x

    after, rewrites = PassManager((CommonSubexpressions(),)).run(build([(2, 3)], make, torch.int64))
    assert list(after.constants) == ["a", "c"] and [r.where for r in rewrites] == ["b"]
