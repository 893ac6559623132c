"""Small graphs before and after single passes, as text."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.fx import Node

from tests.graphs import build, constant, random_inputs
from ullage.graph.captured import CapturedModel
from ullage.graph.reference import run_captured
from ullage.graph.show import show
from ullage.passes.edit import Editor
from ullage.passes.instruments import Verify
from ullage.passes.manager import PassManager
from ullage.passes.pipelines import parse

aten = torch.ops.aten
Golden = Callable[[str, str], None]


def _values(*shape: int) -> torch.Tensor:
    return torch.arange(1.0, 1 + torch.Size(shape).numel(), dtype=torch.float64).reshape(shape) / 8


def views(edit: Editor, x: Node) -> Node:
    y = edit.call(aten.unsqueeze.default, x, 1)
    y = edit.call(aten.squeeze.dim, edit.call(aten.transpose.int, y, 2, -1), 1)
    return edit.call(aten.select.int, y, -1, -1)


def split(edit: Editor, x: Node) -> Node:
    parts = edit.call(aten.split.Tensor, x, 1, -1)
    return edit.call(aten.stack.default, [edit.call(operator.getitem, parts, i) for i in (2, 0)], 0)


def arithmetic(edit: Editor, x: Node) -> Node:
    y = edit.call(aten.sub.Tensor, edit.call(aten.rsub.Scalar, x, 2.0), 0.0)
    y = edit.call(aten.div.Tensor, edit.call(aten.add.Tensor, y, x, alpha=3), 4.0)
    y = edit.call(aten.pow.Tensor_Scalar, edit.call(aten.hardtanh.default, y, 0.0, 6.0), 2)
    full = edit.call(aten.full.default, [2, 3], 0.5, dtype=torch.float64)
    return edit.call(aten.masked_fill.Scalar, y, edit.call(aten.gt.Tensor, full, x), -1.0)


def products(edit: Editor, x: Node) -> Node:
    rows = edit.call(aten.addmm.default, constant(edit, _values(4)), x, constant(edit, _values(3, 4)))
    square = edit.call(aten.mm.default, rows, edit.call(aten.permute.default, rows, [1, 0]))
    return edit.call(aten.add.Tensor, edit.call(aten.mm.default, square, constant(edit, _values(2, 3))), x)


def batched(edit: Editor, x: Node) -> Node:
    a = edit.call(aten.reshape.default, edit.call(aten.expand.default, x, [2, 3, 2, 4]), [6, 2, 4])
    b = edit.call(aten.reshape.default, edit.call(aten.permute.default, x, [0, 1, 3, 2]), [6, 4, 2])
    return edit.call(aten.reshape.default, edit.call(aten.bmm.default, a, b), [2, 3, 2, 2])


def convolution(edit: Editor, x: Node) -> Node:
    weight = constant(edit, _values(2, 3, 3))
    return edit.call(aten.convolution.default, x, weight, None, [1], [1], [1], False, [0], 1)


def masks(edit: Editor, x: Node) -> Node:
    places = edit.call(aten.arange.start_step, 0, 4, 1, dtype=torch.int64)
    rows = edit.call(aten.reshape.default, places, [4, 1])
    keep = edit.call(aten.le.Tensor, places, rows)
    zero, least = (edit.call(aten.full.default, [], v, dtype=torch.float64) for v in (0.0, -1e300))
    added = edit.call(aten.where.self, keep, zero, least)
    real = edit.call(aten.ge.Scalar, rows, 0)
    wide = edit.call(aten.expand.default, real, [4, 4])
    return edit.call(aten.where.self, wide, edit.call(aten.add.Tensor, x, added), x)


def large_weights(edit: Editor, x: Node) -> Node:
    weight = edit.call(aten.permute.default, constant(edit, torch.ones(300, 200, dtype=torch.float64)), [1, 0])
    scaled = edit.call(aten.mul.Tensor, weight, constant(edit, _values(200, 1)))
    return edit.call(aten.linear.default, x, scaled)


def chains(edit: Editor, x: Node) -> Node:
    y = edit.call(aten.permute.default, edit.call(aten.permute.default, x, [1, 2, 0]), [1, 2, 0])
    y = edit.call(aten.permute.default, edit.call(aten.neg.default, y), [1, 2, 0])
    y = edit.call(aten.reshape.default, edit.call(aten.reshape.default, y, [24]), [4, 6])
    y = edit.call(aten.slice.Tensor, edit.call(aten.slice.Tensor, y, 1, 1, 6, 1), 1, 2, 4, 1)
    return edit.call(aten.cat.default, [y, edit.call(aten.slice.Tensor, y, 0, 0, 4, 1)], 0)


def rows_of_linear(edit: Editor, x: Node) -> Node:
    rows = edit.call(aten.reshape.default, x, [6, 4])
    y = edit.call(aten.linear.default, rows, constant(edit, _values(5, 4)))
    return edit.call(aten.reshape.default, y, [2, 3, 5])


def algebra(edit: Editor, x: Node) -> Node:
    y = edit.call(aten.mul.Tensor, edit.call(aten.add.Tensor, x, -0.0), 1)
    y = edit.call(aten.neg.default, edit.call(aten.neg.default, edit.call(aten.add.Tensor, y, 0.0)))
    keep = edit.call(aten.full.default, [2, 3], True, dtype=torch.bool)
    both = edit.call(aten.bitwise_and.Tensor, edit.call(aten.gt.Scalar, y, 0), keep)
    y = edit.call(aten.where.self, keep, y, x)
    return edit.call(aten.where.self, edit.call(aten.logical_not.default, both), y, x)


def padding(edit: Editor, x: Node) -> Node:
    padded = edit.call(aten.constant_pad_nd.default, x, [1, 1, 2, 2], 0.0)
    weight = constant(edit, _values(2, 3, 3, 3))
    return edit.call(aten.convolution.default, padded, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)


def duplicates(edit: Editor, x: Node) -> Node:
    shared = _values(2, 3)
    first, second = (constant(edit, shared, name) for name in ("a", "b"))
    sums = [edit.call(aten.add.Tensor, x, c) for c in (first, second)]
    return edit.call(aten.mul.Tensor, *(edit.call(aten.exp.default, s) for s in sums))


def batch_norms(edit: Editor, x: Node) -> Node:
    def norm(y: Node) -> Node:
        state = [constant(edit, _values(2), name) for name in ("gamma", "beta", "mean", "var")]
        return edit.call(aten.batch_norm.default, y, *state, False, 0.1, 1e-5, False)

    weight = constant(edit, _values(2, 3, 1, 1), "weight")
    y = edit.call(aten.convolution.default, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    return norm(edit.call(aten.relu.default, norm(y)))


def norms(edit: Editor, x: Node) -> Node:
    def mean(y: Node) -> Node:
        return edit.call(aten.mean.dim, y, [1], True)

    square = edit.call(aten.mul.Tensor, x, x)
    root = edit.call(aten.rsqrt.default, edit.call(aten.add.Tensor, mean(square), 1e-6))
    y = edit.call(aten.mul.Tensor, constant(edit, _values(3), "w"), edit.call(aten.mul.Tensor, x, root))
    centred = edit.call(aten.sub.Tensor, y, mean(y))
    variance = edit.call(aten.add.Tensor, mean(edit.call(aten.mul.Tensor, centred, centred)), 1e-5)
    z = edit.call(aten.div.Tensor, centred, edit.call(aten.sqrt.default, variance))
    return edit.call(
        aten.add.Tensor, edit.call(aten.mul.Tensor, z, constant(edit, _values(3), "v")), constant(edit, _values(3), "b")
    )


def queries(edit: Editor, x: Node) -> Node:
    def linear(name: str, rows: int, bias: bool) -> Node:
        parts = (constant(edit, _values(rows, 4), name), constant(edit, _values(rows), name) if bias else None)
        return edit.call(aten.linear.default, x, *parts)

    heads = [edit.call(aten.reshape.default, linear(n, 4, n != "k"), [2, 3, 2, 2]) for n in ("q", "k", "v")]
    gate = edit.call(aten.relu.default, linear("gate", 6, True))
    return edit.call(aten.cat.default, [*heads, edit.call(aten.reshape.default, gate, [2, 3, 3, 2])], 2)


def lookup(edit: Editor, x: Node) -> Node:
    table = edit.call(aten.reshape.default, x, [6, 4])
    return edit.call(aten.index.Tensor, table, [constant(edit, torch.tensor([3, 0, 5]), "places")])


CASES: dict[str, tuple[str, tuple[int, ...], Callable[..., Any]]] = {
    "canonical_views": ("canonicalize", (2, 3), views),
    "canonical_split": ("canonicalize", (2, 3), split),
    "canonical_arithmetic": ("canonicalize", (2, 3), arithmetic),
    "canonical_products": ("canonicalize", (2, 3), products),
    "canonical_batched": ("canonicalize", (2, 3, 2, 4), batched),
    "canonical_convolution": ("canonicalize", (1, 3, 5), convolution),
    "canonical_lookup": ("canonicalize", (2, 3, 4), lookup),
    "fold_masks": ("fold_constants", (4, 4), masks),
    "fold_large_weights": ("fold_constants{limit_bytes=4096}", (2, 300), large_weights),
    "views_chains": ("views", (2, 3, 4), chains),
    "views_rows_of_linear": ("views", (2, 3, 4), rows_of_linear),
    "simplify_algebra": ("simplify", (2, 3), algebra),
    "simplify_padding": ("simplify", (1, 3, 4, 4), padding),
    "common_subexpressions": ("common_subexpressions", (2, 3), duplicates),
    "batch_norms": ("batch_norm, fold_constants", (1, 3, 2, 2), batch_norms),
    "spelled_norms": ("spelled_norms", (2, 3), norms),
    "merge_linear": ("merge_linear", (2, 3, 4), queries),
}


@pytest.mark.parametrize("name", CASES)
def test_before_and_after(name: str, golden: Golden) -> None:
    pipeline, shape, make = CASES[name]
    before = build([shape], make)
    after, rewrites = PassManager(parse(pipeline), (Verify(),)).run(before)
    done = "".join(f"{r.pass_name} at {r.where}: {r.what}\n" for r in rewrites)
    golden(f"passes/{name}", f"{show(before)}\n--- {pipeline}\n{done}\n{show(after)}")
    _assert_same(before, after)


def _assert_same(before: CapturedModel, after: CapturedModel) -> None:
    inputs = random_inputs(before)
    for old, new in zip(run_captured(before, inputs), run_captured(after, inputs), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-12, atol=1e-12)
