"""Weights as integers: codes of a constant that are made when they are read, and the scales that they are made with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch

from ullage.graph.constants import Box, ConstantRef
from ullage.graph.sources import InMemory

INT8_LEVELS = 127
"""int8 weights are codes from −127 to 127: symmetric, so that a negated weight has negated codes."""
_TINY = 1e-30
_READ_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Coded:
    """`base` divided by one scale for each index of dimension 0 and rounded to nearest even, as int8."""

    base: ConstantRef
    scales: ConstantRef

    def read(self, box: Box) -> torch.Tensor:
        """The codes of the box."""
        scales = self.scales.read((box[0],)).reshape(-1, *[1] * (len(box) - 1))
        return (self.base.read(box).float() / scales).round_().clamp_(-INT8_LEVELS, INT8_LEVELS).to(torch.int8)

    @property
    def key(self) -> str:
        """Base; the scales follow from it."""
        return f"int8({self.base.source.key})"


@dataclass(frozen=True, slots=True)
class IntegerWeight:
    """A weight [n, ...] as `codes` (int8) times `scales` (float32 [n]); `sums` (float32 [n]) are those of the codes."""

    codes: ConstantRef
    scales: torch.Tensor
    sums: torch.Tensor


def integer_weight(ref: ConstantRef) -> IntegerWeight:
    """Scales such that the largest magnitude of each output is ±127; reads the weight once, some outputs at a time."""
    most = torch.cat([block.abs().amax(1) for block in _outputs(ref)])
    scales = most.clamp_min(_TINY) / INT8_LEVELS
    held = ConstantRef(f"{ref.name}_scales", torch.float32, tuple(scales.shape), InMemory(scales))
    codes = ConstantRef(ref.name, torch.int8, ref.shape, Coded(ref, held))
    sums = torch.cat([block.sum(1) for block in _outputs(codes)])
    return IntegerWeight(codes, scales, sums)


def _outputs(ref: ConstantRef) -> Iterator[torch.Tensor]:
    """Blocks [outputs, everything else] in float32."""
    rest = tuple(slice(0, size) for size in ref.shape[1:])
    step = max(1, _READ_ELEMENTS // max(1, prod(ref.shape[1:])))
    for start in range(0, ref.shape[0], step):
        stop = min(start + step, ref.shape[0])
        yield ref.read((slice(start, stop), *rest)).float().reshape(stop - start, -1)
