"""Normalisations and softmax."""

from __future__ import annotations

from typing import Any

import torch

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.table import Call, aten, writes


def _filled(call: Call, value: Any, shape: list[int], number: float) -> Value:
    """A parameter, or a constant in its place where the operator was given none."""
    return call.value(value, call.dtype) if value is not None else call.block.tensor(_full(call, shape, number))


def _full(call: Call, shape: list[int], number: float) -> torch.Tensor:
    return torch.full(shape, number, dtype=call.dtype)


@writes(aten.layer_norm, aten.native_layer_norm)
def _layer_norm(call: Call) -> Any:
    shape = call.known_ints(call["normalized_shape"])
    scale, bias = _filled(call, call["weight"], shape, 1), call.optional(call["bias"], call.dtype)
    x = call.value(call.node.args[0])
    found = call.op("LayerNormalization", x, scale, bias, axis=-len(shape), epsilon=float(call["eps"]))
    return (found, None, None) if call.node.target is aten.native_layer_norm.default else found


@writes(aten.rms_norm, aten._fused_rms_norm)
def _rms_norm(call: Call) -> Any:
    shape = call.known_ints(call["normalized_shape"])
    eps = torch.finfo(call.result.dtype).eps if call["eps"] is None else float(call["eps"])
    scale = _filled(call, call["weight"], shape, 1)
    found = call.op("RMSNormalization", call.value(call["input"]), scale, axis=-len(shape), epsilon=eps)
    return (found, None) if call.node.target is aten._fused_rms_norm.default else found


@writes(aten.group_norm, aten.native_group_norm)
def _group_norm(call: Call) -> Any:
    native = call.node.target is aten.native_group_norm.default
    groups = call["group"] if native else call["num_groups"]
    channels = [int(call.fake().shape[1])]
    scale, bias = _filled(call, call["weight"], channels, 1), _filled(call, call["bias"], channels, 0)
    x = call.value(call.node.args[0])
    found = call.op("GroupNormalization", x, scale, bias, num_groups=groups, epsilon=float(call["eps"]))
    return (found, None, None) if native else found


@writes(aten.batch_norm, aten._native_batch_norm_legit_no_training, aten.native_batch_norm)
def _batch_norm(call: Call) -> Any:
    if call["training"]:
        raise call.refuse("in training mode")
    channels = [int(call.fake().shape[1])]
    scale, bias = _filled(call, call["weight"], channels, 1), _filled(call, call["bias"], channels, 0)
    mean, variance = (call.value(call[name], call.dtype) for name in ("running_mean", "running_var"))
    x = call.value(call["input"])
    found = call.op("BatchNormalization", x, scale, bias, mean, variance, epsilon=float(call["eps"]))
    return found if call.node.target is aten.batch_norm.default else (found, None, None)


@writes(aten._softmax, aten.softmax.int, aten._log_softmax, aten.log_softmax.int, aten._safe_softmax)
def _softmax(call: Call) -> Value:
    """Along a dimension; the safe one gives 0 where all is −∞."""
    name, rank = str(call.node.target), call.fake().dim()
    x = call.value(call["self"], call.dtype)
    if rank == 0:
        x = call.op("Unsqueeze", x, call.block.ints(0))
    axis = call["dim"] % max(1, rank)
    found = call.op("LogSoftmax" if "log" in name else "Softmax", x, axis=axis)
    if "safe" in name:
        most = call.op("ReduceMax", x, call.block.ints(axis), keepdims=1)
        nothing = call.op("Equal", most, call.value(float("-inf"), call.dtype))
        found = call.op("Where", nothing, call.value(0.0, call.dtype), found)
    return found if rank else call.op("Squeeze", found, call.block.ints(0))
