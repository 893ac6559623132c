"""Pooling over windows and to given sizes."""

from __future__ import annotations

import math
from typing import Any

import torch

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.operators.movement import padded
from ullage.frontends.onnx.write.table import Call, aten, writes
from ullage.frontends.onnx.write.types import form
from ullage.graph.operators import MAX_POOL_POSITIONS


class _Window:
    """Kernel, stride, padding and dilation of the pooled (last) dimensions, and the padding that the result needs."""

    def __init__(self, call: Call, rank: int) -> None:
        self.rank = rank
        self.kernel = _spread(call, call["kernel_size"] or call["kernel"], rank, 1)
        self.stride = _spread(call, call["stride"] or self.kernel, rank, 1)
        self.padding = _spread(call, call["padding"], rank, 0)
        self.dilation = _spread(call, call["dilation"] or 1, rank, 1)
        sizes, results = call.fake().shape[-rank:], call.result.shape[-rank:]
        self.static = all(isinstance(n, int) for n in (*sizes, *results))
        self.rounds_up = bool(call["ceil_mode"])
        if self.static:
            self.kernel = [self._clipped(d, sizes[d], results[d]) for d in range(rank)]
        self.behind = list(self.padding)
        if self.static and self.rounds_up:
            self.behind = [self._behind(d, sizes[d], results[d]) for d in range(rank)]

    def _clipped(self, d: int, size: int, count: int) -> int:
        """A single window that reaches beyond the input, as rounding up allows, is cut to it."""
        alone = count == 1 and self.padding[d] == 0 and self.dilation[d] == 1
        return min(self.kernel[d], size) if alone else self.kernel[d]

    def _behind(self, d: int, size: int, count: int) -> int:
        """Padding behind a dimension, just so much that as many windows as torch takes fit."""
        reach = (count - 1) * self.stride[d] + (self.kernel[d] - 1) * self.dilation[d] + 1
        return max(0, reach - size - self.padding[d])

    @property
    def attributes(self) -> dict[str, Any]:
        """Those that all pools have."""
        up = self.rounds_up and not self.static
        return {"kernel_shape": self.kernel, "strides": self.stride, "ceil_mode": 1 if up else None}


def _spread(call: Call, value: Any, rank: int, default: int) -> list[int]:
    numbers = call.known_ints(value) if value not in (None, []) else [default]
    return numbers * rank if len(numbers) == 1 else numbers


def _batched(call: Call, rank: int, dtype: torch.dtype | None = None) -> Value:
    """The input with a dimension of images."""
    x = call.value(call.node.args[0], dtype)
    return x if call.fake().dim() == rank + 2 else call.op("Unsqueeze", x, call.block.ints(0))


def _unbatched(call: Call, found: Value, rank: int) -> Value:
    return found if call.fake().dim() == rank + 2 else call.op("Squeeze", found, call.block.ints(0))


def _rank(call: Call) -> int:
    return next(rank for rank in (1, 2, 3) if f"{rank}d" in str(call.node.target))


@writes(aten.max_pool1d, aten.max_pool2d, aten.max_pool3d)
def _max_pool(call: Call) -> Value:
    dtype, rank = _pooled_in(call), _rank(call)
    found = _unbatched(call, _maxima(call, rank, dtype, 1)[0], rank)
    return found if dtype == call.dtype else call.block.cast(found, call.dtype)


@writes(MAX_POOL_POSITIONS)
def _max_pool_positions(call: Call) -> Value:
    """ONNX counts positions from the first image on: those in the own image are what is left of whole images."""
    rank = len(call["kernel"])
    positions = _unbatched(call, _maxima(call, rank, _pooled_in(call), 2)[1], rank)
    image = call.writer.sizes.scalar(math.prod(call.fake().shape[-rank:]))
    return call.op("Mod", positions, image)


def _maxima(call: Call, rank: int, dtype: torch.dtype, outputs: int) -> tuple[Value, ...]:
    window = _Window(call, rank)
    pads, x = [*window.padding, *window.behind], _batched(call, rank, dtype)
    return call.block.ops("MaxPool", x, outputs=outputs, pads=pads, dilations=window.dilation, **window.attributes)


def _pooled_in(call: Call) -> torch.dtype:
    """A type that ONNX pools, and that holds all values of the input's."""
    dtype = form(call.fake().dtype)
    if dtype == torch.int64:
        raise call.refuse("of int64")
    return {torch.int16: torch.float32, torch.int32: torch.float64}.get(dtype, dtype)


@writes(aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d)
def _avg_pool(call: Call) -> Value:
    """Zeros that count are put around before, so that the rest of a last window that is cut off never counts."""
    if not call.dtype.is_floating_point:
        raise call.refuse(f"of {str(call.dtype).removeprefix('torch.')}")
    window, x = _Window(call, _rank(call)), _batched(call, _rank(call))
    counts = call["count_include_pad"] is not False
    divisor = call["divisor_override"]
    if divisor is not None:
        x = padded(call, x, [0, 0, *window.padding, 0, 0, *window.behind])
        factor = call.value(math.prod(window.kernel) / divisor, call.dtype)
        return _unbatched(call, call.op("Mul", call.op("AveragePool", x, **window.attributes), factor), window.rank)
    before, behind = window.padding, window.behind
    if counts and any(before):
        x = padded(call, x, [0, 0, *before, 0, 0, *before])
        behind = [max(0, b - p) for b, p in zip(behind, before, strict=True)]
        before = [0] * window.rank
    pooled = call.op("AveragePool", x, pads=[*before, *behind], count_include_pad=0, **window.attributes)
    return _unbatched(call, pooled, window.rank)


@writes(
    aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten._adaptive_avg_pool2d, aten.adaptive_avg_pool3d,
    aten._adaptive_avg_pool3d,
)  # fmt: skip
def _adaptive(call: Call) -> Value:
    """A mean over everything, or products with matrices of the weights that each output has."""
    rank, x = _rank(call), call.value(call["self"])
    sizes, results = call.fake().shape[-rank:], call.result.shape[-rank:]
    if all(n == 1 for n in results):
        return call.op("ReduceMean", x, call.block.ints(*range(-rank, 0)), keepdims=1)
    if not all(isinstance(n, int) for n in (*sizes, *results)):
        raise call.refuse("of dynamic sizes")
    weights = [call.block.tensor(_means(a, b).to(call.dtype)) for a, b in zip(sizes, results, strict=True)]
    found = call.op("MatMul", x, call.op("Transpose", weights[-1], perm=[1, 0]))
    if rank > 1:
        found = call.op("MatMul", weights[-2], found)
    return _first_pooled(call, weights[0], found) if rank == 3 else found


def _first_pooled(call: Call, weights: Value, x: Value) -> Value:
    """The third dimension from the end as a dimension of a product."""
    rank = call.fake().dim()
    perm = [*range(rank - 3), rank - 2, rank - 3, rank - 1]
    return call.op("Transpose", call.op("MatMul", weights, call.op("Transpose", x, perm=perm)), perm=perm)


def _means(size: int, count: int) -> torch.Tensor:
    """[count, size]: the weights by which values become means of bands."""
    weights = torch.zeros(count, size, dtype=torch.float64)
    for i in range(count):
        start, end = i * size // count, -(-(i + 1) * size // count)
        weights[i, start:end] = 1 / (end - start)
    return weights
