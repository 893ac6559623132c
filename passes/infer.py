"""Results of the commonest operators without torch, whose own way through a fake mode takes up to a millisecond."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from ullage.graph.fake import fake_tensor

aten = torch.ops.aten
_POINTWISE = frozenset({
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.rsqrt.default,
    aten.sqrt.default, aten.relu.default, aten.exp.default, aten.tanh.default, aten.sigmoid.default,
})  # fmt: skip
"""Operators whose result has the operands' broadcast shape, and their dtype if that is one floating type."""


def inferred(mode: FakeTensorMode, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The fake result of a call on tensors of static shapes (strides mean nothing); None where torch must be asked."""
    if target is aten.reshape.default and not kwargs:
        return _reshaped(mode, *args)
    if target is aten._to_copy.default and kwargs.keys() == {"dtype"}:
        return fake_tensor(mode, args[0].shape, kwargs["dtype"])
    return _pointwise(mode, args) if target in _POINTWISE and not kwargs else None


def _reshaped(mode: FakeTensorMode, source: torch.Tensor, shape: Sequence[int]) -> torch.Tensor | None:
    fits = min(shape, default=1) > 0 and math.prod(shape) == source.numel()
    return fake_tensor(mode, shape, source.dtype) if fits else None


def _pointwise(mode: FakeTensorMode, args: Sequence[Any]) -> torch.Tensor | None:
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    dtypes = {tensor.dtype for tensor in tensors}
    plain = all(isinstance(arg, torch.Tensor | int | float) for arg in args)
    if len(dtypes) != 1 or not plain or not tensors[0].is_floating_point():
        return None
    shape = _broadcast([tuple(tensor.shape) for tensor in tensors])
    return None if shape is None else fake_tensor(mode, shape, tensors[0].dtype)


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The common shape, None if there is none."""
    rank = max(map(len, shapes))
    columns = zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True)
    sizes = [{size for size in column if size != 1} for column in columns]
    return None if any(len(size) > 1 for size in sizes) else tuple(next(iter(size), 1) for size in sizes)
