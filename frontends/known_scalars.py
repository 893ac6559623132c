"""Numbers that a module keeps as buffers are known while it is traced, so that Python code may depend on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._export.non_strict_utils
import torch.export._trace
from torch import Tensor, nn
from torch._subclasses import FakeTensor

_MAKER = "_fakify_params_buffers"
_HOLDERS: tuple[Any, ...] = (torch.export._trace, torch._export.non_strict_utils)
"""Modules of torch that turn a module's state into fake tensors by a function of this name."""


@contextmanager
def known_scalars() -> Iterator[None]:
    """Inside, torch.export knows the values of integers and truth values of no dimension among buffers.

    Strides and paddings are kept like that; without their values, `int(self.stride)` is a number that is not known
    before the model runs. A torch that makes its fake tensors elsewhere traces as it always does.
    """
    makers = [(holder, getattr(holder, _MAKER)) for holder in _HOLDERS if hasattr(holder, _MAKER)]
    for holder, maker in makers:
        setattr(holder, _MAKER, _with_values(maker))
    try:
        yield
    finally:
        for holder, maker in makers:
            setattr(holder, _MAKER, maker)


def _with_values(maker: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    def made(fake_mode: Any, module: nn.Module) -> dict[str, Tensor]:
        fakes = maker(fake_mode, module)
        for name, buffer in module.named_buffers(remove_duplicate=False):
            fake = fakes.get(name)
            if isinstance(fake, FakeTensor) and _is_number(buffer):
                fake.constant = buffer.detach().clone()
                fake_mode.fake_tensor_converter.add_constant_storage_mapping(fake)
        return fakes

    return made


def _is_number(buffer: Tensor) -> bool:
    counts = not buffer.dtype.is_floating_point and not buffer.dtype.is_complex
    return buffer.dim() == 0 and counts and not isinstance(buffer, FakeTensor) and buffer.device.type != "meta"
