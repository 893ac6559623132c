"""Fake tensors, which are all that a graph holds of values: made directly, and told apart by what operators see."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch._subclasses import FakeTensor, FakeTensorMode

_FIXED = (int, float, bool, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


def fake_tensor(mode: FakeTensorMode, shape: Sequence[int], dtype: torch.dtype) -> FakeTensor:
    """A contiguous fake CPU tensor of a static shape; an operator under the mode would take ten times as long."""
    return FakeTensor(mode, torch.empty(tuple(shape), dtype=dtype, device="meta"), torch.device("cpu"))


def traits(value: Any) -> Hashable | None:
    """What the shape and dtype of an operator's result follow from, for any argument; None if something varies."""
    if isinstance(value, torch.Tensor):
        sizes = (*value.shape, *value.stride())
        static = all(type(size) is int for size in sizes)
        return (value.dtype, tuple(value.shape), sizes) if static else None
    if isinstance(value, list | tuple):
        parts = tuple(traits(part) for part in value)
        return None if None in parts else parts
    fixed = value is None or isinstance(value, _FIXED)
    return (type(value), value) if fixed else None
