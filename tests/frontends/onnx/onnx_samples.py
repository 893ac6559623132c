"""Operator samples for writing ONNX, beside those of `tests.samples`: rarer operators, and corners of common ones."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from tests.samples import Sample, floats, ints

aten = torch.ops.aten
attention = F.scaled_dot_product_attention


def quadrants() -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs of signs, zeros and infinities."""
    corners = torch.tensor([0.0, -0.0, 1.5, -1.5, float("inf"), float("-inf")])
    return corners.repeat_interleave(4), torch.tensor([2.0, -2.0, float("inf"), float("-inf")]).repeat(6)


def pointwise() -> list[Sample]:
    """Functions, comparisons, integers."""
    x, special = floats(41), torch.tensor([0.0, -1.0, float("inf"), float("-inf"), float("nan"), 1e-8, 88.0, -1000.0])
    return [
        Sample("erfc", torch.erfc, (x,)),
        Sample("expm1_corners", torch.expm1, (special,)),
        Sample("log1p_corners", torch.log1p, (torch.tensor([0.0, 1e-8, -0.4, 0.6, 1e30, float("inf")]),)),
        Sample("isinf", torch.isinf, (special,)),
        Sample("isfinite", torch.isfinite, (special,)),
        Sample("fmax", torch.fmax, (special, special.flip(0))),
        Sample("fmin", torch.fmin, (special, special.flip(0))),
        Sample("maximum_of_nan", torch.maximum, (special, special.flip(0))),
        Sample("clamp_of_nan", lambda a: a.clamp(-1, 1), (special,)),
        Sample("atan2_quadrants", torch.atan2, quadrants()),
        Sample("atan2_axes", torch.atan2, (torch.tensor([1.0, -1.0]), torch.tensor([0.0, 0.0]))),
        Sample("remainder_signs", torch.remainder, (floats(41), torch.tensor(-0.75))),
        Sample("floor_divide_signs", lambda a, b: a // b, (ints(40), -ints(40, low=1))),
        Sample("div_trunc", lambda a, b: torch.div(a, b, rounding_mode="trunc"), (floats(30), floats(30, low=0.5))),
        Sample("round_decimals", lambda a: torch.round(a, decimals=2), (x,)),
        Sample("prelu", F.prelu, (floats(2, 3, 5), floats(3))),
        Sample("softplus_steep", lambda a: F.softplus(a, 2.0, 4.0), (x,)),
        Sample("elu_scaled", lambda a: aten.elu(a, 0.7, 1.3, 0.9), (x,)),
        Sample("clamp_tensor", lambda a, b: torch.clamp(a, min=b), (x, floats(41))),
        Sample("rsub_alpha", lambda a, b: torch.rsub(a, b, alpha=2), (x, floats(41))),
        Sample("bytes", lambda a: (a * 3 + 7).clamp(max=200), (ints(33, low=0, high=60, dtype=torch.uint8),)),
        Sample("wrapping", lambda a: a * a, (ints(33, low=0, high=120, dtype=torch.int8),)),
        Sample("relu_int", F.relu, (ints(20),)),
        Sample("bit_operations", lambda a, b: (a & b) | (a ^ 3), (ints(20), ints(20))),
        Sample("where_bool", lambda a, b: torch.where(a > 0, b > 0, a > 1), (x, floats(41))),
        Sample("sum_of_bytes", lambda a: a.sum(0), (ints(33, low=0, high=200, dtype=torch.uint8),)),
        Sample("safe_softmax", lambda a: aten._safe_softmax(a.masked_fill(a < 4, -torch.inf), -1), (floats(2, 5),)),
        Sample("bfloat_sum", lambda a, b: (a.bfloat16().float() + b).bfloat16().float(), (floats(9), floats(9))),
    ]  # fmt: skip


def shaped() -> list[Sample]:
    """Reductions, movement, lookups, resampling."""
    x, image = floats(3, 5, 7), floats(2, 3, 9, 11)
    return [
        Sample("cumprod", lambda a: a.cumprod(1), (x,)),
        Sample("norm_inf", lambda a: torch.linalg.vector_norm(a, float("inf"), (0, 2)), (x,)),
        Sample("norm_3", lambda a: torch.linalg.vector_norm(a, 3, -1), (x,)),
        Sample("max_of_dim", lambda a: torch.cat([v.float() for v in a.max(1)]), (x,)),
        Sample("argmax_of_all", lambda a: a.argmax(), (x,)),
        Sample("var_mean", lambda a: torch.stack(torch.var_mean(a, 1)), (x,)),
        Sample("index_apart", lambda a, i, j: a[i, :, j], (x, ints(4, low=0, high=3), ints(4, low=-7, high=7))),
        Sample("index_last", lambda a, i, j: a[:, i, j], (x, ints(4, 1, low=0, high=5), ints(2, low=0, high=7))),
        Sample("roll_flat", lambda a: a.roll(4), (x,)),
        Sample("repeat_more", lambda a: a.repeat(2, 1, 2, 1), (x,)),
        Sample("pad_bool", lambda a: F.pad(a > 0, (1, 2)), (x,)),
        Sample("flip_bool", lambda a: (a > 0).flip(1), (x,)),
        Sample("split", lambda a: torch.cat(a.split([2, 3], 1)[::-1], 1), (x,)),
        Sample("stack_of_scalars", lambda a: torch.stack([a.sum(), a.amax()]), (x,)),
        Sample("arange", lambda a: a + torch.arange(3, 17, 2), (x,)),
        Sample("nearest_uneven", lambda a: F.interpolate(a, size=(13, 4)), (image,)),
        Sample("nearest_1d", lambda a: F.interpolate(a, scale_factor=3), (x,)),
        Sample("bilinear_factor", lambda a: F.interpolate(a, scale_factor=1.7, mode="bilinear"), (image,)),
        Sample("pixel_shuffle_alone", lambda a: F.pixel_shuffle(a, 3), (floats(9, 2, 4),)),
        Sample("max_pool_1d", lambda a: F.max_pool1d(a, 2), (x,)),
        Sample("avg_pool_1d", lambda a: F.avg_pool1d(a, 3, 2, 1), (x,)),
        Sample("avg_pool_up", lambda a: F.avg_pool2d(a, 2, 2, 1, ceil_mode=True), (image,)),
        Sample("avg_pool_divided", lambda a: F.avg_pool2d(a, 2, divisor_override=3), (image,)),
        Sample("adaptive_1d", lambda a: F.adaptive_avg_pool1d(a, 3), (x,)),
    ]  # fmt: skip


def products() -> list[Sample]:
    """Convolutions and attention; the mask hides keys from some queries, never all of them."""
    mask = torch.rand(9, 12) > 0.4
    mask[:, 0] = True
    q, k, v = floats(2, 2, 9, 16), floats(2, 2, 12, 16), floats(2, 2, 12, 8)
    return [
        Sample("conv_1d", lambda a, w, b: F.conv1d(a, w, b, 2, 1), (floats(2, 4, 9), floats(6, 4, 3), floats(6))),
        Sample(
            "conv_groups", lambda a, w: F.conv2d(a, w, None, 1, (2, 0), (2, 1), 2),
            (floats(1, 4, 9, 8), floats(6, 2, 3, 3)),
        ),
        Sample("conv_same", lambda a, w: F.conv2d(a, w, padding="same"), (floats(1, 2, 9, 8), floats(3, 2, 4, 3))),
        Sample(
            "conv_turned", lambda a, w, b: F.conv_transpose2d(a, w, b, 2, 1, 1),
            (floats(1, 4, 5, 6), floats(4, 3, 3, 3), floats(3)),
        ),
        Sample(
            "conv_turned_1d", lambda a, w: F.conv_transpose1d(a, w, None, 3, 1, 2, 2),
            (floats(1, 4, 5), floats(4, 3, 4)),
        ),
        Sample("linear_rows", F.linear, (floats(2, 3, 7, 19), floats(23, 19), floats(23))),
        Sample("addmm", torch.addmm, (floats(5), floats(3, 4), floats(4, 5))),
        Sample("attention_wide", attention, (q, k, v)),
        Sample("attention_of_three", attention, (q[0], k[0], v[0])),
        Sample("attention_causal_ahead", partial(attention, is_causal=True), (q, k, v)),
        Sample("attention_kept", lambda q, k, v, m: attention(q, k, v, m > 0), (q, k, v, mask.float())),
    ]  # fmt: skip


MORE = {"pointwise": pointwise, "shaped": shaped, "products": products}
