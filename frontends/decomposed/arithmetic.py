"""Arithmetic that takes several steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten


def _round_to_decimals(x: Tensor, *, decimals: int) -> Any:
    """Scaled, rounded to the nearest integer (halves to even) and scaled back, in at least single precision."""
    if not x.is_floating_point():
        return NotImplemented
    scale = 10.0 ** abs(decimals)
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    near = (wide * scale).round() / scale if decimals > 0 else (wide / scale).round() * scale
    return near.to(x.dtype)


ARITHMETIC: Mapping[Any, Callable[..., Any]] = {aten.round.decimals: _round_to_decimals}
