"""The header of a GGUF file, read defensively: every count and length is held against the bytes that are left."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ullage.errors import CaptureError
from ullage.frontends.gguf.blocks import KINDS, Kind
from ullage.graph.sources import FileStamp

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_NAME_BYTES = 1 << 16
_MOST_DEPTH = 4
_MOST_KEPT = 4096
_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Long:
    """An array that was counted and skipped, as vocabularies are."""

    count: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of the file: its shape as torch has it (slowest dimension first), and where its bytes begin."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """Metadata by key and tensors by name of one file."""

    path: Path
    stamp: FileStamp
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @property
    def architecture(self) -> str:
        """What kind of model this is; raises CaptureError if the file does not say."""
        found = self.metadata.get("general.architecture")
        if not isinstance(found, str) or not found:
            raise CaptureError(f"{self.path} does not say what its general.architecture is.")
        return found


def open_gguf(path: Path) -> GgufFile:
    """Read the header; raises CaptureError for a file that is damaged, cut short, split or of another version."""
    stamp = FileStamp.of(path)
    with path.open("rb") as file:
        return _Reader(path, stamp, file).read()


class _Reader:
    """Walks the header once; `_left` is what the file can still hold."""

    def __init__(self, path: Path, stamp: FileStamp, file: BinaryIO) -> None:
        self._path = path
        self._stamp = stamp
        self._file = file
        self._left = stamp.size

    def read(self) -> GgufFile:
        """Header, metadata, table of tensors."""
        if self._left < 24 or self._bytes(4, "the magic") != _MAGIC:
            raise CaptureError(f"{self._path} is no GGUF file.")
        version = int(self._number("<I"))
        if version not in _VERSIONS:
            raise CaptureError(f"{self._path} is of GGUF version {version}; versions 2 and 3 are read (little-endian).")
        tensors, keys = int(self._number("<Q")), int(self._number("<Q"))
        self._check_count(tensors, 24, "tensors")
        self._check_count(keys, 13, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._name("a key")
            metadata[key] = self._value(int(self._number("<I")), key, 0)
        if int(metadata.get("split.count", 0) or 0) > 1:
            raise CaptureError(f"{self._path} is one part of several; merge them with llama-gguf-split --merge.")
        found = [self._tensor() for _ in range(tensors)]
        return GgufFile(self._path, self._stamp, metadata, self._placed(metadata, found))

    def _tensor(self) -> TensorInfo:
        name = self._name("the name of a tensor")
        rank = int(self._number("<I"))
        if not 1 <= rank <= 4:
            raise CaptureError(f"{self._path} is damaged: tensor {name!r} has {rank} dimensions.")
        sizes = [int(self._number("<Q")) for _ in range(rank)]
        number, offset = int(self._number("<I")), int(self._number("<Q"))
        kind = KINDS.get(number)
        if kind is None:
            raise CaptureError(f"{self._path}: tensor {name!r} is of ggml type {number}, which is not read.")
        if min(sizes) < 1 or sizes[0] % kind.values:
            raise CaptureError(f"{self._path} is damaged: tensor {name!r} of sizes {sizes} is no {kind.name}.")
        return TensorInfo(name, kind, tuple(reversed(sizes)), offset)

    def _placed(self, metadata: Mapping[str, Any], found: list[TensorInfo]) -> dict[str, TensorInfo]:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise CaptureError(f"{self._path} is damaged: general.alignment is {alignment!r}.")
        start = -(-(self._stamp.size - self._left) // alignment) * alignment
        placed: dict[str, TensorInfo] = {}
        for tensor in found:
            end = start + tensor.offset + tensor.kind.bytes_of(math.prod(tensor.shape))
            if tensor.offset % alignment or tensor.name in placed:
                raise CaptureError(f"{self._path} is damaged: tensor {tensor.name!r} comes twice or is not aligned.")
            if end > self._stamp.size:
                raise CaptureError(
                    f"{self._path} is cut short: tensor {tensor.name!r} ends at byte {end} of {self._stamp.size}."
                )
            placed[tensor.name] = TensorInfo(tensor.name, tensor.kind, tensor.shape, start + tensor.offset)
        return placed

    def _value(self, kind: int, key: str, depth: int) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._text(key)
        if kind == _ARRAY and depth < _MOST_DEPTH:
            return self._array(key, depth)
        raise CaptureError(f"{self._path} is damaged: {key!r} is of the unknown type {kind}.")

    def _array(self, key: str, depth: int) -> Any:
        kind, count = int(self._number("<I")), int(self._number("<Q"))
        size = struct.calcsize(_NUMBERS[kind]) if kind in _NUMBERS else 8 if kind == _STRING else 12
        self._check_count(count, size, f"values of {key!r}")
        if count <= _MOST_KEPT:
            return [self._value(kind, key, depth + 1) for _ in range(count)]
        if kind in _NUMBERS:
            self._skip(count * size, key)
            return Long(count)
        for _ in range(count):
            self._skip(int(self._number("<Q")), key) if kind == _STRING else self._value(kind, key, depth + 1)
        return Long(count)

    def _check_count(self, count: int, least_bytes: int, what: str) -> None:
        if count * least_bytes > self._left:
            raise CaptureError(f"{self._path} is damaged: it claims {count} {what}, with {self._left} bytes left.")

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._bytes(struct.calcsize(form), "a number"))[0]

    def _name(self, what: str) -> str:
        length = int(self._number("<Q"))
        if length > _MOST_NAME_BYTES:
            raise CaptureError(f"{self._path} is damaged: {what} is {length} bytes long.")
        return self._decoded(length, what)

    def _text(self, key: str) -> str:
        return self._decoded(int(self._number("<Q")), key)

    def _decoded(self, length: int, what: str) -> str:
        return self._bytes(length, what).decode("utf-8", errors="replace")

    def _bytes(self, count: int, what: str) -> bytes:
        if count > self._left:
            raise CaptureError(f"{self._path} is cut short: {what} of {count} bytes, with {self._left} left.")
        self._left -= count
        data = self._file.read(count)
        if len(data) != count:
            raise CaptureError(f"{self._path} changed while it was read.")
        return data

    def _skip(self, count: int, what: str) -> None:
        if count > self._left:
            raise CaptureError(f"{self._path} is cut short: {what} of {count} bytes, with {self._left} left.")
        self._left -= count
        self._file.seek(count, 1)
