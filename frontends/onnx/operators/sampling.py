"""Reading images between their elements, at computed places: RoiAlign and deformable convolutions."""

from __future__ import annotations

from typing import Any

import torch

from ullage.frontends.onnx.operators.convolutions import check_kernel
from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor
_Axis = list[tuple[Tensor, Tensor]]
"""The two neighbours of a place along an axis, each with its weight."""


def _neighbours(place: Tensor, size: Any) -> _Axis:
    """Neighbours outside have no weight."""
    low = torch.floor(place)
    share = place - low
    pairs = ((low, 1 - share), (low + 1, share))
    return [(i.clamp(0, size - 1).long(), w * ((i >= 0) & (i <= size - 1)).to(place.dtype)) for i, w in pairs]


def _clamped_neighbours(place: Tensor, size: Any) -> _Axis:
    """Places up to one element outside stand for the edge; those farther away have no weight."""
    inside = ((place >= -1) & (place <= size)).to(place.dtype)
    place = place.clamp(0, size - 1)
    low = torch.floor(place)
    share = place - low
    return [(low.long(), (1 - share) * inside), ((low + 1).clamp(max=size - 1).long(), share * inside)]


@operator("RoiAlign", since=16)
def _roi_align(call: Call) -> Tensor:
    return _aligned(call, call.attribute("coordinate_transformation_mode", "half_pixel") == "half_pixel")


@operator("RoiAlign", since=10)
def _roi_align_unshifted(call: Call) -> Tensor:
    return _aligned(call, False)


def _aligned(call: Call, half_pixel: bool) -> Tensor:
    """Each bin is the mean or maximum of samples: [regions, channels, height, width]."""
    x, rois, images = call.tensor(0), call.tensor(1), call.tensor(2).long()
    samples, mode = call.attribute("sampling_ratio", 0), call.attribute("mode", "avg")
    height, width = call.attribute("output_height", 1), call.attribute("output_width", 1)
    if samples <= 0:
        raise call.error("a number of samples that follows from the regions' sizes (sampling_ratio 0) is not supported")
    scaled = rois * call.attribute("spatial_scale", 1.0) - (0.5 if half_pixel else 0.0)
    ys, xs = (_places(scaled, axis, bins * samples, half_pixel) for axis, bins in ((1, height), (0, width)))
    image = images.reshape(-1, 1, 1)
    parts = [
        (x[image, :, i.unsqueeze(2), j.unsqueeze(1)], (v.unsqueeze(2) * w.unsqueeze(1)).unsqueeze(-1))
        for i, v in _clamped_neighbours(ys, x.shape[2])
        for j, w in _clamped_neighbours(xs, x.shape[3])
    ]
    shape = [rois.shape[0], height, samples, width, samples, x.shape[1]]
    if mode == "max":
        values = torch.stack([value * weight for value, weight in parts]).amax(0)
        return values.reshape(shape).amax([2, 4]).permute(0, 3, 1, 2)
    total = sum((value * weight for value, weight in parts[1:]), parts[0][0] * parts[0][1])
    return total.reshape(shape).mean([2, 4]).permute(0, 3, 1, 2)


def _places(rois: Tensor, axis: int, count: int, half_pixel: bool) -> Tensor:
    """Sample places along an axis, [regions, count]: the middles of equal parts."""
    start, end = rois[:, axis : axis + 1], rois[:, axis + 2 : axis + 3]
    length = end - start if half_pixel else (end - start).clamp(min=1.0)
    return start + (torch.arange(count) + 0.5).to(rois.dtype) * (length / count)


@operator("DeformConv")
def _deform_conv(call: Call) -> Tensor:
    """Columns of moved samples [n, c, taps, places], times the weights by group."""
    x, w, bias = call.tensor(0), call.tensor(1), call.optional(3)
    if w.dim() != 4:
        raise call.error("only images of two dimensions are supported")
    check_kernel(call, w)
    groups = call.attribute("group", 1)
    columns, size = _deformed_columns(call, x, w)
    n, channels = x.shape[0], x.shape[1]
    columns = columns.reshape(n, groups, channels // groups * w.shape[2] * w.shape[3], -1)
    y = torch.matmul(w.reshape(groups, w.shape[0] // groups, -1), columns).reshape(n, w.shape[0], *size)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _deformed_columns(call: Call, x: Tensor, w: Tensor) -> tuple[Tensor, tuple[Any, Any]]:
    offset, mask, groups = call.tensor(2), call.optional(4), call.attribute("offset_group", 1)
    n, channels, size = x.shape[0], x.shape[1], (offset.shape[2], offset.shape[3])
    moved = offset.reshape(n, groups, w.shape[2] * w.shape[3], 2, *size)
    rows, columns = (moved.select(3, axis) + _grid(call, w, size, axis).to(x.dtype) for axis in (0, 1))
    parts = [
        _taken(x.reshape(n, groups, channels // groups, -1), i * x.shape[3] + j, v * u)
        for i, v in _neighbours(rows, x.shape[2])
        for j, u in _neighbours(columns, x.shape[3])
    ]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    if mask is not None:
        total = total * mask.reshape(n, groups, 1, -1, *size)
    return total.reshape(n, channels, w.shape[2] * w.shape[3], -1), size


def _grid(call: Call, w: Tensor, size: tuple[Any, Any], axis: int) -> Tensor:
    """Where each tap of each output would read along an axis without an offset: [taps, height, width]."""
    strides, dilations = call.attribute("strides", [1, 1]), call.attribute("dilations", [1, 1])
    pads = call.attribute("pads", [0] * 4)
    taps = torch.arange(w.shape[2 + axis]) * dilations[axis]
    taps = (taps.reshape(-1, 1) if axis == 0 else taps.reshape(1, -1)).expand(w.shape[2], w.shape[3]).reshape(-1, 1, 1)
    starts = torch.arange(size[axis]) * strides[axis] - pads[axis]
    places: Tensor = taps + (starts.reshape(-1, 1) if axis == 0 else starts.reshape(1, -1))
    return places


def _taken(x: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Elements [n, groups, channels, taps, height, width] of flat images at places that all channels share."""
    n, groups, channels = x.shape[0], x.shape[1], x.shape[2]
    shared = places.reshape(n, groups, 1, -1).expand(n, groups, channels, places[0, 0].numel())
    taken: Tensor = torch.gather(x, 3, shared).reshape(n, groups, channels, *places.shape[2:]) * weights.unsqueeze(2)
    return taken
