"""Running reductions and linear recurrences; what ONNX has no operator for is a `Scan` over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch

from ullage.frontends.onnx.write.block import Block, Value
from ullage.frontends.onnx.write.table import Call, aten, writes
from ullage.frontends.onnx.write.types import arithmetic, onnx_type
from ullage.graph.operators import CUMMAX, CUMMIN, LAST, LINEAR_SCAN


@writes(aten.cumsum)
def _cumsum(call: Call) -> Value:
    axis = call["dim"] % max(1, call.fake().dim())
    wide = arithmetic(call.dtype)
    found = call.op("CumSum", call.value(call["self"], wide), call.value(axis, torch.int64))
    return found if wide == call.dtype else call.block.cast(found, call.dtype)


@writes(aten.cumprod)
def _cumprod(call: Call) -> Value:
    source, axis = call.value(call["self"], call.dtype), call["dim"] % call.fake().dim()
    return _scanned(call, _start(call, 1, axis, call.dtype), [source], axis, lambda body, s, x: body.op("Mul", s, x))


@writes(CUMMAX, CUMMIN)
def _running_extreme(call: Call) -> Value:
    """The extreme so far, in a type that has `Max` and `Min`; they give NaN where one operand is."""
    name = "Max" if call.node.target is CUMMAX else "Min"
    wide, axis = torch.int32 if call.dtype == torch.bool else arithmetic(call.dtype), call["dim"] % call.fake().dim()
    limits = (-math.inf, math.inf) if wide.is_floating_point else (torch.iinfo(wide).min, torch.iinfo(wide).max)
    first = _start(call, limits[name == "Min"], axis, wide)
    source = call.value(call["x"], wide)
    found = _scanned(call, first, [source], axis, lambda body, state, x: body.op(name, state, x), wide)
    return found if wide == call.dtype else call.block.cast(found, call.dtype)


def _start(call: Call, number: float, axis: int, dtype: torch.dtype) -> Value:
    """One number for every walk along a dimension."""
    shape = call.writer.sizes.vector(*_without(call.result.shape, axis))
    return call.op("Expand", call.value(number, dtype), shape)


@writes(LINEAR_SCAN)
def _linear_scan(call: Call) -> Value:
    """y[t] = factor[t] · y[t − 1] + term[t] along a dimension."""
    axis = call["dim"] % call.result.dim()
    steps, shape = call.result.shape[axis], call.writer.sizes.vector(*_without(call.result.shape, axis))
    initial = call.value(0.0, call.dtype) if call["initial"] is None else call.value(call["initial"])
    walked = [_walked(call, call[name], axis, steps) for name in ("factor", "term")]

    def step(body: Block, state: Value, factor: Value, term: Value) -> Value:
        return body.op("Add", body.op("Mul", factor, state), term)

    return _scanned(call, call.op("Expand", initial, shape), walked, axis, step)


def _walked(call: Call, value: Any, axis: int, steps: Any) -> Value:
    """An operand with as many steps as the result has."""
    sizes = [1] * call.result.dim()
    if call.fake(value).shape[axis] == steps:
        return call.value(value)
    sizes[axis] = steps
    return call.op("Expand", call.value(value), call.writer.sizes.vector(*sizes))


def _without(shape: Any, axis: int) -> list[Any]:
    return [n for d, n in enumerate(shape) if d != axis]


def _scanned(
    call: Call,
    initial: Value,
    walked: list[Value],
    axis: int,
    step: Callable[..., Value],
    dtype: torch.dtype | None = None,
) -> Value:
    """The states of a walk along a dimension: `step` makes each from the one before and the operands' parts."""
    body = call.block.inner()
    names, kind = call.block.names, ir.TensorType(onnx_type(dtype or call.dtype, call.node.name))
    state, *parts = [ir.Value(name=names.new(n), type=kind) for n in ("state", *("step" for _ in walked))]
    following = step(body, state, *parts)
    seen = body.op("Identity", following)
    following.type = seen.type = kind
    graph = ir.Graph([state, *parts], [following, seen], nodes=body.nodes, name=names.new("walk"))
    _, states = call.block.ops(
        "Scan", initial, *walked, outputs=2, body=graph, num_scan_inputs=len(walked),
        scan_input_axes=[axis] * len(walked), scan_output_axes=[axis],
    )  # fmt: skip
    return states


@writes(LAST)
def _last(call: Call) -> Value:
    dim = call["dim"] % call.fake().dim()
    return call.op("Gather", call.value(call["x"]), call.value(-1, torch.int64), axis=dim)
