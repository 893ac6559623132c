"""Operators that change the resolution of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ullage.frontends.onnx.write.block import Value
from ullage.frontends.onnx.write.table import Call, aten, writes


@writes(aten.pixel_shuffle)
def _pixel_shuffle(call: Call) -> Value:
    """Blocks of channels become blocks of pixels; images may have any number of leading dimensions."""
    factor, lead = call["upscale_factor"], call.fake().dim() - 3
    x = call.value(call["self"])
    if lead == 1:
        return call.op("DepthToSpace", x, blocksize=factor, mode="CRD")
    sizes = call.writer.sizes.vector
    flat = call.op("Reshape", x, sizes(-1, *call.fake().shape[-3:]))
    found = call.op("DepthToSpace", flat, blocksize=factor, mode="CRD")
    return call.op("Reshape", found, sizes(*call.result.shape))


@writes(aten.upsample_nearest1d, aten.upsample_nearest2d)
def _nearest(call: Call) -> Value:
    """Result i along a dimension is element ⌊i · size / count⌋: looked up, so that no rounding of scales matters."""
    found = call.value(call["self"] if call["self"] is not None else call["input"])
    for axis in range(2, call.result.dim()):
        size, count = call.fake().shape[axis], call.result.shape[axis]
        if size is not count and size != count:
            found = call.op("Gather", found, _positions(call, size, count), axis=axis)
    return found


def _positions(call: Call, size: Any, count: Any) -> Value:
    if isinstance(size, int) and isinstance(count, int):
        return call.block.constants.of(np.arange(count, dtype=np.int64) * size // count)
    sizes, zero, one = call.writer.sizes, call.value(0, torch.int64), call.value(1, torch.int64)
    index = call.op("Range", zero, sizes.scalar(count), one)
    return call.op("Div", call.op("Mul", index, sizes.scalar(size)), sizes.scalar(count))


@writes(aten.upsample_bilinear2d)
def _bilinear(call: Call) -> Value:
    x = call.value(call["self"] if call["self"] is not None else call["input"])
    if call["align_corners"]:
        return _resized(call, x, None, "align_corners")
    return _resized(call, x, _scales(call), "half_pixel")


def _scales(call: Call) -> list[float] | None:
    """The factors that the operator was given; None where it goes by sizes."""
    given = call["scale_factors"]
    found = given if isinstance(given, Sequence) else [call["scales_h"], call["scales_w"]]
    return [float(n) for n in found] if all(isinstance(n, int | float) for n in found) else None


def _resized(call: Call, x: Value, scales: list[float] | None, mode: str) -> Value:
    attributes = {"mode": "linear", "coordinate_transformation_mode": mode}
    if scales is not None:
        factors = call.block.tensor(torch.tensor([1.0, 1.0, *scales], dtype=torch.float32))
        return call.op("Resize", x, None, factors, **attributes)
    return call.op("Resize", x, None, None, call.writer.sizes.vector(*call.result.shape), **attributes)
