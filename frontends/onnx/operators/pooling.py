"""Pools."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from ullage.frontends.onnx.operators.convolutions import padded, window_pads
from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@operator("GlobalAveragePool")
def _global_average(call: Call) -> Tensor:
    x = call.tensor()
    return x.mean(list(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def _global_max(call: Call) -> Tensor:
    x = call.tensor()
    return x.amax(list(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool")
def _global_lp(call: Call) -> Tensor:
    x, p = call.tensor(), call.attribute("p", 2)
    return x.abs().pow(p).sum(list(range(2, x.dim())), keepdim=True).pow(1 / p)


def _geometry(call: Call) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations, and padding before and after, with what ceil mode adds after."""
    kernel = call.attribute("kernel_shape")
    strides, dilations = call.attribute("strides", [1] * len(kernel)), call.attribute("dilations", [1] * len(kernel))
    sizes = call.tensor().shape[2:]
    before, after = window_pads(call, sizes, kernel, strides, dilations)
    return kernel, strides, dilations, before, after


def _ceiling(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    before: Sequence[int], after: Sequence[int],
) -> list[int]:  # fmt: skip
    """Elements that windows which begin inside reach beyond the padding."""
    more = []
    for n, k, s, d, low, high in zip(sizes, kernel, strides, dilations, before, after, strict=True):
        span = n + low + high - ((k - 1) * d + 1)
        count = -(-span // s) + 1
        count -= (count - 1) * s >= n + low
        more.append(max(0, (count - 1) * s - span))
    return more


@operator("MaxPool")
def _max_pool(call: Call) -> Any:
    x = call.tensor()
    kernel, strides, dilations, before, after = _geometry(call)
    if call.attribute("ceil_mode", 0):
        more = _ceiling(x.shape[2:], kernel, strides, dilations, before, after)
        after = [a + b for a, b in zip(after, more, strict=True)]
    small = all(
        b == a and 2 * b <= (k - 1) * d + 1 for b, a, k, d in zip(before, after, kernel, dilations, strict=True)
    )
    indices = len(call.node.outputs) > 1 and bool(call.node.outputs[1].name)
    if small and not indices:
        return _MAX[len(kernel)](x, kernel, strides, before, dilations)
    lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    around = padded(x, before, after, lowest)
    pooled, places = _MAX[len(kernel)](around, kernel, strides, 0, dilations, return_indices=True)
    return (pooled, _places(call, places, x, around, before)) if indices else pooled


def _places(call: Call, places: Tensor, x: Tensor, around: Tensor, before: Sequence[int]) -> Tensor:
    """Positions in the whole tensor, without the padding; `storage_order` 1 counts columns first."""
    inner, coordinates = places, []
    for size, low in zip(reversed(around.shape[2:]), reversed(before), strict=True):
        coordinates.append(inner % size - low)
        inner = inner // size
    coordinates.reverse()
    sizes = list(x.shape[2:])
    order = list(range(len(sizes)))
    order = order[::-1] if call.attribute("storage_order", 0) else order
    flat = torch.zeros_like(places)
    for i in order:
        flat = flat * sizes[i] + coordinates[i]
    images = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *[1] * len(sizes))
    return flat + images * prod(sizes)


@operator("AveragePool")
def _average_pool(call: Call) -> Tensor:
    x = call.tensor()
    kernel, strides, dilations, before, after = _geometry(call)
    include = bool(call.attribute("count_include_pad", 0))
    more = [0] * len(kernel)
    if call.attribute("ceil_mode", 0):
        more = _ceiling(x.shape[2:], kernel, strides, dilations, before, after)
    plain = all(d == 1 for d in dilations) and not any(more)
    small = all(b == a and 2 * b <= k for b, a, k in zip(before, after, kernel, strict=True))
    if plain and small:
        average: Tensor = _AVERAGE[len(kernel)](x, kernel, strides, before, False, include)
        return average
    total = _summed(padded(padded(x, before, after), [0] * len(kernel), more), kernel, strides, dilations)
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    counted = padded(counted, before, after, 1.0 if include else 0.0)
    return total / _summed(padded(counted, [0] * len(kernel), more), kernel, strides, dilations)


def _summed(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """Sums of windows: of shifted and strided copies."""
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        axis = 2 + i
        count = (x.shape[axis] - ((k - 1) * d + 1)) // s + 1
        parts = [x.narrow(axis, j * d, (count - 1) * s + 1) for j in range(k)]
        index = [slice(None)] * x.dim()
        index[axis] = slice(None, None, s)
        total = parts[0][tuple(index)]
        for part in parts[1:]:
            total = total + part[tuple(index)]
        x = total
    return x


@operator("LpPool")
def _lp_pool(call: Call) -> Tensor:
    x, p = call.tensor(), call.attribute("p", 2)
    kernel, strides, dilations, before, after = _geometry(call)
    if call.attribute("ceil_mode", 0):
        more = _ceiling(x.shape[2:], kernel, strides, dilations, before, after)
        after = [a + b for a, b in zip(after, more, strict=True)]
    return _summed(padded(x.abs().pow(p), before, after), kernel, strides, dilations).pow(1 / p)


@operator("MaxUnpool")
def _max_unpool(call: Call) -> Tensor:
    x, places = call.tensor(0), call.tensor(1)
    kernel = call.attribute("kernel_shape")
    strides, pads = call.attribute("strides", [1] * len(kernel)), call.attribute("pads", [0] * (2 * len(kernel)))
    rank = len(kernel)
    own = [
        (n - 1) * s + k - a - b
        for n, s, k, a, b in zip(x.shape[2:], strides, kernel, pads[:rank], pads[rank:], strict=True)
    ]
    shape = call.numbers(2) if call.has(2) else [x.shape[0], x.shape[1], *own]
    small = torch.zeros(prod([x.shape[0], x.shape[1], *own]), dtype=x.dtype)
    small = small.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(x.shape[0], x.shape[1], *own)
    return padded(small, [0] * rank, [int(a) - int(b) for a, b in zip(shape[2:], own, strict=True)])
