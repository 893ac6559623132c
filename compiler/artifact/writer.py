"""Writing an artifact: constants are streamed tile by tile, and the file appears under its name only when complete."""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from ullage.artifact.format import HEADER_BYTES, SECTIONS, Header, Section, encode_header
from ullage.artifact.manifest import About, Manifest, PlanEntry, plan_entry
from ullage.errors import UllageError
from ullage.plan.plan import DIRECT_IO_BYTES, ConstantInfo, Plan
from ullage.plan.tables import round_up

Buffer = bytes | bytearray | memoryview
_T = TypeVar("_T")
CONSTANT_ALIGNMENT_BYTES = 64
_FLUSH_BYTES = 1 << 20
_SYNC_BYTES = 64 << 20
_CHECKSUM = struct.Struct("<I")


class ArtifactWriter:
    """Writes one artifact; used as a context manager, it leaves no file unless `finish` succeeded.

    `crc32c` computes the CRC-32C of a buffer (`ullage.runtime.library.Library.crc32c`). Constants are added first, in
    ascending order of their offsets; memory is needed for one tile and a megabyte of buffer.
    """

    def __init__(self, path: str | os.PathLike[str], crc32c: Callable[[Buffer], int]) -> None:
        self._path = Path(path)
        self._crc32c = crc32c
        self._temporary = self._path.with_name(f".{self._path.name}.{os.urandom(6).hex()}.tmp")
        self._checksums: dict[ConstantInfo, array[int]] = {}
        self._buffer = bytearray()
        self._position = 0
        self._unsynced_bytes = 0
        self._file = self._guarded(self._create)
        self._put(b"\0" * HEADER_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def add_constant(self, info: ConstantInfo, tiles: Iterable[Buffer]) -> None:
        """Write a constant's tiles; UllageError if their number or length differs from `info` or the disk is full."""
        start = HEADER_BYTES + info.file_offset
        if info.file_offset % CONSTANT_ALIGNMENT_BYTES or start < self._position:
            raise UllageError(f"constant {info.name} at {info.file_offset}: not aligned, or over an earlier constant.")
        if info.tile_stride < info.tile_bytes + (_CHECKSUM.size if info.gathered else 0):
            raise UllageError(f"constant {info.name}: tiles of {info.tile_bytes} bytes overlap at {info.tile_stride}.")
        checksums = self._checksums[info] = array("I")
        for count, tile in enumerate(tiles):
            if count == info.tiles:
                raise UllageError(f"constant {info.name}: {info.tiles} tiles wanted, more found.")
            self._pad(start + count * info.tile_stride)
            checksums.append(self._add_tile(info, tile if isinstance(tile, bytes) else memoryview(tile).cast("B")))
        if len(checksums) != info.tiles:
            raise UllageError(f"constant {info.name}: {info.tiles} tiles wanted, {len(checksums)} found.")

    def finish(self, about: About, plans: Sequence[Plan], code: bytes, default: int = -1) -> None:
        """Write code, checksums, plans and manifest, and give the file its name.

        `plans` ascend by peak and share kernels, constants, inputs and outputs; `default` is the index of the one used
        when no budget is given (the last by default).
        """
        self._check_plans(plans)
        self._pad(round_up(self._position, DIRECT_IO_BYTES))
        weights = Section(HEADER_BYTES, self._position - HEADER_BYTES, 0)
        texts = [msgspec.msgpack.encode(plan) for plan in plans]
        manifest = self._manifest(about, plans, texts, range(len(plans))[default])
        checksums = b"".join(self._checksums[c].tobytes() for c in plans[0].constants if not c.gathered)
        contents = (code, checksums, b"".join(texts), msgspec.msgpack.encode(manifest))
        sections = [weights, *(self._add_section(content) for content in contents)]
        self._guarded(lambda: self._publish(Header(self._position, dict(zip(SECTIONS, sections, strict=True)))))

    def abort(self) -> None:
        """Remove the unfinished file; does nothing after `finish`."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._temporary.unlink(missing_ok=True)

    def _create(self) -> int:
        return os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def _guarded(self, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except OSError as error:
            raise UllageError(f"cannot write {self._path}: {error.strerror}.") from error

    def _add_tile(self, info: ConstantInfo, tile: bytes | memoryview) -> int:
        if len(tile) != info.tile_bytes:
            raise UllageError(f"constant {info.name}: tiles of {info.tile_bytes} bytes wanted, {len(tile)} found.")
        crc = self._crc32c(tile)
        self._put(tile)
        if info.gathered:
            self._put(_CHECKSUM.pack(crc))
        return crc

    def _check_plans(self, plans: Sequence[Plan]) -> None:
        shared = {(p.kernels, p.constants, p.inputs, p.outputs) for p in plans}
        if len(shared) != 1 or set(plans[0].constants) != set(self._checksums):
            raise UllageError("the plans of an artifact must share kernels, inputs, outputs and the constants written.")
        if sorted(p.peak_bytes for p in plans) != [p.peak_bytes for p in plans]:
            raise UllageError("the plans of an artifact must ascend by their peak.")

    def _manifest(self, about: About, plans: Sequence[Plan], texts: Sequence[bytes], default: int) -> Manifest:
        weight_bytes = sum(c.tiles * c.tile_bytes for c in self._checksums)
        first = plans[0]
        entries = _entries(plans, texts)
        return Manifest(about, first.inputs, first.outputs, first.kernels, weight_bytes, entries, default)

    def _add_section(self, content: bytes) -> Section:
        section = Section(self._position, len(content), zlib.crc32(content))
        self._put(content)
        self._pad(round_up(self._position, DIRECT_IO_BYTES))
        return section

    def _pad(self, position: int) -> None:
        while (missing := position - self._position) > 0:
            self._put(bytes(min(missing, _FLUSH_BYTES)))

    def _put(self, data: Buffer) -> None:
        self._position += len(data)
        if len(data) >= _FLUSH_BYTES:
            self._guarded(self._flush)
            self._guarded(lambda: self._write(data))
            return
        self._buffer += data
        if len(self._buffer) >= _FLUSH_BYTES:
            self._guarded(self._flush)

    def _flush(self) -> None:
        self._write(self._buffer)
        self._buffer = bytearray()

    def _write(self, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._unsynced_bytes += len(data)
        if self._unsynced_bytes >= _SYNC_BYTES:
            self._drop_cached()

    def _drop_cached(self) -> None:
        os.fdatasync(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        self._unsynced_bytes = 0

    def _publish(self, header: Header) -> None:
        self._flush()
        os.pwrite(self._file, encode_header(header), 0)
        os.fsync(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.replace(self._temporary, self._path)
        os.close(self._file)
        self._file = -1
        _sync_folder(self._path.parent)


def _entries(plans: Sequence[Plan], texts: Sequence[bytes]) -> tuple[PlanEntry, ...]:
    entries: list[PlanEntry] = []
    offset = 0
    for plan, text in zip(plans, texts, strict=True):
        entries.append(plan_entry(plan, offset, len(text), zlib.crc32(text)))
        offset += len(text)
    return tuple(entries)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
