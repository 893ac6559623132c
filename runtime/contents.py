"""Which packed constants of several artifacts hold the same bytes, so that these are in memory once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ullage.artifact.reader import Artifact
from ullage.plan.plan import ConstantInfo, Plan
from ullage.plan.shared import Content
from ullage.runtime.checks import CRC_BYTES, tile_end

_CHUNK_BYTES = 1 << 20
_Key = tuple[int, int, int, bool, bytes]


@dataclass(frozen=True, slots=True)
class _Copy:
    """A constant in an open artifact."""

    artifact: Artifact
    info: ConstantInfo

    @property
    def length(self) -> int:
        """Bytes from the first tile to the end of the last."""
        return (self.info.tiles - 1) * self.info.tile_stride + tile_end(self.info)

    def read(self, at: int, length: int) -> bytes:
        """Bytes of it."""
        return os.pread(self.artifact.file, length, self.artifact.weights.offset + self.info.file_offset + at)

    def equals(self, other: _Copy) -> bool:
        """Whether every byte is the same; read in pieces."""
        pieces = ((at, min(_CHUNK_BYTES, self.length - at)) for at in range(0, self.length, _CHUNK_BYTES))
        return all(self.read(at, length) == other.read(at, length) for at, length in pieces)


@dataclass
class Contents:
    """Gives packed constants numbers: equal numbers for equal bytes, compared byte by byte where checksums agree."""

    _known: dict[_Key, list[tuple[Content, _Copy]]] = field(default_factory=dict)
    _next: Content = 0

    def add(self, artifact: Artifact, plan: Plan) -> tuple[Content, ...]:
        """The number of each constant of an artifact, which must stay open until `forget`."""
        checksums, at = artifact.checksums(), 0
        numbers = []
        for info in plan.constants:
            length = 0 if info.gathered else CRC_BYTES * info.tiles
            key = (info.tiles, info.tile_bytes, info.tile_stride, info.gathered, checksums[at : at + length])
            numbers.append(self._number(key, _Copy(artifact, info)))
            at += length
        return tuple(numbers)

    def forget(self, artifact: Artifact) -> None:
        """No longer compare with an artifact, which may be closed then."""
        for key, copies in list(self._known.items()):
            kept = [pair for pair in copies if pair[1].artifact is not artifact]
            if kept:
                self._known[key] = kept
            else:
                del self._known[key]

    def _number(self, key: _Key, copy: _Copy) -> Content:
        copies = self._known.setdefault(key, [])
        tried: set[Content] = set()
        for number, other in copies:
            if number not in tried and copy.equals(other):
                copies.append((number, copy))
                return number
            tried.add(number)
        self._next += 1
        copies.append((self._next, copy))
        return self._next
