"""Matrix products, convolutions, attention."""

from __future__ import annotations

from typing import Any

import torch

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.table import Call, aten, writes


@writes(aten.linear)
def _linear(call: Call) -> Value:
    """x · weightᵀ + bias; the weight stays as it is, and is turned by an operator that runtimes compute beforehand."""
    x, weight, bias = call.value(call["input"]), call.value(call["weight"]), call.optional(call["bias"])
    if call.fake().dim() == 2:
        return call.op("Gemm", x, weight, bias, transB=1)
    product = call.op("MatMul", x, call.writer.turned(weight))
    return product if bias is None else call.op("Add", product, bias)


@writes(aten.mm, aten.bmm, aten.matmul)
def _product(call: Call) -> Value:
    return call.op("MatMul", *(call.value(v) for v in call.first(2)))


@writes(aten.addmm, aten.baddbmm)
def _added_product(call: Call) -> Value:
    left, right = call.first(3)[1:]
    product = call.op("MatMul", call.value(left), call.value(right))
    terms = ((product, call["alpha"]), (call.value(call["self"]), call["beta"]))
    scaled = [v if f == 1 else call.op("Mul", v, call.value(f, call.dtype)) for v, f in terms]
    return call.op("Add", *scaled)


@writes(aten.convolution)
def _convolution(call: Call) -> Value:
    return convolved(call, call.value(call["input"]), call.value(call["weight"]), call.optional(call["bias"]))


def convolved(call: Call, x: Value, weight: Value, bias: Value | None, padding: Any = None) -> Value:
    """A convolution with the geometry of aten.convolution's arguments."""
    pads = call.known_ints(call["padding"] if padding is None else padding)
    rank = call.result.dim() - 2
    pads = pads * rank if len(pads) == 1 else pads
    geometry: dict[str, Any] = {
        "strides": _spread(call, "stride", rank), "dilations": _spread(call, "dilation", rank),
        "pads": [*pads, *pads], "group": call.known_int(call["groups"]),
    }  # fmt: skip
    if not call["transposed"]:
        return call.op("Conv", x, weight, bias, **geometry)
    extra = _spread(call, "output_padding", rank)
    return call.op("ConvTranspose", x, weight, bias, output_padding=extra, **geometry)


def _spread(call: Call, name: str, rank: int) -> list[int]:
    numbers = call.known_ints(call[name])
    return numbers * rank if len(numbers) == 1 else numbers


@writes(aten.scaled_dot_product_attention)
def _attention(call: Call) -> Value:
    """Over [batch, heads, length, width]; queries may have more heads than keys."""
    names = ("query", "key", "value")
    ranks = {call.fake(call[name]).dim() for name in names}
    if len(ranks) != 1 or not ranks <= {3, 4}:
        raise call.refuse(f"over {', '.join(map(str, sorted(ranks)))} dimensions")
    q, k, v = (call.value(call[name]) for name in names)
    heads = call.block.ints(1)
    if ranks == {3}:
        q, k, v = (call.op("Unsqueeze", x, heads) for x in (q, k, v))
    causal, mask = int(bool(call["is_causal"])), _mask(call, ranks == {3})
    found = call.op("Attention", q, k, v, mask, is_causal=causal, scale=_scale(call))
    return call.op("Squeeze", found, heads) if ranks == {3} else found


def _scale(call: Call) -> float | None:
    return None if call["scale"] is None else float(call["scale"])


def _mask(call: Call, inserted: bool) -> Value | None:
    """The mask with a row for each query and a column for each key, which runtimes do not repeat themselves."""
    given = call["attn_mask"]
    if given is None:
        return None
    fake = call.fake(given)
    mask = call.value(given, torch.bool if fake.dtype == torch.bool else call.dtype)
    lengths = [call.fake(call[name]).shape[-2] for name in ("query", "key")]
    if list(fake.shape[-2:]) != lengths:
        mask = call.op("Expand", mask, call.writer.sizes.vector(*lengths))
    return call.op("Unsqueeze", mask, call.block.ints(1)) if inserted and fake.dim() == 3 else mask
