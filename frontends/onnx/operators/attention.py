"""Attention and rotary embeddings of the standard (opset 23)."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F

from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor


def _heads(x: Tensor, heads: int | None) -> Tensor:
    """[batch, length, heads · size] as [batch, heads, length, size]."""
    if x.dim() == 4:
        return x
    assert heads
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


@operator("Attention", since=23)
def _attention(call: Call) -> tuple[Any, ...]:
    flat = call.tensor(0).dim() == 3
    q = _heads(call.tensor(0), call.attribute("q_num_heads"))
    k, v = (_heads(call.tensor(i), call.attribute("kv_num_heads")) for i in (1, 2))
    if call.has(4):
        k, v = torch.cat([call.tensor(4), k], 2), torch.cat([call.tensor(5), v], 2)
    scale, cap = call.attribute("scale", q.shape[-1] ** -0.5), call.attribute("softcap", 0.0)
    call.attribute("softmax_precision")
    mask, empty = _mask(call, q, k)
    shown = len(call.node.outputs) > 3 and bool(call.node.outputs[3].name)
    mode = call.attribute("qk_matmul_output_mode", 0)
    if not (shown or cap):
        y, scores = (
            F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1]),
            None,
        )
    else:
        y, scores = _spelled(q, k, v, mask, scale, cap, mode)
    if empty:
        y = torch.where(torch.isnan(y), torch.zeros_like(y), y)
    y = y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1) if flat else y
    return y, k, v, scores


def _spelled(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, cap: float, mode: int
) -> tuple[Tensor, Tensor]:
    """Attention step by step, and the scores behind one of its steps: product, cap, mask, softmax."""
    if q.shape[1] != k.shape[1]:
        times = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    scores = torch.matmul(q, k.transpose(-1, -2)) * scale
    capped = torch.tanh(scores / cap) * cap if cap else scores
    biased = capped
    if mask is not None:
        biased = capped.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else capped + mask
    shares = torch.softmax(biased, -1)
    shares = torch.where(torch.isnan(shares), torch.zeros_like(shares), shares)
    return torch.matmul(shares, v), (scores, capped, biased, shares)[mode]


def _mask(call: Call, q: Tensor, k: Tensor) -> tuple[Tensor | None, bool]:
    """What keys each query sees (or what is added to its scores), and whether a query may see none."""
    mask = call.optional(3)
    if mask is not None and isinstance(mask.shape[-1], int) and mask.shape[-1] != k.shape[2]:
        outside = False if mask.dtype == torch.bool else float("-inf")
        mask = _widened(mask, k.shape[2] - mask.shape[-1], outside)
    columns = torch.arange(k.shape[2])
    allowed = _frontier(call, q, k, columns)
    if call.has(6):
        inside = columns.reshape(1, 1, 1, -1) < call.tensor(6).reshape(-1, 1, 1, 1)
        allowed = inside if allowed is None else allowed & inside
    empty = mask is not None or call.has(6)
    return (mask, empty) if allowed is None else (_both(mask, allowed), empty)


def _frontier(call: Call, q: Tensor, k: Tensor, columns: Tensor) -> Tensor | None:
    """Keys by their distance from a query's own place, which counts the keys that were there before."""
    left, right = call.attribute("left_window_size", -1), call.attribute("right_window_size", -1)
    causal = call.attribute("is_causal", 0)
    if not causal and left < 0 and right < 0:
        return None
    offset: Any = 0
    if call.has(4):
        offset = call.tensor(4).shape[2]
    elif call.has(6):
        offset = call.tensor(6).reshape(-1, 1, 1, 1) - q.shape[2]
    places = torch.arange(q.shape[2]).reshape(1, 1, -1, 1) + offset
    tests = [columns <= places] if causal else []
    tests += [columns >= places - left] if left >= 0 else []
    tests += [columns <= places + right] if right >= 0 else []
    allowed: Tensor = reduce(torch.logical_and, tests)
    return allowed


def _widened(mask: Tensor, count: int, outside: Any) -> Tensor:
    return torch.cat([mask, torch.full((*mask.shape[:-1], count), outside, dtype=mask.dtype)], -1)


def _both(mask: Tensor | None, allowed: Tensor) -> Tensor:
    if mask is None:
        return allowed
    if mask.dtype == torch.bool:
        return mask & allowed
    return torch.where(allowed, mask, torch.full((), float("-inf"), dtype=mask.dtype))


@operator("RotaryEmbedding", since=23)
def _rotary(call: Call) -> Tensor:
    x, cos, sin = call.tensor(0), call.tensor(1), call.tensor(2)
    flat = x.dim() == 3
    heads = call.attribute("num_heads", 0)
    y = x.reshape(x.shape[0], x.shape[1], heads, -1) if flat else x.transpose(1, 2)
    size = call.attribute("rotary_embedding_dim", 0) or y.shape[-1]
    if call.has(3):
        places = call.tensor(3)
        cos, sin = cos[places], sin[places]
    cos, sin = cos[..., : size // 2].unsqueeze(2), sin[..., : size // 2].unsqueeze(2)
    turned, rest = y[..., :size], y[..., size:]
    if call.attribute("interleaved", 0):
        a, b = turned[..., ::2], turned[..., 1::2]
        pair = torch.stack([cos * a - sin * b, sin * a + cos * b], -1)
        turned = pair.reshape(*pair.shape[:-2], size)
    else:
        a, b = turned.chunk(2, -1)
        turned = torch.cat([cos * a - sin * b, sin * a + cos * b], -1)
    y = torch.cat([turned, rest], -1)
    return y.reshape(x.shape) if flat else y.transpose(1, 2)
