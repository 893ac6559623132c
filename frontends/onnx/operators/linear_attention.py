"""Recurrent attention (opset 27): its steps one after another, and the short convolutions before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor


def _split(x: Tensor, heads: int) -> Tensor:
    """[batch, steps, heads · size] as [batch, steps, heads, size]."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1)


def _by_head(call: Call, position: int, heads: int, size: int) -> Tensor:
    """A factor for each step and head, or for each of `size` elements too: [batch, steps, heads or 1, 1 or size]."""
    x = call.tensor(position)
    return x.unsqueeze(-1) if x.shape[-1] in (1, heads) else x.reshape(*x.shape[:2], heads, size)


@operator("LinearAttention", ignores=("chunk_size",))
def _linear_attention(call: Call) -> tuple[Tensor, Tensor]:
    """A state [batch, heads, d_k, d_v] is decayed, and written with keys and values; queries read it."""
    heads, groups = call.attribute("kv_num_heads"), call.attribute("q_num_heads") // call.attribute("kv_num_heads")
    q, k, v = _split(call.tensor(0), heads * groups), _split(call.tensor(1), heads), _split(call.tensor(2), heads)
    rule, scale = call.attribute("update_rule", "gated_delta"), call.attribute("scale", 0.0) or q.shape[-1] ** -0.5
    dtype = torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    state = call.tensor(3) if call.has(3) else torch.zeros(q.shape[0], heads, k.shape[-1], v.shape[-1])
    state = state.to(dtype)
    decay = _by_head(call, 4, heads, k.shape[-1]) if rule.startswith("gated") else None
    rate = _by_head(call, 5, heads, 1) if rule.endswith("delta") else None
    outputs = []
    for step in range(int(q.shape[1])):
        key, value = k[:, step].to(dtype).unsqueeze(-1), v[:, step].to(dtype).unsqueeze(-2)
        if decay is not None:
            state = state * torch.exp(decay[:, step].to(dtype)).unsqueeze(-1)
        if rate is not None:
            held = (state * key).sum(-2, keepdim=True)
            value = (value - held) * rate[:, step].to(dtype).unsqueeze(-1)
        state = state + key * value
        query = q[:, step].to(dtype).reshape(q.shape[0], heads, groups, -1)
        outputs.append((torch.matmul(query, state) * scale).reshape(q.shape[0], -1))
    past = call.tensor(3).dtype if call.has(3) else q.dtype
    return torch.stack(outputs, 1).to(q.dtype), state.to(past)


@operator("CausalConvWithState")
def _causal_conv(call: Call) -> tuple[Tensor, Tensor]:
    """A depthwise convolution over what was before and what is new; the last elements are the new state."""
    x, w, bias, past = call.tensor(0), call.tensor(1), call.optional(2), call.optional(3)
    before = w.shape[-1] - 1
    whole = F.pad(x, [before, 0]) if past is None else torch.cat([past, x], -1)
    y = F.conv1d(whole, w, bias, groups=x.shape[1])
    activation = call.attribute("activation", "none")
    if activation not in ("none", "silu", "swish"):
        raise call.error(f"the activation {activation} is not supported")
    return y if activation == "none" else F.silu(y), whole.narrow(-1, whole.shape[-1] - before, before)
