"""The artifact's header: one page that says where each section lies, guarded by a checksum of its own."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from ullage.errors import ArtifactError
from ullage.plan.plan import DIRECT_IO_BYTES

MAGIC = b"\x89ULLAGE\n"
FORMAT_VERSION = 1
HEADER_BYTES = DIRECT_IO_BYTES
SECTIONS = ("weights", "code", "checksums", "plans", "manifest")
"""In file order; every section but the weights (whose tiles have checksums of their own) has a CRC-32 in the header."""

_START = struct.Struct("<8sIIQ")
_SECTION = struct.Struct("<QQII")
_END = struct.Struct("<I")
_USED_BYTES = _START.size + _SECTION.size * len(SECTIONS) + _END.size


@dataclass(frozen=True, slots=True)
class Section:
    """Byte range of the file and the CRC-32 of its content (0 for the weights)."""

    offset: int
    length: int
    crc: int

    @property
    def end(self) -> int:
        """The first byte after the section."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Header:
    """Total length of the file in bytes, and its sections by name."""

    total_bytes: int
    sections: dict[str, Section]


def encode_header(header: Header) -> bytes:
    """The header as one page."""
    text = _START.pack(MAGIC, FORMAT_VERSION, len(SECTIONS), header.total_bytes)
    for name in SECTIONS:
        section = header.sections[name]
        text += _SECTION.pack(section.offset, section.length, section.crc, 0)
    text += _END.pack(zlib.crc32(text))
    return text.ljust(HEADER_BYTES, b"\0")


def decode_header(page: bytes, file_bytes: int, name: str) -> Header:
    """Read and check a header; raises ArtifactError naming what is wrong."""
    if len(page) < HEADER_BYTES:
        raise ArtifactError(f"{name}: no artifact: {len(page)} bytes found, a header alone takes {HEADER_BYTES}.")
    magic, version, count, total = _START.unpack_from(page)
    if magic != MAGIC:
        raise ArtifactError(f"{name}: no artifact: it does not start with Ullage's signature.")
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{name}: format version {version} found, this Ullage reads {FORMAT_VERSION}; convert the model again."
        )
    (crc,) = _END.unpack_from(page, _USED_BYTES - _END.size)
    if count != len(SECTIONS) or crc != zlib.crc32(page[: _USED_BYTES - _END.size]):
        raise ArtifactError(f"{name}: the header is corrupt (checksum mismatch).")
    if total != file_bytes:
        raise ArtifactError(f"{name}: {total} bytes wanted, {file_bytes} found; the file is truncated or extended.")
    return Header(total, _sections(page, total, name))


def _sections(page: bytes, total: int, name: str) -> dict[str, Section]:
    sections: dict[str, Section] = {}
    least = HEADER_BYTES
    for number, label in enumerate(SECTIONS):
        offset, length, crc, _ = _SECTION.unpack_from(page, _START.size + number * _SECTION.size)
        if not (least <= offset <= total and length <= total - offset and offset % DIRECT_IO_BYTES == 0):
            raise ArtifactError(f"{name}: section {label} at {offset} with {length} bytes does not fit the file.")
        sections[label] = Section(offset, length, crc)
        least = offset + length
    return sections
