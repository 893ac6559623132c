"""What a configuration of diffusers is: a class, fields of its constructor, and inputs by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

Make = Callable[[], Any]


@dataclass(frozen=True)
class Denoiser:
    """A configuration: `inputs` make the keyword arguments of a call."""

    name: str
    model: str
    task: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Make]


def normal(*shape: int) -> Make:
    """Normal values."""
    return partial(torch.randn, *shape)


def ones(*shape: int) -> Make:
    """Integers 1."""
    return partial(torch.ones, *shape, dtype=torch.int64)


def tokens(limit: int, *shape: int) -> Make:
    """Integers below `limit`."""
    return partial(torch.randint, 0, limit, shape)


def step(rows: int = 1) -> Make:
    """Times of denoising, one for each row."""
    return lambda: torch.linspace(321.0, 123.0, rows)


def value(value: Any) -> Make:
    """Always this value."""
    return lambda: value


def places(count: int, axes: int = 3) -> Make:
    """Positions of tokens, [count, axes]."""

    def made() -> Tensor:
        places = torch.zeros(count, axes)
        places[:, 1], places[:, 2] = torch.arange(count) // 4, torch.arange(count) % 4
        return places

    return made
