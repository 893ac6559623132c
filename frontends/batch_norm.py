"""Batch norm in training mode: statistics of the batch, and the running ones as further results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def batch_norm_training(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """`_native_batch_norm_legit_functional` of [batch, channels, ...]; the running variance is unbiased."""
    if not training:
        return NotImplemented
    axes = [0, *range(2, x.dim())]
    shape = [1, x.shape[1]] + [1] * (x.dim() - 2)
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    variance = (centred * centred).mean(axes, keepdim=True)
    inverse = torch.rsqrt(variance + eps)
    result = centred * inverse
    result = result if weight is None else result * weight.reshape(shape)
    result = result if bias is None else result + bias.reshape(shape)
    flat_mean = mean.reshape(-1)
    new_mean = running_mean * (1 - momentum) + flat_mean * momentum
    new_variance = running_var * (1 - momentum) + x.var(axes, correction=1) * momentum
    return result, flat_mean, inverse.reshape(-1), new_mean, new_variance
