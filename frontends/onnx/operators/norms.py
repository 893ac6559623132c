"""Normalisations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor


def _check_stage(call: Call) -> None:
    """Raise CaptureError if moments are asked for in another type than float32, or the input's own if that is wider."""
    if call.attribute("stash_type", 1) != 1:
        raise call.error("moments in another type than float are not supported")


def _moments(x: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and variance over axes, which stay as ones."""
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    return mean, (centred * centred).mean(axes, keepdim=True)


@operator("BatchNormalization")
def _batch_norm(call: Call) -> Any:
    x, scale, shift, mean, variance = (call.tensor(i) for i in range(5))
    epsilon, momentum = call.attribute("epsilon", 1e-5), call.attribute("momentum", 0.9)
    if not call.attribute("spatial", 1):
        raise call.error("batch norms with parameters per element (spatial=0) are not supported")
    training = call.attribute("training_mode", 0) if call.version >= 7 else not call.attribute("is_test", 0)
    if training and call.version >= 14:
        return _trained_batch_norm(x, (scale, shift, mean, variance), epsilon, momentum)
    if training:
        raise call.error(f"batch norms in training mode are not supported in opset {call.version}")
    if scale.dtype != x.dtype or mean.dtype != x.dtype:
        shape = [1, -1, *[1] * (x.dim() - 2)]
        scaled = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + epsilon)
        return (scaled * scale.reshape(shape) + shift.reshape(shape)).to(x.dtype)
    return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, epsilon)


def _trained_batch_norm(
    x: Tensor, parameters: tuple[Tensor, ...], epsilon: float, momentum: float
) -> tuple[Tensor, ...]:
    """By the batch's own moments; the running ones move towards them (population variance)."""
    scale, shift, mean, variance = parameters
    shape = [1, -1, *[1] * (x.dim() - 2)]
    own_mean, own_variance = _moments(x, [i for i in range(x.dim()) if i != 1])
    y = (x - own_mean) / torch.sqrt(own_variance + epsilon) * scale.reshape(shape) + shift.reshape(shape)
    moved = (
        old * momentum + new.reshape(-1).to(old.dtype) * (1 - momentum)
        for old, new in ((mean, own_mean), (variance, own_variance))
    )
    return y.to(x.dtype), *moved


@operator("InstanceNormalization")
def _instance_norm(call: Call) -> Tensor:
    x, scale, shift = call.tensor(0), call.tensor(1), call.tensor(2)
    axes = list(range(2, x.dim()))
    mean, variance = _moments(x, axes)
    shape = [1, -1, *[1] * len(axes)]
    return (x - mean) * torch.rsqrt(variance + call.attribute("epsilon", 1e-5)) * scale.reshape(shape) + shift.reshape(
        shape
    )


@operator("LayerNormalization")
def _layer_norm(call: Call) -> tuple[Any, ...]:
    x, scale, bias = call.tensor(0), call.tensor(1), call.optional(2)
    _check_stage(call)
    axis = call.attribute("axis", -1)
    axis = axis + x.dim() if axis < 0 else axis
    epsilon = call.attribute("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    fits = tuple(scale.shape) == tuple(shape) and (bias is None or tuple(bias.shape) == tuple(shape))
    if fits:
        y = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        y = F.layer_norm(x, shape, None, None, epsilon) * scale
        y = y if bias is None else y + bias
    if len([o for o in call.node.outputs if o.name]) == 1:
        return (y,)
    axes = list(range(axis, x.dim()))
    mean, variance = _moments(x.float(), axes)
    return y, mean, torch.rsqrt(variance + epsilon)


@operator("RMSNormalization")
@operator("SimplifiedLayerNormalization")
def _rms_norm(call: Call) -> Tensor:
    x, scale = call.tensor(0), call.tensor(1)
    _check_stage(call)
    axis = call.attribute("axis", -1)
    axis = axis + x.dim() if axis < 0 else axis
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    mean = torch.mean(wide * wide, list(range(axis, x.dim())), keepdim=True)
    return (wide * torch.rsqrt(mean + call.attribute("epsilon", 1e-5))).to(x.dtype) * scale


@operator("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def _skip_layer_norm(call: Call) -> tuple[Any, ...]:
    """The norm of a sum; results are the norm, two that only training wants, and the sum."""
    simple = call.node.op_type.startswith("SkipSimplified")
    total = call.tensor(0) + call.tensor(1)
    bias = call.optional(3 if simple else 4)
    total = total if bias is None else total + bias
    scale, shift = call.tensor(2), None if simple else call.optional(3)
    epsilon = call.attribute("epsilon", 1e-12)
    if simple:
        normed = total * torch.rsqrt(torch.mean(total * total, -1, keepdim=True) + epsilon) * scale
    else:
        normed = F.layer_norm(total, [total.shape[-1]], scale, shift, epsilon)
    return normed, None, None, total


@operator("GroupNormalization")
def _group_norm(call: Call) -> Tensor:
    """Scale and shift are by group before opset 21, then by channel."""
    _check_stage(call)
    x, scale, shift, groups = call.tensor(0), call.tensor(1), call.tensor(2), call.attribute("num_groups")
    if call.version < 21 and scale.shape[0] == groups and groups != x.shape[1]:
        each = x.shape[1] // groups
        scale, shift = scale.repeat_interleave(each), shift.repeat_interleave(each)
    return F.group_norm(x, groups, scale, shift, call.attribute("epsilon", 1e-5))


@operator("LRN")
def _lrn(call: Call) -> Tensor:
    x, size = call.tensor(), call.attribute("size")
    alpha, beta, bias = call.attribute("alpha", 1e-4), call.attribute("beta", 0.75), call.attribute("bias", 1.0)
    squares = F.pad(x * x, [0, 0] * (x.dim() - 2) + [(size - 1) // 2, size - 1 - (size - 1) // 2])
    total = squares.narrow(1, 0, x.shape[1])
    for i in range(1, size):
        total = total + squares.narrow(1, i, x.shape[1])
    return x / torch.pow(bias + alpha / size * total, beta)


@operator("LpNormalization")
def _lp_norm(call: Call) -> Tensor:
    x, axis, p = call.tensor(), call.attribute("axis", -1), call.attribute("p", 2)
    norm = x.abs().sum(axis, keepdim=True) if p == 1 else torch.sqrt((x * x).sum(axis, keepdim=True))
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("MeanVarianceNormalization")
def _mean_variance(call: Call) -> Tensor:
    x = call.tensor()
    axes = call.attribute("axes", [0, 2, 3])
    mean, variance = _moments(x, axes)
    return (x - mean) / (torch.sqrt(variance) + 1e-9)
