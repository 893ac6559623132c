"""Where constants come from: a slice of a file, or a tensor in memory."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ullage.errors import CaptureError
from ullage.graph.constants import Box

SPAN_BYTES = 4 << 20
"""Most bytes that a read of a non-contiguous box holds beside its result."""


@dataclass(frozen=True, slots=True, eq=False)
class InMemory:
    """A tensor that the caller already holds."""

    tensor: torch.Tensor

    def read(self, box: Box) -> torch.Tensor:
        """A new contiguous copy of the box, on the CPU."""
        part = self.tensor[box]
        return torch.empty(part.shape, dtype=part.dtype).copy_(part)

    @property
    def key(self) -> str:
        """The place in memory: equal for views of the same bytes with the same shape and strides."""
        t = self.tensor
        return f"memory:{t.data_ptr():x}:{t.dtype}:{tuple(t.shape)}:{t.stride()}"


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Size in bytes and modification time in nanoseconds of a file, to notice that it was replaced."""

    size: int
    modified_ns: int

    @staticmethod
    def of(path: Path) -> FileStamp:
        """The stamp of an existing file; raises CaptureError if it cannot be read."""
        try:
            status = path.stat()
        except OSError as error:
            raise CaptureError(f"weights file {path} cannot be read: {error.strerror}.") from error
        return FileStamp(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A row-major little-endian tensor at byte `offset` of a file; the file is opened per read and never mapped."""

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stamp: FileStamp

    def read(self, box: Box) -> torch.Tensor:
        """The box, read with at most `SPAN_BYTES` beside it; raises CaptureError if the file was changed or cut."""
        if FileStamp.of(self.path) != self.stamp:
            raise CaptureError(f"weights file {self.path} changed after the model was captured; capture it again.")
        handle = os.open(self.path, os.O_RDONLY)
        try:
            return self._box(handle, self.offset, self.shape, box)
        finally:
            os.close(handle)

    @property
    def key(self) -> str:
        """File, place, dtype and shape."""
        return f"file:{self.path}:{self.offset}:{self.dtype}:{self.shape}"

    def _box(self, handle: int, offset: int, shape: tuple[int, ...], box: Box) -> torch.Tensor:
        sizes = tuple(s.stop - s.start for s in box)
        if not shape or math.prod(sizes) == 0:
            return self._run(handle, offset, math.prod(sizes)).reshape(sizes)
        row = math.prod(shape[1:])
        start, stop, item = box[0].start, box[0].stop, self.dtype.itemsize
        whole = all(s == slice(0, n) for s, n in zip(box[1:], shape[1:], strict=True))
        if whole:
            return self._run(handle, offset + start * row * item, (stop - start) * row).reshape(sizes)
        if stop - start == 1:
            return self._box(handle, offset + start * row * item, shape[1:], box[1:]).unsqueeze(0)
        step = SPAN_BYTES // max(1, row * item)
        out = torch.empty(sizes, dtype=self.dtype)
        for first in range(start, stop, max(1, step)):
            last = min(stop, first + max(1, step))
            out[first - start : last - start] = self._rows(handle, offset, shape, (slice(first, last), *box[1:]), step)
        return out

    def _rows(self, handle: int, offset: int, shape: tuple[int, ...], box: Box, step: int) -> torch.Tensor:
        """Some rows of a box: through one read of all their columns if those are few enough, else deeper."""
        if step < 1:
            return self._box(handle, offset, shape, box)
        rows = self._box(handle, offset, shape, (box[0], *(slice(0, n) for n in shape[1:])))
        return rows[(slice(None), *box[1:])]

    def _run(self, handle: int, offset: int, count: int) -> torch.Tensor:
        if count == 0:
            return torch.empty(0, dtype=self.dtype)
        data = bytearray(count * self.dtype.itemsize)
        view, done = memoryview(data), 0
        while done < len(data):
            got = os.preadv(handle, [view[done:]], offset + done)
            if got == 0:
                raise CaptureError(f"weights file {self.path} ends at byte {offset + done}, inside a tensor.")
            done += got
        return torch.frombuffer(data, dtype=self.dtype)
