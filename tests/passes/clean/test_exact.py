"""Rewrites of arithmetic hold bit for bit on the awkward values: both zeros, infinities, NaN, the ends of the range."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.fx import Node

from tests.graphs import build
from ullage.graph.reference import run_captured
from ullage.graph.show import show_op
from ullage.passes.edit import Editor, calls
from ullage.passes.manager import PassManager
from ullage.passes.pipelines import parse

aten = torch.ops.aten
NUMBERS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -4.0, 3.0, 0.1, 1e-3, 2.0**-14, 2.0**-20, math.inf, math.nan)
BINARY = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsub.Scalar, aten.eq.Scalar)
AWKWARD = [0.0, -0.0, 1.0, -1.0, 1 / 3, -2.5, 7.0, 65504.0, 6e-8, math.inf, -math.inf, math.nan]
PIPELINE = "canonicalize, fold_constants, simplify, canonicalize, simplify"


def awkward(dtype: torch.dtype) -> torch.Tensor:
    info = torch.finfo(dtype)
    return torch.tensor([*AWKWARD, info.max, info.tiny, -info.smallest_normal / 2], dtype=dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    widths = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return torch.where(tensor.isnan(), 0.5, tensor).contiguous().view(widths[tensor.dtype.itemsize])


def assert_same_bits(make: Any, dtype: torch.dtype) -> list[str]:
    x = awkward(dtype)
    before = build([tuple(x.shape)], make, dtype)
    after, _ = PassManager(parse(PIPELINE)).run(before)
    (old,), (new,) = run_captured(before, [x]), run_captured(after, [x])
    assert old.dtype == new.dtype and torch.equal(bits(old), bits(new)), (old, new)
    return [show_op(node.target) for node in calls(after.module.graph)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", BINARY, ids=str)
def test_arithmetic_with_numbers(op: Any, dtype: torch.dtype) -> None:
    for number in NUMBERS:
        assert_same_bits(lambda edit, x, n=number: edit.call(op, x, n), dtype)


@pytest.mark.parametrize(
    "op", [aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.lt.Tensor], ids=str
)
@pytest.mark.parametrize("is_left", [False, True])
def test_arithmetic_with_uniform_tensors(op: Any, is_left: bool) -> None:
    for number in NUMBERS:

        def make(edit: Editor, x: Node, number: float = number) -> Node:
            full = edit.call(aten.full.default, [1], number, dtype=torch.float64)
            return edit.call(op, *((full, x) if is_left else (x, full)))

        assert "full" not in assert_same_bits(make, torch.float64) or (op is aten.div.Tensor and is_left)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("exponent", [1, 2, 3, 0.5, -0.5, -1, 1.5, 4, 0])
def test_powers(exponent: float, dtype: torch.dtype) -> None:
    assert_same_bits(lambda edit, x: edit.call(aten.pow.Tensor_Scalar, x, exponent), dtype)


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 1.0), (2.0, 2.0)])
def test_clamps(low: float, high: float) -> None:
    assert assert_same_bits(lambda edit, x: edit.call(aten.hardtanh.default, x, low, high), torch.float32) == ["clamp"]


@pytest.mark.parametrize("bound", [0.0, 1.0, -2.5])
def test_largest_with_a_uniform_tensor(bound: float) -> None:
    def make(edit: Editor, x: Node) -> Node:
        return edit.call(aten.maximum.default, x, edit.call(aten.full.default, [], bound, dtype=torch.float64))

    assert_same_bits(make, torch.float64)


def test_casts_that_lose_stay() -> None:
    def make(edit: Editor, x: Node) -> Node:
        return edit.call(
            aten._to_copy.default, edit.call(aten._to_copy.default, x, dtype=torch.float16), dtype=torch.float32
        )

    assert assert_same_bits(make, torch.float32) == ["_to_copy", "_to_copy"]


def test_casts_there_and_back_go() -> None:
    def make(edit: Editor, x: Node) -> Node:
        return edit.call(
            aten._to_copy.default, edit.call(aten._to_copy.default, x, dtype=torch.float64), dtype=torch.float32
        )

    assert assert_same_bits(make, torch.float32) == []


@pytest.mark.parametrize("number", [0, 2, -1, 3, 200])
def test_small_integers(number: int) -> None:
    """Integers wrap; a product with a number stays an integer, a quotient becomes a float."""
    values = torch.tensor([0, 1, 127, 128, 255], dtype=torch.uint8)
    for op in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsub.Scalar):
        before = build([(5,)], lambda edit, x, op=op: edit.call(op, x, number), torch.uint8)
        after, _ = PassManager(parse(PIPELINE)).run(before)
        (old,), (new,) = run_captured(before, [values]), run_captured(after, [values])
        assert old.dtype == new.dtype and torch.equal(bits(old), bits(new))


@pytest.mark.parametrize("number", [2.7, -2.7, 300.0, 0.1, 1e-9])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.float32, torch.bool])
def test_views_and_casts_of_uniform_tensors(number: float, dtype: torch.dtype) -> None:
    def make(edit: Editor, x: Node) -> Node:
        full = edit.call(aten.full.default, [1, 5], number, dtype=torch.float64)
        narrow = edit.call(aten._to_copy.default, edit.call(aten.expand.default, full, [3, 5]), dtype=dtype)
        back = edit.call(aten._to_copy.default, narrow, dtype=torch.float64)
        return edit.call(aten.mul.Tensor, edit.call(aten.reshape.default, x, [3, 5]), back)

    assert assert_same_bits(make, torch.float64) in (["reshape", "mul.Tensor"], ["reshape"])


@pytest.mark.parametrize(
    ("pads", "is_inside"),
    [([1, 1, 2, 2], True), ([1, 1], True), ([0, 1, 0, 1], False), ([-1, -1, 0, 0], False), ([0, 0, 0, 0, 1, 1], False)],
)
def test_even_zeros_are_padded_inside_the_convolution(pads: list[int], is_inside: bool) -> None:
    def make(edit: Editor, x: Node) -> Node:
        padded = edit.call(aten.constant_pad_nd.default, x, pads, 0.0)
        channels = 3 if len(pads) < 6 else 5
        weight = edit.call(aten.full.default, [2, channels, 3, 3], 0.5, dtype=torch.float64)
        return edit.call(aten.convolution.default, padded, weight, None, [1, 1], [1, 0], [1, 1], False, [0, 0], 1)

    before = build([(1, 3, 6, 6)], make)
    after, _ = PassManager(parse("simplify")).run(before)
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    assert torch.allclose(run_captured(before, [x])[0], run_captured(after, [x])[0])
    assert ("constant_pad_nd" not in [show_op(n.target) for n in calls(after.module.graph)]) == is_inside


def test_other_padding_stays_outside_the_convolution() -> None:
    def make(edit: Editor, x: Node) -> Node:
        padded = edit.call(aten.constant_pad_nd.default, x, [1, 1], 2.0)
        weight = edit.call(aten.full.default, [2, 3, 3, 3], 0.5, dtype=torch.float64)
        return edit.call(aten.convolution.default, padded, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)

    _, rewrites = PassManager(parse("simplify")).run(build([(1, 3, 6, 6)], make))
    assert rewrites == []
