"""Sampling images at positions of a grid (Jaderberg et al., "Spatial Transformer Networks", 2015) in 2 or 3 dimensions.

Each result is a weighted sum of gathers: 2 per dimension for linear, 4 for cubic interpolation, one for the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten
_LINEAR, _NEAREST, _CUBIC = 0, 1, 2
_ZEROS, _BORDER, _REFLECTION = 0, 1, 2
_SHARPNESS = -0.75
"""The parameter of the cubic kernel (Keys 1981) that PyTorch uses where nothing is filtered."""


@dataclass(frozen=True, slots=True)
class Tap:
    """One neighbour along a dimension: its position (perhaps outside) and its weight, both [batch, sizes …]."""

    position: Tensor
    weight: Tensor | None


@dataclass(frozen=True, slots=True)
class Axis:
    """How one dimension of an image is read."""

    size: int
    padding: int
    corners: bool

    def place(self, c: Tensor) -> Tensor:
        """From −1 … 1 to elements, which lie at the corners or have them half an element outside."""
        return (c + 1) / 2 * (self.size - 1) if self.corners else ((c + 1) * self.size - 1) / 2

    def kept(self, place: Tensor) -> Tensor:
        """Places moved inside as the padding says; zeros move none."""
        if self.padding == _ZEROS:
            return place
        return (self._reflected(place) if self.padding == _REFLECTION else place).clamp(0, self.size - 1)

    def _reflected(self, place: Tensor) -> Tensor:
        low, span = (0.0, float(self.size - 1)) if self.corners else (-0.5, float(self.size))
        if span == 0:
            return torch.zeros_like(place)
        distance = (place - low).abs()
        rest, odd = torch.fmod(distance, span), torch.floor(distance / span) % 2 != 0
        return torch.where(odd, span - rest, rest) + low

    def taps(self, c: Tensor, mode: int) -> list[Tap]:
        """The neighbours that a result is made of."""
        place = self.place(c)
        if mode == _CUBIC:
            low = torch.floor(place)
            weights = _cubic(place - low)
            return [Tap(self.kept(low + step), weight) for step, weight in enumerate(weights, -1)]
        place = self.kept(place)
        if mode == _NEAREST:
            return [Tap(torch.round(place), None)]
        low = torch.floor(place)
        return [Tap(low, low + 1 - place), Tap(low + 1, place - low)]


def _cubic(t: Tensor) -> list[Tensor]:
    """Weights of the elements at −1, 0, 1 and 2 for a place t behind element 0."""
    a = _SHARPNESS

    def near(x: Tensor) -> Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _neighbours(x: Tensor, axes: Sequence[Axis], taps: Sequence[Tap]) -> tuple[Tensor, Tensor | None, Tensor]:
    """The elements of all channels at one choice of taps, their weight, and which of them lie inside."""
    rank = len(axes)
    lead = [1] * (rank + 1)
    images = torch.arange(x.shape[0], device=x.device).reshape([-1, *lead])
    channels = torch.arange(x.shape[1], device=x.device).reshape([-1, *lead[1:]])
    places, weight, inside = [], None, None
    for axis, tap in zip(axes, taps, strict=True):
        fits = (tap.position >= 0) & (tap.position <= axis.size - 1)
        inside = fits if inside is None else inside & fits
        places.append(torch.where(fits, tap.position, 0).long().unsqueeze(1))
        if tap.weight is not None:
            weight = tap.weight if weight is None else weight * tap.weight
    assert inside is not None
    return aten.index.Tensor(x, [images, channels, *places]), weight, inside


def _terms(x: Tensor, axes: Sequence[Axis], taps: Sequence[Sequence[Tap]]) -> Iterator[Tensor]:
    for chosen in product(*taps):
        values, weight, inside = _neighbours(x, axes, chosen)
        term = torch.where(inside.unsqueeze(1), values, 0)
        yield term if weight is None else term * weight.unsqueeze(1)


def _grid_sampler(x: Tensor, grid: Tensor, mode: int, padding: int, corners: bool) -> Any:
    sizes = x.shape[2:]
    if not all(isinstance(n, int) and n > 0 for n in (*x.shape, *grid.shape)):
        return NotImplemented
    half = x.dtype in (torch.float16, torch.bfloat16)
    image, where = (x.float(), grid.float()) if half else (x, grid)
    axes = [Axis(int(n), padding, corners) for n in sizes]
    taps = [axis.taps(where[..., len(axes) - 1 - d], mode) for d, axis in enumerate(axes)]
    total: Tensor | None = None
    for term in _terms(image, axes, taps):
        total = term if total is None else total + term
    assert total is not None
    return total.to(x.dtype)


GRIDS: Mapping[Any, Callable[..., Any]] = {
    aten.grid_sampler_2d.default: _grid_sampler,
    aten.grid_sampler_3d.default: _grid_sampler,
}
