"""Fourier transforms, as products with their matrices, and mel weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from ullage.frontends.onnx.read import torch_dtype
from ullage.frontends.onnx.table import Call, operator

Tensor = torch.Tensor
_MOST_POINTS = 1 << 12
"""Longest transform: its matrices have the square of it."""


def _waves(call: Call, points: int, bins: int, inverse: bool) -> tuple[Tensor, Tensor]:
    """Cosines and sines [points, bins] of exp(∓2πi·point·bin/points); an inverse transform divides by the points."""
    if not 0 < points <= _MOST_POINTS:
        raise call.error(f"a transform of {points} points is not supported, only of 1 to {_MOST_POINTS}")
    angle = 2 * np.pi * (np.outer(np.arange(points), np.arange(bins)) % points) / points
    scale = 1 / points if inverse else 1.0
    parts = (np.cos(angle) * scale, (np.sin(angle) if inverse else -np.sin(angle)) * scale)
    return torch.from_numpy(parts[0]), torch.from_numpy(parts[1])


def _transformed(call: Call, x: Tensor, points: int, bins: int, inverse: bool) -> Tensor:
    """The transform of [..., points, 1 or 2] as [..., bins, 2]; in float64, for terms cancel each other."""
    cosines, sines = _waves(call, points, bins, inverse)
    real, imaginary = x.select(-1, 0).double(), x.select(-1, x.shape[-1] - 1).double()
    parts = real @ cosines, real @ sines
    if x.shape[-1] == 2:
        parts = parts[0] - imaginary @ sines, parts[1] + imaginary @ cosines
    return torch.stack(parts, -1).to(x.dtype)


def _cut_or_filled(x: Tensor, points: int) -> Tensor:
    """[..., n, parts] with n = points: cut, or filled up with zeros."""
    own = x.shape[-2]
    return x.narrow(-2, 0, points) if own >= points else F.pad(x, [0, 0, 0, points - own])


@operator("DFT", since=20)
def _dft(call: Call) -> Tensor:
    return _dft_over(call, int(call.scalar(2, -2)))


@operator("DFT", since=17)
def _dft_by_attribute(call: Call) -> Tensor:
    return _dft_over(call, call.attribute("axis", 1))


def _dft_over(call: Call, axis: int) -> Tensor:
    inverse, half = bool(call.attribute("inverse", 0)), bool(call.attribute("onesided", 0))
    x = call.tensor().movedim(axis % call.tensor().dim(), -2)
    if inverse and half:
        return _real_inverse(call, x).movedim(-2, axis % x.dim())
    points = int(call.scalar(1, x.shape[-2]))
    bins = points // 2 + 1 if half else points
    y = _transformed(call, _cut_or_filled(x, points), points, bins, inverse)
    return y.movedim(-2, axis % x.dim())


def _real_inverse(call: Call, x: Tensor) -> Tensor:
    """The real signal of a half spectrum: what is missing is the conjugate of what is there."""
    points = int(call.scalar(1, 2 * (x.shape[-2] - 1)))
    half = _cut_or_filled(x, points // 2 + 1)
    count = (points - 1) // 2
    mirrored = half.narrow(-2, 1, count).flip(-2) * torch.tensor([1.0, -1.0], dtype=x.dtype)
    return _transformed(call, torch.cat([half, mirrored], -2), points, points, True).narrow(-1, 0, 1)


@operator("STFT")
def _stft(call: Call) -> Tensor:
    """Windows of the signal [batch, length, 1 or 2], transformed: [batch, frames, bins, 2]."""
    x, step, window = call.tensor(0), int(call.scalar(1)), call.optional(2)
    points = int(call.scalar(3, x.shape[1] if window is None else window.shape[0]))
    frames = (int(x.shape[1]) - points) // step + 1
    places = np.arange(call.length(frames))[:, None] * step + np.arange(call.length(points))
    y = x.index_select(1, torch.from_numpy(places.reshape(-1))).reshape(x.shape[0], frames, points, x.shape[2])
    y = y if window is None else y * window.unsqueeze(-1)
    half = call.attribute("onesided", 1)
    if half and x.shape[2] == 2:
        raise call.error("the spectrum of a complex signal has two sides")
    return _transformed(call, y, points, points // 2 + 1 if half else points, False)


@operator("MelWeightMatrix")
def _mel(call: Call) -> Tensor:
    """[dft_length / 2 + 1, bins]: triangles whose corners are equally far apart on the mel scale."""
    bins, points, rate, low, high = (call.scalar(i) for i in range(5))
    dtype = torch_dtype(ir.DataType(call.attribute("output_datatype", 1)), call.place())
    corners = _mel_corners(call.length(bins), points, rate, low, high)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    j = np.arange(call.length(points // 2 + 1))[:, None]
    rising = (j >= left) & (j <= centre) & (centre > left)
    falling = (j >= centre) & (j < right)
    weights = np.where(rising, (j - left) / np.maximum(centre - left, 1), 0.0)
    weights = np.where(falling, (right - j) / np.maximum(right - centre, 1), weights)
    weights = np.where((j == centre) & (centre == left), 1.0, weights)
    return torch.from_numpy(weights).to(dtype)


def _mel_corners(bins: int, points: Any, rate: Any, low: float, high: float) -> np.ndarray:
    first, last = (2595 * np.log10(1 + edge / 700) for edge in (low, high))
    mels = np.arange(bins + 2) * ((last - first) / (bins + 2)) + first
    hertz = 700 * (10 ** (mels / 2595) - 1)
    return np.asarray(((points + 1) * hertz) // rate, dtype=np.int64)
