"""Operators that move, cut and join, on tensors and on known arrays of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ullage.frontends.onnx.table import Call, operator
from ullage.frontends.onnx.values import Known, known, sizes, within_limit

Tensor = torch.Tensor


@operator("Shape", host=lambda call: _shape_of(call.known(0).array.shape, call))
def _shape(call: Call) -> Known:
    value = call.value(0)
    return _shape_of(value.array.shape if isinstance(value, Known) else value.shape, call)


def _shape_of(shape: Sequence[Any], call: Call) -> Known:
    """The part of a shape from `start` to `end` (opset 15)."""
    return sizes(list(shape)[slice(call.attribute("start", 0), call.attribute("end"))])


@operator("Size", host=lambda call: known(call.known(0).array.size, torch.int64))
def _size(call: Call) -> Known:
    return known(prod(call.tensor().shape), torch.int64)


@operator(
    "Reshape", host=lambda call: _like(call, call.known(0).array.reshape(_target(call, call.known(0).array.shape)))
)
def _reshape(call: Call) -> Tensor:
    x = call.tensor()
    return x.reshape(_target(call, x.shape))


def _target(call: Call, shape: Sequence[Any]) -> list[Any]:
    """Zeros stand for the input's own sizes unless `allowzero` is set."""
    wanted = call.numbers_or_attribute(1, "shape")
    keep = not call.attribute("allowzero", 0)
    return [shape[i] if keep and isinstance(n, int) and n == 0 else n for i, n in enumerate(wanted)]


def _like(call: Call, array: np.ndarray) -> Known:
    return Known(array, call.known(0).dtype)


@operator("Flatten")
def _flatten(call: Call) -> Tensor:
    x = call.tensor()
    axis = call.attribute("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), -1) if all(n != 0 for n in x.shape) else _empty_matrix(x, axis)


def _empty_matrix(x: Tensor, axis: int) -> Tensor:
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Transpose", host=lambda call: _like(call, np.transpose(call.known(0).array, call.attribute("perm"))))
def _transpose(call: Call) -> Tensor:
    x = call.tensor()
    return x.permute(call.attribute("perm", list(range(x.dim()))[::-1]))


def _axes(call: Call, rank: int) -> list[int] | None:
    axes = call.numbers_or_attribute(1, "axes")
    return None if axes is None else [axis % rank if rank else 0 for axis in axes]


@operator("Squeeze", host=lambda call: _like(call, _squeezed(call, call.known(0).array)))
def _squeeze(call: Call) -> Tensor:
    x = call.tensor()
    axes = _axes(call, x.dim())
    return x.squeeze(axes if axes is not None else [i for i, n in enumerate(x.shape) if n == 1])


def _squeezed(call: Call, array: np.ndarray) -> np.ndarray:
    axes = _axes(call, array.ndim)
    return np.squeeze(array, None if axes is None else tuple(axes))


@operator("Unsqueeze", host=lambda call: _like(call, _unsqueezed(call, call.known(0).array)))
def _unsqueeze(call: Call) -> Tensor:
    x = call.tensor()
    for axis in sorted(_new_axes(call, x.dim())):
        x = x.unsqueeze(axis)
    return x


def _new_axes(call: Call, rank: int) -> list[int]:
    axes = call.numbers_or_attribute(1, "axes")
    return [axis % (rank + len(axes)) for axis in axes]


def _unsqueezed(call: Call, array: np.ndarray) -> np.ndarray:
    return np.expand_dims(array, tuple(_new_axes(call, array.ndim)))


@operator("Concat", host=lambda call: _concatenated(call))
def _concat(call: Call) -> Tensor:
    parts = [call.tensor(i) for i in range(call.count)]
    return torch.cat(parts, call.attribute("axis", 1))


def _concatenated(call: Call) -> Known:
    parts = [call.known(i).array.astype(object) for i in range(call.count)]
    return known(np.concatenate(parts, call.attribute("axis", 1)), call.known(0).dtype)


@operator("Split")
def _split(call: Call) -> tuple[Tensor, ...]:
    x, axis = call.tensor(), call.attribute("axis", 0)
    lengths = call.numbers_or_attribute(1, "split")
    if lengths is None:
        count = call.attribute("num_outputs", len(call.node.outputs))
        size = -(-x.shape[axis] // count)
        lengths = [min(size, x.shape[axis] - i * size) for i in range(count)]
    return tuple(torch.split(x, lengths, axis))


@operator("Slice", since=10, host=lambda call: _sliced_on_host(call))
def _slice(call: Call) -> Tensor:
    return _sliced(call, call.numbers(1), call.numbers(2), _optional(call, 3), _optional(call, 4))


@operator("Slice", since=1)
def _slice_by_attributes(call: Call) -> Tensor:
    return _sliced(call, call.attribute("starts"), call.attribute("ends"), call.attribute("axes"), None)


def _optional(call: Call, position: int) -> list[Any] | None:
    return call.numbers(position) if call.has(position) else None


def _sliced(
    call: Call, starts: Sequence[Any], ends: Sequence[Any], axes: Sequence[int] | None, steps: Sequence[int] | None
) -> Tensor:
    x = call.tensor()
    steps = steps or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes or range(len(starts)), steps, strict=True):
        x = _cut(x, start, end, axis, step)
    return x


def _cut(x: Tensor, start: Any, end: Any, axis: int, step: int) -> Tensor:
    """Part of one dimension; a negative step walks it backwards."""
    if step > 0:
        index = [slice(None)] * x.dim()
        index[axis] = slice(_within(start), _within(end), step)
        return x[tuple(index)]
    size = x.shape[axis]
    low, high, _ = slice(start, None if end < -(1 << 31) else end, step).indices(int(size))
    places = torch.arange(low, high, step)
    return x.index_select(axis, places)


def _within(bound: Any) -> Any:
    """Bounds far beyond any size stand for the end."""
    return bound if not isinstance(bound, int) else max(-(1 << 62), min(bound, (1 << 62)))


def _sliced_on_host(call: Call) -> Known:
    array = call.known(0).array
    starts, ends = call.numbers(1), call.numbers(2)
    axes, steps = _optional(call, 3) or range(len(starts)), _optional(call, 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index = [slice(None)] * array.ndim
        index[axis] = slice(start, None if step < 0 and end < -(1 << 31) else end, step)
        array = array[tuple(index)]
    return _like(call, array)


@operator("Gather", host=lambda call: _gathered(call))
def _gather(call: Call) -> Tensor:
    x, axis = call.tensor(0), call.attribute("axis", 0) % max(1, call.tensor(0).dim())
    if isinstance(call.value(1), Known) and call.value(1).array.ndim == 0:
        return x.select(axis, call.scalar(1))
    index = call.tensor(1).long()
    index = torch.where(index < 0, index + x.shape[axis], index)
    if axis == 0 and x.dim() == 2 and x.is_floating_point():
        return F.embedding(index, x)
    flat = x.index_select(axis, index.reshape(-1))
    return flat.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gathered(call: Call) -> Known:
    value, places, axis = call.known(0), call.known(1).array.astype(np.int64), call.attribute("axis", 0)
    within_limit((places.size, *np.delete(value.array.shape, axis)))
    return Known(np.asarray(np.take(value.array, places, axis)), value.dtype)


@operator("Expand", host=lambda call: _expanded(call))
def _expand(call: Call) -> Tensor:
    x, wanted = call.tensor(), call.numbers(1)
    rank = max(x.dim(), len(wanted))
    shape = [*[1] * (rank - len(wanted)), *wanted]
    own = [*[1] * (rank - x.dim()), *x.shape]
    return x.expand([b if isinstance(a, int) and a == 1 else a for a, b in zip(own, shape, strict=True)])


def _expanded(call: Call) -> Known:
    array, wanted = call.known(0).array, [int(n) for n in call.numbers(1)]
    within_limit(np.broadcast_shapes(array.shape, tuple(wanted)))
    return _like(call, np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(wanted))))


@operator("Tile")
def _tile(call: Call) -> Tensor:
    if call.version < 6:
        x, times, axis = call.tensor(), call.scalar(1), call.scalar(2)
        return x.repeat([times if i == axis else 1 for i in range(x.dim())])
    return call.tensor().repeat(call.numbers(1))


@operator("Pad")
def _pad(call: Call) -> Tensor:
    x = call.tensor()
    pads = call.numbers(1) if call.version >= 11 else call.attribute("pads", call.attribute("paddings"))
    value = _filling(call) if call.version >= 11 else call.attribute("value", 0.0)
    axes = [a % x.dim() for a in call.numbers(3)] if call.has(3) else list(range(x.dim()))
    before, after = [0] * x.dim(), [0] * x.dim()
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[i + len(axes)]
    mode = call.attribute("mode", "constant")
    if mode == "constant":
        flat = [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
        return _constant_padded(x, flat, value)
    return _mirrored(call, x, before, after, mode)


def _filling(call: Call) -> Any:
    """What constant padding is made of: a number, or a tensor if it is computed."""
    return call.tensor(2).reshape(()) if isinstance(call.value(2), torch.Tensor) else call.scalar(2, 0)


def _constant_padded(x: Tensor, flat: list[Any], value: Any) -> Tensor:
    if isinstance(value, torch.Tensor):
        outside = F.pad(torch.zeros(x.shape, dtype=torch.uint8), flat, value=1)
        return torch.where(outside == 1, value, F.pad(x, flat))
    if x.dtype == torch.bool:
        return F.pad(x.to(torch.uint8), flat, value=int(bool(value))).bool()
    return F.pad(x, flat, value=value)


def _mirrored(call: Call, x: Tensor, before: Sequence[int], after: Sequence[int], mode: str) -> Tensor:
    """Padding from the tensor itself, dimension by dimension, by index."""
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        if low == 0 and high == 0:
            continue
        if low < 0 or high < 0:
            x = x.narrow(axis, max(0, -low), x.shape[axis] + min(low, 0) + min(high, 0))
            low, high = max(low, 0), max(high, 0)
        size = int(x.shape[axis])
        places = np.arange(-low, call.length(size + high))
        x = x.index_select(axis, torch.from_numpy(_reflected(places, size, mode)))
    return x


def _reflected(places: np.ndarray, size: int, mode: str) -> np.ndarray:
    if mode == "edge":
        return places.clip(0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(1, 2 * (size - 1))
    folded = places % period
    return np.where(folded < size, folded, period - folded)


@operator("DepthToSpace")
def _depth_to_space(call: Call) -> Tensor:
    x, b = call.tensor(), call.attribute("blocksize")
    n, c, h, w = x.shape
    if call.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    y = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // (b * b), h * b, w * b)


@operator("SpaceToDepth")
def _space_to_depth(call: Call) -> Tensor:
    x, b = call.tensor(), call.attribute("blocksize")
    n, c, h, w = x.shape
    order = (0, 1, 3, 5, 2, 4) if call.attribute("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).permute(order).reshape(n, c * b * b, h // b, w // b)


@operator("ReverseSequence")
def _reverse_sequence(call: Call) -> Tensor:
    x, lengths = call.tensor(0), call.tensor(1)
    time, batch = call.attribute("time_axis", 0), call.attribute("batch_axis", 1)
    steps = torch.arange(x.shape[time])
    steps = steps.reshape([-1 if i == time else 1 for i in range(x.dim())])
    ends = lengths.reshape([-1 if i == batch else 1 for i in range(x.dim())])
    places = torch.where(steps < ends, ends - 1 - steps, steps).expand(x.shape)
    return torch.gather(x, time, places)


@operator("Trilu")
def _trilu(call: Call) -> Tensor:
    x, k = call.tensor(), call.scalar(1, 0)
    x_ = x.to(torch.uint8) if x.dtype == torch.bool else x
    return (torch.triu(x_, k) if call.attribute("upper", 1) else torch.tril(x_, k)).to(x.dtype)


@operator("CenterCropPad")
def _center_crop_pad(call: Call) -> Tensor:
    x, wanted = call.tensor(), call.numbers(1)
    for size, axis in zip(wanted, call.attribute("axes", list(range(x.dim()))), strict=True):
        own = x.shape[axis]
        if own > size:
            x = x.narrow(axis, (own - size) // 2, size)
        elif own < size:
            flat = [0] * (2 * x.dim())
            place = 2 * (x.dim() - 1 - axis % x.dim())
            flat[place], flat[place + 1] = (size - own) // 2, size - own - (size - own) // 2
            x = F.pad(x, flat)
    return x


@operator("Col2Im")
def _col2im(call: Call) -> Tensor:
    """Blocks [n, c · taps, blocks] added up where they lie, dimension by dimension, by matrices of zeros and ones."""
    x, image, block = call.tensor(), [int(n) for n in call.numbers(1)], [int(n) for n in call.numbers(2)]
    rank = len(block)
    pads, strides = call.attribute("pads", [0] * (2 * rank)), call.attribute("strides", [1] * rank)
    dilations = call.attribute("dilations", [1] * rank)
    counts = [
        (image[i] + pads[i] + pads[rank + i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i in range(rank)
    ]
    y = x.reshape(x.shape[0], x.shape[1] // prod(block), *block, *counts)
    for i in range(rank):
        taps = np.arange(call.length(block[i]))[:, None] * dilations[i]
        places = (taps + np.arange(call.length(counts[i])) * strides[i] - pads[i]).reshape(-1, 1)
        matrix = torch.from_numpy(places == np.arange(call.length(image[i]))).to(x.dtype)
        moved = y.movedim((2, 2 + rank - i), (-2, -1))  # a tap and a count less each time, an image dimension more
        y = torch.matmul(moved.flatten(-2), matrix)
    return y
