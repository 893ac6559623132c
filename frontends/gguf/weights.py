"""Tensors of a GGUF file as constant sources: decoded where they are read, a few rows at a time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ullage.errors import CaptureError
from ullage.frontends.gguf.blocks import Bytes, Kind, codes_of, scales_of
from ullage.frontends.gguf.header import GgufFile, TensorInfo
from ullage.graph.constants import Box, ConstantRef
from ullage.graph.integers import HasCodes, Parts
from ullage.graph.recipes import Permuted, Reshaped
from ullage.graph.sources import SPAN_BYTES, FileSlice, FileStamp

Take = Callable[[Bytes], "np.ndarray[Any, Any]"]


@dataclass(frozen=True, slots=True)
class Blocks:
    """A tensor of blocks along its last dimension; the file is opened per read and never mapped."""

    path: Path
    offset: int
    kind: Kind
    shape: tuple[int, ...]
    stamp: FileStamp

    def read(self, box: Box, take: Take, values: int, dtype: torch.dtype) -> torch.Tensor:
        """A box of what `take` makes of blocks, `values` of each; CaptureError if the file was changed or cut."""
        if FileStamp.of(self.path) != self.stamp:
            raise CaptureError(f"weights file {self.path} changed after the model was captured; capture it again.")
        out = torch.empty(tuple(s.stop - s.start for s in box), dtype=dtype)
        if out.numel() == 0:
            return out
        handle = os.open(self.path, os.O_RDONLY)
        try:
            leading = tuple(range(part.start, part.stop) for part in box[:-2])
            for place in itertools.product(*leading):
                within = tuple(at - part.start for at, part in zip(place, box[:-2], strict=True))
                self._fill(handle, place, box, out[within], take, values)
        finally:
            os.close(handle)
        return out

    @property
    def key(self) -> str:
        """File, place, type and shape."""
        return f"gguf:{self.path}:{self.offset}:{self.kind.name}:{self.shape}"

    def _fill(self, handle: int, place: tuple[int, ...], box: Box, out: torch.Tensor, take: Take, values: int) -> None:
        """Fill one matrix (or vector), a few rows at a time."""
        height = self.shape[-2] if len(self.shape) > 1 else 1
        matrix = 0
        for at, size in zip(place, self.shape[:-2], strict=True):
            matrix = matrix * size + at
        columns = box[len(box) - 1]
        rows = box[len(box) - 2] if len(box) > 1 else slice(0, 1)
        flat = out.reshape(rows.stop - rows.start, -1)
        step = max(1, SPAN_BYTES // (4 * self.shape[len(self.shape) - 1]))
        for first in range(rows.start, rows.stop, step):
            last = min(rows.stop, first + step)
            part = self._rows(handle, matrix * height + first, last - first, columns, take, values)
            flat[first - rows.start : last - rows.start] = torch.from_numpy(part)

    def _rows(
        self, handle: int, first: int, count: int, columns: slice, take: Take, values: int
    ) -> np.ndarray[Any, Any]:
        per_row = self.shape[-1] // self.kind.values
        start, stop = columns.start // values, -(-columns.stop // values)
        data = self._bytes(handle, first * per_row, count * per_row)
        blocks = data.reshape(count, per_row, self.kind.bytes)[:, start:stop].reshape(-1, self.kind.bytes)
        with np.errstate(all="ignore"):
            found = take(blocks).reshape(count, -1)
        return np.ascontiguousarray(found[:, columns.start - start * values : columns.stop - start * values])

    def _bytes(self, handle: int, first_block: int, blocks: int) -> Bytes:
        begin, count = self.offset + first_block * self.kind.bytes, blocks * self.kind.bytes
        data = os.pread(handle, count, begin)
        if len(data) != count:
            raise CaptureError(f"weights file {self.path} ends at byte {begin + len(data)}, inside a tensor.")
        return np.frombuffer(data, np.uint8)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Blocks as float32."""

    blocks: Blocks

    @property
    def dtype(self) -> torch.dtype:
        """float32."""
        return torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.blocks.shape

    def read(self, box: Box) -> torch.Tensor:
        """The box, decoded."""
        kind = self.blocks.kind
        assert kind.decode is not None
        return self.blocks.read(box, kind.decode, kind.values, torch.float32)

    @property
    def key(self) -> str:
        """File, place, type and shape."""
        return self.blocks.key

    def grouped(self, bits: int, group: int) -> Parts | None:
        """The blocks' own codes and scales, if they are of these bits and groups."""
        kind = self.blocks.kind
        if kind.bits != bits or kind.values != group or len(self.shape) != 2:
            return None
        rows, columns = self.shape
        codes = ConstantRef("codes", torch.uint8, self.shape, Part(self.blocks, scales=False))
        return codes, ConstantRef("scales", torch.float16, (rows, columns // group), Part(self.blocks, scales=True))


@dataclass(frozen=True, slots=True)
class Part:
    """The codes of a matrix of blocks (uint8, from 0 on), or their scales (float16)."""

    blocks: Blocks
    scales: bool

    def read(self, box: Box) -> torch.Tensor:
        """The box."""
        kind = self.blocks.kind
        if self.scales:
            return self.blocks.read(box, scales_of, 1, torch.float16)
        return self.blocks.read(box, lambda blocks: codes_of(kind, blocks), kind.values, torch.uint8)

    @property
    def key(self) -> str:
        """Which part of which blocks."""
        return f"{'scales' if self.scales else 'codes'}:{self.blocks.key}"


@dataclass(frozen=True, slots=True)
class Arranged:
    """A constant made of others, with its dtype and shape beside it."""

    ref: ConstantRef

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.ref.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.ref.shape

    def read(self, box: Box) -> torch.Tensor:
        """The box."""
        return self.ref.read(box)

    @property
    def key(self) -> str:
        """That of the recipe."""
        return self.ref.source.key


@dataclass(frozen=True, slots=True)
class Interleaved:
    """Rows of each head in halves instead of pairs, as rotary embeddings of transformers want them, not llama.cpp's."""

    base: ConstantRef
    heads: int

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.base.shape

    def read(self, box: Box) -> torch.Tensor:
        """The box."""
        return _in_halves(self.base, self.heads).read(box)

    @property
    def key(self) -> str:
        """Heads and base."""
        return f"halves[{self.heads}]({self.base.source.key})"

    def grouped(self, bits: int, group: int) -> Parts | None:
        """Codes and scales of the base, their rows in the same order."""
        source = self.base.source
        parts = source.grouped(bits, group) if isinstance(source, HasCodes) else None
        if parts is None:
            return None
        codes, scales = (_in_halves(part, self.heads) for part in parts)
        return codes, scales


Weight = Decoded | FileSlice | Arranged | Interleaved


def source_of(file: GgufFile, tensor: TensorInfo) -> Weight:
    """A tensor as the file has it: plain types as they are stored, others as float32."""
    if tensor.kind.decode is None:
        return FileSlice(file.path, tensor.offset, tensor.kind.dtype, tensor.shape, file.stamp)
    return Decoded(Blocks(file.path, tensor.offset, tensor.kind, tensor.shape, file.stamp))


def transposed(name: str, weight: Weight) -> Arranged:
    """A matrix the other way round."""
    rows, columns = weight.shape
    return _arranged(name, Permuted(_ref(name, weight), (1, 0)), weight.dtype, (columns, rows))


def interleaved(name: str, weight: Weight, heads: int) -> Interleaved:
    """Queries or keys with the rows of their heads in halves; raises CaptureError if heads cannot share the rows."""
    rows = weight.shape[0]
    if rows % (2 * heads):
        raise CaptureError(f"tensor {name!r} has {rows} rows, which {heads} heads cannot share in pairs.")
    return Interleaved(_ref(name, weight), heads)


def _in_halves(base: ConstantRef, heads: int) -> ConstantRef:
    rows, *rest = base.shape
    pairs = (heads, rows // heads // 2, 2, *rest)
    order = (0, 2, 1, *range(3, 3 + len(rest)))
    split = ConstantRef(base.name, base.dtype, pairs, Reshaped(base, pairs))
    turned = ConstantRef(base.name, base.dtype, tuple(pairs[i] for i in order), Permuted(split, order))
    return ConstantRef(base.name, base.dtype, base.shape, Reshaped(turned, base.shape))


def _ref(name: str, weight: Weight) -> ConstantRef:
    return ConstantRef(name, weight.dtype, weight.shape, weight)


def _arranged(name: str, source: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Arranged:
    return Arranged(ConstantRef(name, dtype, shape, source))
