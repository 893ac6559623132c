"""Attention whose queries, keys and values are bfloat16, as kernels compute it: the measure of rewrites, in eager."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_MOST_SCORES = 1 << 24
"""Scores that are held at a time."""


def attention(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The float32 result of an attention call: halves are widened, and if all are bfloat16, weights are rounded to it.

    Kernels do so where the processor has products of pairs; others keep the weights as they are.
    """
    narrow = all(x.dtype == torch.bfloat16 for x in args[:3])
    wide: tuple[Any, ...] = tuple(map(_widened, args))
    result: torch.Tensor = _in_pairs(*wide, **kwargs) if narrow else _ATTENTION(*wide, **kwargs)
    return result


def _widened(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


def rounded(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments with queries, keys and values in bfloat16."""
    return (*(x.bfloat16() for x in args[:3]), *args[3:])


def _in_pairs(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, dropout: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """By its definition, some queries after the others."""
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[-3] // k.shape[-3], -3) for x in (k, v))
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    rows = max(1, _MOST_SCORES // max(1, prod(q.shape[:-2]) * k.shape[-2]))
    parts = []
    for first in range(0, q.shape[-2], rows):
        last = min(first + rows, q.shape[-2])
        scores = _masked(q[..., first:last, :] @ k.mT, mask, first, last)
        parts.append(_weighted(_causal(scores, first, last) if is_causal else scores, v))
    return torch.cat(parts, -2)


def _masked(scores: torch.Tensor, mask: torch.Tensor | None, first: int, last: int) -> torch.Tensor:
    if mask is None:
        return scores
    own = mask[..., first:last, :] if mask.shape[-2] > 1 else mask
    return scores.masked_fill(~own, -torch.inf) if own.dtype == torch.bool else scores + own


def _causal(scores: torch.Tensor, first: int, last: int) -> torch.Tensor:
    future = torch.arange(scores.shape[-1]) > torch.arange(first, last).unsqueeze(1)
    return scores.masked_fill(future, -torch.inf)


def _weighted(scores: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Values by the softmax of scores; rows without a key give 0."""
    top = scores.amax(-1, True)
    weights = (scores - top.masked_fill(top == -torch.inf, 0.0)).exp()
    total = weights.sum(-1, keepdim=True)
    return (weights.bfloat16().float() @ v / total).masked_fill(total == 0.0, 0.0)
