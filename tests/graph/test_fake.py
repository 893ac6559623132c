"""Fake tensors made directly are what operators under the mode make, and traits tell apart what results depend on."""

from __future__ import annotations

import torch
from torch._subclasses import FakeTensorMode

from ullage.graph.fake import fake_tensor, traits


def test_a_fake_tensor_is_like_one_that_an_operator_makes() -> None:
    mode = FakeTensorMode()
    with mode:
        wanted = torch.empty((2, 0, 5), dtype=torch.float16)
    made = fake_tensor(mode, (2, 0, 5), torch.float16)
    assert (made.shape, made.stride(), made.dtype) == (wanted.shape, wanted.stride(), wanted.dtype)
    assert made.device == wanted.device and made.fake_mode is mode
    with mode:
        assert (made + 1).shape == (2, 0, 5)


def test_traits_tell_shapes_strides_dtypes_and_numbers_apart() -> None:
    x = torch.empty(2, 3)
    different = [
        x,
        x.t(),
        x.double(),
        torch.empty(3, 2),
        1,
        1.0,
        True,
        None,
        "1",
        torch.float32,
        [1, 2],
        [x, 2],
        [[1], 2],
    ]
    assert len({traits(value) for value in different}) == len(different)
    assert traits([x, 1]) == traits((torch.ones(2, 3), 1))
    assert traits(object()) is None and traits([x, object()]) is None
