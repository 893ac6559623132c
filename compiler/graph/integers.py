"""Weights as integers: codes of a constant that are made when they are read, and the scales that they are made with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

import torch

from ullage.graph.constants import Box, ConstantRef
from ullage.graph.recipes import Concatenated
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
    """Scales such that the largest magnitude of each output is ±127; reads the weight twice, some outputs at a time."""
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


Parts = tuple[ConstantRef, ConstantRef]


@dataclass(frozen=True, slots=True)
class Grouped:
    """A matrix [n, k] as codes of `bits` in groups of k: the codes (uint8), or with `scales_only` the scales (float16).

    A group's scale maps its value of largest magnitude to the lowest code, or is less where cutting that value off
    errs less in squares. (The former is how llama.cpp's Q4_0 uses all codes; the latter as in HQQ and AWQ searches.)
    """

    base: ConstantRef
    bits: int
    group: int
    scales_only: bool

    def read(self, box: Box) -> torch.Tensor:
        """The box; reads whole groups."""
        rows, columns = box
        unit = 1 if self.scales_only else self.group
        first, last = columns.start // unit, -(-columns.stop // unit)
        values = self.base.read((rows, slice(first * self.group, last * self.group))).float()
        groups = values.reshape(values.shape[0], last - first, self.group)
        scales = _least_squares_scales(groups, self.bits)
        if self.scales_only:
            return scales.squeeze(-1)
        codes = _codes(groups, scales, self.bits).reshape(values.shape[0], -1)
        start = columns.start - first * self.group
        return codes[:, start : start + columns.stop - columns.start].to(torch.uint8).contiguous()

    @property
    def key(self) -> str:
        """What it is made of and how."""
        return f"{'scales' if self.scales_only else 'codes'}[{self.bits},{self.group}]({self.base.source.key})"


_LARGEST = torch.finfo(torch.float16).max
_CUTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


def _least_squares_scales(groups: torch.Tensor, bits: int) -> torch.Tensor:
    """float16 [n, groups, 1] for values [n, groups, group]; the best of a few, 1 for groups of zeros."""
    places = groups.abs().argmax(-1, keepdim=True)
    full = groups.gather(-1, places) / -(1 << (bits - 1))
    best = errors = None
    for cut in _CUTS if bits < 8 else _CUTS[:1]:
        scales = (full * cut).clamp(-_LARGEST, _LARGEST).half()
        scales = torch.where(scales == 0, torch.ones_like(scales), scales)
        decoded = (_codes(groups, scales, bits) - (1 << (bits - 1))) * scales.float()
        found = (decoded - groups).square().sum(-1, keepdim=True)
        best = scales if best is None or errors is None else torch.where(found < errors, scales, best)
        errors = found if errors is None else torch.minimum(found, errors)
    assert best is not None
    return best


def _codes(groups: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    return (groups / scales.float()).round_().add_(1 << (bits - 1)).clamp_(0, (1 << bits) - 1)


@runtime_checkable
class HasCodes(Protocol):
    """A source of a matrix that is kept in codes already."""

    def grouped(self, bits: int, group: int) -> Parts | None:
        """Its own codes and scales as `grouped_weight` gives them; None if they are not of these bits and groups."""
        ...


def grouped_weight(ref: ConstantRef, bits: int, group: int) -> Parts:
    """Codes (uint8 [n, k]) and scales (float16 [n, k / group]) of a matrix [n, k], made when they are read.

    Those that a source has already are taken as they are, so that nothing is lost.
    """
    return _own_parts(ref, bits, group) or _made_parts(ref, bits, group)


def _own_parts(ref: ConstantRef, bits: int, group: int) -> Parts | None:
    source = ref.source
    if isinstance(source, HasCodes):
        return source.grouped(bits, group)
    if not isinstance(source, Concatenated) or source.dim != 0:
        return None
    found = [_own_parts(part, bits, group) for part in source.parts]
    known = [parts for parts in found if parts is not None]
    if len(known) < len(found):
        return None
    codes, scales = zip(*known, strict=True)
    return _joined(ref.name, codes), _joined(f"{ref.name}_scales", scales)


def _joined(name: str, parts: tuple[ConstantRef, ...]) -> ConstantRef:
    shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
    return ConstantRef(name, parts[0].dtype, shape, Concatenated(parts, 0))


def _made_parts(ref: ConstantRef, bits: int, group: int) -> Parts:
    outputs, inputs = ref.shape
    codes = ConstantRef(ref.name, torch.uint8, ref.shape, Grouped(ref, bits, group, False))
    scales = (outputs, inputs // group)
    return codes, ConstantRef(f"{ref.name}_scales", torch.float16, scales, Grouped(ref, bits, group, True))
