"""Which input pixels a convolution's output pixel reads: segments of taps, phases of transposed ones, chunks of k."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from ullage.codegen.cpp.templates.tile_counts import CHUNK_STEPS
from ullage.codegen.loops.ir import Const
from ullage.codegen.templates import Conv2d

_FEW_CHANNELS = 32
"""Below this many channels one tap is too short a run of k, so the taps of a kernel row are joined where they touch."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of k: pixel (h + `down`, w + `right`) of the input and, if joined, its neighbours; `tap` is its weights."""

    down: int
    right: int
    tap: int


@dataclass(frozen=True, slots=True)
class Phase:
    """Output pixels (y · step + `down`, x · step + `right`) that read the same segments (all pixels if step is 1)."""

    down: int
    right: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Taps:
    """All phases, `span` taps per segment, `step` elements of a segment and `per_chunk` segments in a chunk of k."""

    phases: tuple[Phase, ...]
    span: int
    length: int
    step: int
    per_chunk: int

    @property
    def one_chunk(self) -> bool:
        """Whether every sum is a single chunk."""
        return self.length <= self.step and all(len(p.segments) <= self.per_chunk for p in self.phases)


def conv_taps(spec: Conv2d) -> Taps:
    """The taps of a convolution; chunks of k depend on nothing but the convolution's own constants."""
    span = 1 if spec.transposed else _span(spec)
    phases = _transposed_phases(spec) if spec.transposed else (Phase(0, 0, _segments(spec, span)),)
    length = span * (spec.in_c // spec.groups)
    most = max(len(phase.segments) for phase in phases)
    joined = max(1, CHUNK_STEPS // length)
    parts = -(-length // CHUNK_STEPS)
    return Taps(phases, span, length, step=-(-length // parts), per_chunk=-(-most // -(-most // joined)))


def _span(spec: Conv2d) -> int:
    """Taps of a kernel row that lie side by side in memory and are worth joining."""
    touching = spec.dilation[1] == 1 and spec.groups == 1 and spec.x_stride_w == Const(spec.in_c)
    if not touching or spec.in_c >= _FEW_CHANNELS:
        return 1
    width = spec.kernel[1]
    return next(s for s in range(width, 0, -1) if width % s == 0 and (s * spec.in_c <= CHUNK_STEPS or s == 1))


def _segments(spec: Conv2d, span: int) -> tuple[Segment, ...]:
    height, width = spec.kernel
    return tuple(
        Segment(row * spec.dilation[0], column * spec.dilation[1], row * width + column)
        for row, column in product(range(height), range(0, width, span))
    )


def _transposed_phases(spec: Conv2d) -> tuple[Phase, ...]:
    """Phases by output residue: the taps whose input position is whole there (no inserted zero is multiplied)."""
    rows = [_residue_taps(spec, 0, residue) for residue in range(spec.stride[0])]
    columns = [_residue_taps(spec, 1, residue) for residue in range(spec.stride[1])]
    return tuple(
        Phase(
            down,
            right,
            tuple(Segment(dh, dw, kh * spec.kernel[1] + kw) for (kh, dh), (kw, dw) in product(above, beside)),
        )
        for (down, above), (right, beside) in product(enumerate(rows), enumerate(columns))
    )


def _residue_taps(spec: Conv2d, axis: int, residue: int) -> list[tuple[int, int]]:
    """(tap, input offset) along one axis for the outputs `y · stride + residue`: y + offset is the input position."""
    stride, padding, dilation = spec.stride[axis], spec.padding[axis], spec.dilation[axis]
    reached = [(tap, residue + padding - tap * dilation) for tap in range(spec.kernel[axis])]
    return [(tap, offset // stride) for tap, offset in reached if offset % stride == 0]
