"""Results that are inferred without torch are those that torch infers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from ullage.graph.fake import fake_tensor
from ullage.passes.infer import inferred

aten = torch.ops.aten
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.bool])
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3]), max_size=3)
OPERANDS = st.one_of(st.tuples(SHAPES, DTYPES), st.sampled_from([2, 0.5]))
BINARY = st.sampled_from([aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor])


def agrees(mode: FakeTensorMode, target: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether torch agrees with what is inferred; True where nothing is."""
    found = inferred(mode, target, args, kwargs)
    if found is None:
        return True
    with mode:
        wanted = target(*args, **kwargs)
    return bool(found.dtype == wanted.dtype and found.shape == wanted.shape)


@settings(deadline=None)
@given(BINARY, st.tuples(SHAPES, DTYPES), OPERANDS)
def test_arithmetic(target: Any, first: tuple[list[int], torch.dtype], second: Any) -> None:
    mode = FakeTensorMode()
    other = fake_tensor(mode, *second) if isinstance(second, tuple) else second
    assert agrees(mode, target, fake_tensor(mode, *first), other)


@settings(deadline=None)
@given(SHAPES, DTYPES, DTYPES, SHAPES)
def test_conversions_functions_and_reshapes(shape: list[int], dtype: Any, to: torch.dtype, new: list[int]) -> None:
    mode = FakeTensorMode()
    x = fake_tensor(mode, shape, dtype)
    assert agrees(mode, aten._to_copy.default, x, dtype=to)
    assert agrees(mode, aten.rsqrt.default, x) and agrees(mode, aten.neg.default, x)
    assert agrees(mode, aten.reshape.default, x, new)


@pytest.mark.parametrize(
    ("target", "shape", "args"),
    [(aten.mul.Tensor, (4, 3), (2.0,)), (aten.rsqrt.default, (3,), ()), (aten.reshape.default, (4, 3), ([2, 6],))],
)
def test_the_commonest_calls_do_not_ask_torch(target: Any, shape: tuple[int, ...], args: tuple[Any, ...]) -> None:
    mode = FakeTensorMode()
    assert inferred(mode, target, (fake_tensor(mode, shape, torch.float32), *args), {}) is not None
