"""Resize, upsampling and sampling at computed places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ullage.errors import CaptureError
from ullage.frontends.onnx.table import MOST_LENGTH, Call, operator

Tensor = torch.Tensor


@dataclass(frozen=True)
class _Rule:
    """How a dimension is resized, in the standard's terms."""

    mode: str
    transform: str = "asymmetric"
    nearest: str = "floor"
    cubic: float = -0.75
    exclude: bool = False
    outside: float = 0.0
    antialias: bool = False

    @staticmethod
    def of(call: Call) -> _Rule:
        """What the attributes say (opset 11)."""
        return _Rule(
            call.attribute("mode", "nearest"),
            call.attribute("coordinate_transformation_mode", "half_pixel"),
            call.attribute("nearest_mode", "round_prefer_floor"),
            call.attribute("cubic_coeff_a", -0.75),
            bool(call.attribute("exclude_outside", 0)),
            call.attribute("extrapolation_value", 0.0),
            bool(call.attribute("antialias", 0)),
        )


@operator("Upsample")
@operator("Resize", since=10)
def _upsample(call: Call) -> Tensor:
    """By scales, which are an attribute before opset 9."""
    x, rule = call.tensor(), _Rule(call.attribute("mode", "nearest"))
    scales = call.numbers(1) if call.version >= 9 else call.attribute("scales")
    for axis, scale in enumerate(scales):
        if scale != 1:
            x = _along(x, axis, call.length(np.floor(x.shape[axis] * scale)), scale, rule, None)
    return x


@operator("Resize", since=11)
def _resize(call: Call) -> Tensor:
    """By scales (input 2) or sizes (input 3); each dimension by its own weights or places."""
    x, rule = call.tensor(), _Rule.of(call)
    axes = [a % x.dim() for a in call.attribute("axes", list(range(x.dim())))]
    sizes, scales = _sizes_and_scales(call, [x.shape[a] for a in axes])
    rois = [float(r) for r in call.numbers(1)] if call.has(1) and call.known(1).array.size else None
    for i, (axis, size, scale) in enumerate(zip(axes, sizes, scales, strict=True)):
        roi = None if rois is None else (rois[i], rois[i + len(axes)])
        same = isinstance(size, int) and size == x.shape[axis] and scale == 1
        if not same or rule.transform == "tf_crop_and_resize":
            x = _along(x, axis, call.length(size), scale, rule, roi)
    return x


def _sizes_and_scales(call: Call, own: list[Any]) -> tuple[list[Any], list[float]]:
    call.attribute("keep_aspect_ratio_policy")
    if call.has(3) and len(call.numbers(3)) > 0:
        return _aspect(call, own, call.numbers(3))
    scales = [float(scale) for scale in call.numbers(2)]
    return [int(np.floor(n * scale)) for n, scale in zip(own, scales, strict=True)], scales


def _aspect(call: Call, own: list[Any], sizes: list[Any]) -> tuple[list[Any], list[float]]:
    policy = call.attribute("keep_aspect_ratio_policy", "stretch")
    scales = [s / n for s, n in zip(sizes, own, strict=True)]
    if policy != "stretch":
        scale = min(scales) if policy == "not_larger" else max(scales)
        sizes = [int(np.floor(scale * n + 0.5)) for n in own]
        scales = [scale] * len(own)
    return sizes, scales


def _along(x: Tensor, axis: int, size: int, scale: float, rule: _Rule, roi: tuple[float, float] | None) -> Tensor:
    """One dimension resized: a choice of elements, or a product with a matrix of weights."""
    length = int(x.shape[axis])
    if rule.mode != "nearest" and size * length > MOST_LENGTH:
        raise CaptureError(f"a dimension of {length} is not resized to {size}: the weights would be too large.")
    places = _places(size, length, scale, rule.transform, roi)
    if rule.mode == "nearest":
        index = _nearest(places, rule.nearest).clip(0, length - 1).astype(np.int64)
        y = x.index_select(axis, torch.from_numpy(index))
    else:
        weights = torch.from_numpy(_weights(places, length, scale, rule)).to(x.dtype)
        y = torch.matmul(x.movedim(axis, -1), weights.t()).movedim(-1, axis)
    if rule.transform == "tf_crop_and_resize":
        inside = torch.from_numpy((places >= 0) & (places <= length - 1))
        y = torch.where(inside.reshape([-1 if i == axis else 1 for i in range(x.dim())]), y, rule.outside)
    return y


def _places(size: int, length: int, scale: float, transform: str, roi: tuple[float, float] | None) -> np.ndarray:
    """Where in the input each output lies."""
    out = np.arange(size, dtype=np.float64)
    match transform:
        case "asymmetric":
            return out / scale
        case "align_corners":
            return out * (length - 1) / (scale * length - 1) if size > 1 else np.zeros(size)
        case "pytorch_half_pixel":
            return (out + 0.5) / scale - 0.5 if size > 1 else np.zeros(size)
        case "half_pixel_symmetric":
            adjusted = size / (scale * length)
            centre = length / 2
            return centre * (1 - adjusted) + (out + 0.5) / scale - 0.5
        case "tf_half_pixel_for_nn":
            return (out + 0.5) / scale
        case "tf_crop_and_resize":
            start, end = roi or (0.0, 1.0)
            if size > 1:
                return start * (length - 1) + out * (end - start) * (length - 1) / (size - 1)
            return np.full(size, 0.5 * (start + end) * (length - 1))
    return (out + 0.5) / scale - 0.5


def _nearest(places: np.ndarray, mode: str) -> np.ndarray:
    match mode:
        case "floor":
            return np.asarray(np.floor(places))
        case "ceil":
            return np.asarray(np.ceil(places))
        case "round_prefer_ceil":
            return np.floor(places + 0.5)
    return np.ceil(places - 0.5)


def _weights(places: np.ndarray, length: int, scale: float, rule: _Rule) -> np.ndarray:
    """[outputs, inputs]: linear or cubic, with taps beyond the ends taken at the ends, or left out."""
    wide = max(1.0, 1.0 / scale) if rule.antialias else 1.0
    reach = (1 if rule.mode == "linear" else 2) * wide
    matrix = np.zeros((len(places), length))
    for row, place in enumerate(places):
        taps = np.arange(int(np.floor(place - reach)) + 1, int(np.ceil(place + reach)) + 1)
        values = _kernel((place - taps) / wide, rule.mode, rule.cubic)
        if rule.exclude:
            values = values * ((taps >= 0) & (taps < length))
        if rule.exclude or rule.antialias:
            values = values / values.sum()
        np.add.at(matrix[row], taps.clip(0, length - 1), values)
    return matrix


def _kernel(distance: np.ndarray, mode: str, a: float) -> np.ndarray:
    d = np.abs(distance)
    if mode == "linear":
        return np.asarray(np.maximum(0.0, 1 - d))
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@operator("GridSample")
def _grid_sample(call: Call) -> Tensor:
    mode = call.attribute("mode", "linear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, str(mode))
    around = call.attribute("padding_mode", "zeros")
    return F.grid_sample(call.tensor(0), call.tensor(1), mode, around, bool(call.attribute("align_corners", 0)))


@operator("AffineGrid")
def _affine_grid(call: Call) -> Tensor:
    return F.affine_grid(call.tensor(0), call.numbers(1), bool(call.attribute("align_corners", 0)))
