"""Reductions: sums, means, extremes and their positions, moments, norms."""

from __future__ import annotations

import math

import torch

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.table import Call, aten, dims_of, writes
from ullage.frontends.onnx.write.types import arithmetic


def reduced(call: Call, name: str, x: Value, dims: list[int], keep: bool) -> Value:
    """A reduction over dimensions (none: the value itself)."""
    return call.op(name, x, call.block.ints(*dims), keepdims=int(keep)) if dims else x


def _of_none(call: Call, dims: list[int], number: float) -> Value | None:
    """What a reduction starts from, where it is certainly over nothing (runtimes differ there)."""
    sizes = [call.fake().shape[d] for d in dims]
    if not any(isinstance(n, int) and n == 0 for n in sizes):
        return None
    return call.op("Expand", call.value(number, call.dtype), call.writer.sizes.vector(*call.result.shape))


_OF_NONE = {"sum": 0, "mean": math.nan, "prod": 1, "any": False, "all": True}
_NAMES = {"sum": "ReduceSum", "mean": "ReduceMean", "prod": "ReduceProd", "amax": "ReduceMax", "amin": "ReduceMin"}


@writes(
    aten.sum, aten.mean, aten.prod, aten.amax, aten.amin, aten.max.default, aten.min.default,
)  # fmt: skip
def _reduce(call: Call) -> Value:
    name = str(call.node.target).split(".")[1]
    dims = dims_of(call["dim"], call.fake().dim())
    if name in _OF_NONE and (start := _of_none(call, dims, _OF_NONE[name])) is not None:
        return start
    operator = _NAMES[{"max": "amax", "min": "amin"}.get(name, name)]
    wide = torch.int32 if call.dtype == torch.bool else arithmetic(call.dtype)
    found = reduced(call, operator, call.value(call["self"], wide), dims, bool(call["keepdim"]))
    return found if wide == call.dtype else call.block.cast(found, call.dtype)


@writes(aten.any, aten.all)
def _truth(call: Call) -> Value:
    name, dims = str(call.node.target).split(".")[1], dims_of(call["dim"], call.fake().dim())
    if (start := _of_none(call, dims, _OF_NONE[name])) is not None:
        return start
    truths = call.block.cast(call.value(call["self"], torch.bool), torch.int32)
    operator = "ReduceMax" if name == "any" else "ReduceMin"
    found = call.block.cast(reduced(call, operator, truths, dims, bool(call["keepdim"])), torch.bool)
    return found if call.dtype == torch.bool else call.block.cast(found, call.dtype)


@writes(aten.argmax, aten.argmin)
def _position(call: Call) -> Value:
    operator = "ArgMax" if "argmax" in str(call.node.target) else "ArgMin"
    dtype, dim, keep = call.fake().dtype, call["dim"], bool(call["keepdim"])
    source = call.value(call["self"], torch.int32 if dtype == torch.bool else arithmetic(dtype))
    if dim is not None and call.fake().dim():
        return call.op(operator, source, axis=dim % call.fake().dim(), keepdims=int(keep))
    found = call.op(operator, call.op("Reshape", source, call.block.ints(-1)), axis=0, keepdims=0)
    return call.op("Reshape", found, call.block.ints(*[1] * call.result.dim())) if keep else found


@writes(aten.max.dim, aten.min.dim)
def _extreme_and_position(call: Call) -> tuple[Value, Value]:
    largest, keep = "max" in str(call.node.target), bool(call["keepdim"])
    dims, source = dims_of(call["dim"], call.fake().dim()), call.value(call["self"])
    position = call.op("ArgMax" if largest else "ArgMin", source, axis=dims[0], keepdims=int(keep))
    return reduced(call, "ReduceMax" if largest else "ReduceMin", source, dims, keep), position


@writes(aten.var, aten.std, aten.var_mean)
def _variance(call: Call) -> Value | tuple[Value, Value]:
    """By two passes; divided by the count less the correction."""
    dims, x = dims_of(call["dim"], call.fake().dim()), call.value(call["self"])
    correction = call["correction"]
    if correction is None:
        correction = 0 if call["unbiased"] is False else 1
    mean = reduced(call, "ReduceMean", x, dims, True)
    delta, keep = call.op("Sub", x, mean), bool(call["keepdim"])
    total = reduced(call, "ReduceSum", call.op("Mul", delta, delta), dims, keep)
    count = math.prod(call.fake().shape[d] for d in dims) - correction
    variance = call.op("Div", total, _count(call, count))
    if "var_mean" in str(call.node.target):
        return variance, reduced(call, "ReduceMean", x, dims, keep)
    return call.op("Sqrt", variance) if "std" in str(call.node.target) else variance


def _count(call: Call, count: float | torch.SymInt) -> Value:
    if not isinstance(count, torch.SymInt):
        return call.value(float(count), call.dtype)
    return call.block.cast(call.writer.sizes.scalar(count), call.dtype)


@writes(aten.logsumexp)
def _logsumexp(call: Call) -> Value:
    dims = dims_of(call["dim"], call.fake().dim())
    return reduced(call, "ReduceLogSumExp", call.value(call["self"]), dims, bool(call["keepdim"]))


@writes(aten.linalg_vector_norm)
def _vector_norm(call: Call) -> Value:
    order, dims = float(call["ord"]), dims_of(call["dim"], call.fake().dim())
    x, keep = call.value(call["self"], call.dtype), bool(call["keepdim"])
    if order in (1, 2):
        return reduced(call, f"ReduceL{order:.0f}", x, dims, keep)
    size = call.op("Abs", x)
    if math.isinf(order):
        return reduced(call, "ReduceMax" if order > 0 else "ReduceMin", size, dims, keep)
    if order == 0:
        raise call.refuse("of order 0")
    total = reduced(call, "ReduceSum", call.op("Pow", size, call.value(order, call.dtype)), dims, keep)
    return call.op("Pow", total, call.value(1 / order, call.dtype))
