"""Constants made from other constants without making them: each recipe pushes the box that is read to its parts.

Every function takes and gives a `ConstantRef`; nothing is read before `read` is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ullage.graph.constants import Box, ConstantRef
from ullage.graph.regroup import push_reshape


@dataclass(frozen=True, slots=True)
class Permuted:
    """`base` with its dimensions in another order, as torch.permute."""

    base: ConstantRef
    dims: tuple[int, ...]

    def read(self, box: Box) -> torch.Tensor:
        """The box in the permuted order."""
        inner = [slice(0, 0)] * len(self.dims)
        for part, dim in zip(box, self.dims, strict=True):
            inner[dim] = part
        return self.base.read(tuple(inner)).permute(self.dims).contiguous()

    @property
    def key(self) -> str:
        """Order and base."""
        return f"permute{self.dims}({self.base.source.key})"


@dataclass(frozen=True, slots=True)
class Sliced:
    """The part of `base` inside `window` (one slice with start and stop per dimension)."""

    base: ConstantRef
    window: Box

    def read(self, box: Box) -> torch.Tensor:
        """The box, shifted by the window's start."""
        pairs = zip(self.window, box, strict=True)
        return self.base.read(tuple(slice(w.start + b.start, w.start + b.stop) for w, b in pairs))

    @property
    def key(self) -> str:
        """Window and base."""
        text = ",".join(f"{w.start}:{w.stop}" for w in self.window)
        return f"slice[{text}]({self.base.source.key})"


@dataclass(frozen=True, slots=True)
class Reshaped:
    """`base` with another shape of as many elements, row-major."""

    base: ConstantRef
    shape: tuple[int, ...]

    def read(self, box: Box) -> torch.Tensor:
        """The box; reads the least box of the base that covers it."""
        covering, pick = push_reshape(self.base.shape, self.shape, box)
        return pick(self.base.read(covering)).contiguous()

    @property
    def key(self) -> str:
        """Shape and base."""
        return f"reshape{self.shape}({self.base.source.key})"


@dataclass(frozen=True, slots=True)
class Converted:
    """`base` in another dtype (rounded to nearest even where that is narrower)."""

    base: ConstantRef
    dtype: torch.dtype

    def read(self, box: Box) -> torch.Tensor:
        """The box in the new dtype."""
        return self.base.read(box).to(self.dtype)

    @property
    def key(self) -> str:
        """Dtype and base."""
        return f"cast[{self.dtype}]({self.base.source.key})"


@dataclass(frozen=True, slots=True)
class Concatenated:
    """Parts one after the other along a dimension."""

    parts: tuple[ConstantRef, ...]
    dim: int

    def read(self, box: Box) -> torch.Tensor:
        """The box, from the parts that it meets."""
        pieces, start, wanted = [], 0, box[self.dim]
        for part in self.parts:
            stop = start + part.shape[self.dim]
            low, high = max(wanted.start, start), min(wanted.stop, stop)
            if low < high:
                pieces.append(part.read((*box[: self.dim], slice(low - start, high - start), *box[self.dim + 1 :])))
            start = stop
        if not pieces:
            return torch.empty([part.stop - part.start for part in box], dtype=self.parts[0].dtype)
        return torch.cat(pieces, self.dim)

    @property
    def key(self) -> str:
        """Dimension and parts."""
        return f"cat[{self.dim}]({','.join(part.source.key for part in self.parts)})"


@dataclass(frozen=True, slots=True)
class Scaled:
    """`base` times a vector along one dimension, computed in float32 (float64 for float64) and rounded once."""

    base: ConstantRef
    scale: ConstantRef
    dim: int

    def read(self, box: Box) -> torch.Tensor:
        """The box, scaled."""
        wide = torch.promote_types(self.base.dtype, torch.float32)
        factors = self.scale.read((box[self.dim],)).to(wide)
        shape = [1] * len(box)
        shape[self.dim] = -1
        return (self.base.read(box).to(wide) * factors.reshape(shape)).to(self.base.dtype)

    @property
    def key(self) -> str:
        """Dimension, base and factors."""
        return f"scale[{self.dim}]({self.base.source.key},{self.scale.source.key})"


@dataclass(frozen=True, slots=True)
class Computed:
    """The result of a deterministic function of whole constants, for small ones; `text` says which function it is."""

    text: str
    function: Callable[..., torch.Tensor]
    inputs: tuple[ConstantRef, ...]

    def read(self, box: Box) -> torch.Tensor:
        """The box of the result, which is computed whole at each read."""
        with torch.no_grad():
            return self.function(*(ref.read() for ref in self.inputs))[box].clone(memory_format=torch.contiguous_format)

    @property
    def key(self) -> str:
        """Function and inputs."""
        return f"{self.text}({','.join(ref.source.key for ref in self.inputs)})"


def permute(base: ConstantRef, dims: Sequence[int]) -> ConstantRef:
    """`base` permuted by `dims` (negative ones count from the end)."""
    order = tuple(d % len(base.shape) for d in dims)
    return ConstantRef(base.name, base.dtype, tuple(base.shape[d] for d in order), Permuted(base, order))


def slice_box(base: ConstantRef, window: Box) -> ConstantRef:
    """The part of `base` inside `window`."""
    return ConstantRef(base.name, base.dtype, tuple(w.stop - w.start for w in window), Sliced(base, window))


def reshape(base: ConstantRef, shape: Sequence[int]) -> ConstantRef:
    """`base` with another shape of as many elements."""
    new = tuple(shape)
    if math.prod(new) != math.prod(base.shape):
        raise ValueError(f"{base.name} of shape {base.shape} has not the elements of {new}")
    return ConstantRef(base.name, base.dtype, new, Reshaped(base, new))


def convert(base: ConstantRef, dtype: torch.dtype) -> ConstantRef:
    """`base` in another dtype."""
    return base if dtype == base.dtype else ConstantRef(base.name, dtype, base.shape, Converted(base, dtype))


def concatenate(parts: Sequence[ConstantRef], dim: int) -> ConstantRef:
    """Parts (equal dtype, equal shape but along `dim`) one after the other."""
    first = parts[0]
    axis = dim % len(first.shape)
    length = sum(part.shape[axis] for part in parts)
    shape = (*first.shape[:axis], length, *first.shape[axis + 1 :])
    return ConstantRef("+".join(p.name for p in parts), first.dtype, shape, Concatenated(tuple(parts), axis))


def scale(base: ConstantRef, factors: ConstantRef, dim: int) -> ConstantRef:
    """`base` times the vector `factors` along `dim`."""
    return ConstantRef(base.name, base.dtype, base.shape, Scaled(base, factors, dim % len(base.shape)))


def compute(
    name: str,
    text: str,
    function: Callable[..., torch.Tensor],
    inputs: Sequence[ConstantRef],
    dtype: torch.dtype,
    shape: Sequence[int],
) -> ConstantRef:
    """A small constant `name` of `dtype` and `shape`: `function` of whole constants, described by `text`."""
    return ConstantRef(name, dtype, tuple(shape), Computed(text, function, tuple(inputs)))
