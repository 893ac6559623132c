"""Reading an artifact defensively: every offset and size is checked before it is used, nothing is executed here."""

from __future__ import annotations

import os
import stat
import zlib
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from ullage.artifact.format import FORMAT_VERSION, HEADER_BYTES, Header, Section, decode_header
from ullage.artifact.manifest import Manifest, describe
from ullage.errors import ArtifactError
from ullage.plan.plan import Plan

_T = TypeVar("_T")


class Artifact:
    """An open artifact whose header and manifest have been checked; raises ArtifactError if there is anything wrong.

    A file that cannot be opened raises ArtifactError, too. Close it, or use it as a context manager.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.file = _open(self.path)
        try:
            self.file_bytes = os.fstat(self.file).st_size
            self.header: Header = decode_header(
                self._read(0, min(HEADER_BYTES, self.file_bytes)), self.file_bytes, self.path
            )
            self.manifest = self._manifest()
        except BaseException:
            os.close(self.file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    @property
    def weights(self) -> Section:
        """Where the weights lie."""
        return self.header.sections["weights"]

    def code(self) -> bytes:
        """The shared object with the kernels and the executor."""
        return self._section("code")

    def checksums(self) -> bytes:
        """CRC-32C of every tile of the constants that are not gathered, in order, as little-endian 32-bit words."""
        return self._section("checksums")

    def plan(self, index: int) -> Plan:
        """Decode one plan."""
        entry = self.manifest.plans[index]
        start = self.header.sections["plans"].offset + entry.offset
        data = self._read(start, entry.length)
        if zlib.crc32(data) != entry.crc:
            raise ArtifactError(f"{self.path}: plan {index} is corrupt (checksum mismatch).")
        return _decode(data, Plan, f"{self.path}: plan {index}")

    def _section(self, name: str) -> bytes:
        section = self.header.sections[name]
        data = self._read(section.offset, section.length)
        if zlib.crc32(data) != section.crc:
            raise ArtifactError(f"{self.path}: section {name} is corrupt (checksum mismatch).")
        return data

    def _manifest(self) -> Manifest:
        manifest = _decode(self._section("manifest"), Manifest, f"{self.path}: manifest")
        length = self.header.sections["plans"].length
        if not manifest.plans or not 0 <= manifest.default < len(manifest.plans):
            raise ArtifactError(f"{self.path}: the manifest lists no plan, or another default than it lists.")
        if any(p.offset < 0 or p.length < 0 or p.offset + p.length > length for p in manifest.plans):
            raise ArtifactError(f"{self.path}: a plan lies outside of the section of plans.")
        return manifest

    def _read(self, offset: int, length: int) -> bytes:
        data = self._read_piece(offset, length) if length else b""
        while len(data) < length:
            piece = self._read_piece(offset + len(data), length - len(data))
            if not piece:
                raise ArtifactError(f"{self.path}: the file ends at {offset + len(data)} bytes, truncated while read.")
            data += piece
        return data

    def _read_piece(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self.file, length, offset)
        except OSError as error:
            raise ArtifactError(f"{self.path}: cannot be read at {offset} bytes: {error.strerror}.") from error


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of an artifact; raises ArtifactError for anything that is not a whole artifact."""
    with Artifact(path) as artifact:
        return artifact.manifest


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `ullage inspect --json` prints."""
    with Artifact(path) as artifact:
        return describe(artifact.manifest, FORMAT_VERSION, artifact.file_bytes)


def _open(path: str) -> int:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be opened: {error.strerror}.") from error
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise ArtifactError(f"{path}: no artifact: not a regular file.")


def _decode(data: bytes, kind: type[_T], name: str) -> _T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError) as error:
        raise ArtifactError(f"{name} cannot be decoded: {error}.") from error
