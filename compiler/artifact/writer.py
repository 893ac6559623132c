"""Writing an artifact: constants are streamed tile by tile, and the file appears under its name only when complete."""

from __future__ import annotations

import os
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from ullage.artifact.format import HEADER_BYTES, SECTIONS, Header, Section, encode_header
from ullage.artifact.manifest import About, Manifest, PlanEntry, plan_entry
from ullage.artifact.sink import Sink
from ullage.errors import UllageError
from ullage.plan.plan import CHECKSUM_BYTES, DIRECT_IO_BYTES, ConstantInfo, Plan
from ullage.plan.tables import round_up

Buffer = bytes | bytearray | memoryview
_T = TypeVar("_T")
CONSTANT_ALIGNMENT_BYTES = 64
_PADDING_BYTES = 1 << 20


class ArtifactWriter:
    """Writes one artifact; used as a context manager, it leaves no file unless `finish` succeeded.

    `crc32c` computes the CRC-32C of a buffer (`ullage.runtime.library.Library.crc32c`). Constants are added first, in
    ascending order of their offsets; memory is needed for one run of tiles and a megabyte beside it.
    """

    def __init__(self, path: str | os.PathLike[str], crc32c: Callable[[Buffer], int]) -> None:
        self._path = Path(path)
        self._crc32c = crc32c
        self._temporary = self._path.with_name(f".{self._path.name}.{os.urandom(6).hex()}.tmp")
        self._checksums: dict[ConstantInfo, array[int]] = {}
        self._sink: Sink | None = self._guarded(lambda: Sink(self._temporary))
        self._put(b"\0" * HEADER_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def add_constant(self, info: ConstantInfo, runs: Iterable[Buffer]) -> None:
        """Write a constant's tiles, which come in runs of one or more whole tiles.

        UllageError if their number or length differs from `info` or the disk is full.
        """
        start = HEADER_BYTES + info.file_offset
        if info.file_offset % CONSTANT_ALIGNMENT_BYTES or start < self._out.position:
            raise UllageError(f"constant {info.name} at {info.file_offset}: not aligned, or over an earlier constant.")
        if info.tile_stride < info.tile_bytes + (CHECKSUM_BYTES if info.gathered else 0):
            raise UllageError(f"constant {info.name}: tiles of {info.tile_bytes} bytes overlap at {info.tile_stride}.")
        checksums = self._checksums[info] = array("I")
        for run in runs:
            tiles = _tiles(info, run)
            if len(checksums) + len(tiles) > info.tiles:
                raise UllageError(f"constant {info.name}: {info.tiles} tiles wanted, more found.")
            self._pad(start + len(checksums) * info.tile_stride)
            checksums.extend(self._add_tiles(info, tiles))
        if len(checksums) != info.tiles:
            raise UllageError(f"constant {info.name}: {info.tiles} tiles wanted, {len(checksums)} found.")

    def finish(self, about: About, plans: Sequence[Plan], code: bytes, default: int = -1) -> None:
        """Write code, checksums, plans and manifest, and give the file its name.

        `plans` ascend by peak and share kernels, constants, inputs and outputs; `default` is the index of the one used
        when no budget is given (the last by default).
        """
        self._check_plans(plans)
        self._pad(round_up(self._out.position, DIRECT_IO_BYTES))
        weights = Section(HEADER_BYTES, self._out.position - HEADER_BYTES, 0)
        texts = [msgspec.msgpack.encode(plan) for plan in plans]
        manifest = self._manifest(about, plans, texts, range(len(plans))[default])
        checksums = b"".join(self._checksums[c].tobytes() for c in plans[0].constants if not c.gathered)
        contents = (code, checksums, b"".join(texts), msgspec.msgpack.encode(manifest))
        sections = [weights, *(self._add_section(content) for content in contents)]
        header = Header(self._out.position, dict(zip(SECTIONS, sections, strict=True)))
        self._guarded(lambda: self._publish(header))

    def abort(self) -> None:
        """Remove the unfinished file; does nothing after `finish`."""
        if self._sink is not None:
            self._sink.close()
            self._sink = None
            self._temporary.unlink(missing_ok=True)

    @property
    def _out(self) -> Sink:
        assert self._sink is not None, "the artifact is finished"
        return self._sink

    def _guarded(self, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except OSError as error:
            raise UllageError(f"cannot write {self._path}: {error.strerror}.") from error

    def _add_tiles(self, info: ConstantInfo, tiles: Sequence[Buffer]) -> list[int]:
        checksums = [self._crc32c(tile) for tile in tiles]
        if not info.gathered and len(tiles) == 1:
            self._put(tiles[0])
            return checksums
        gap = bytes(info.tile_stride - info.tile_bytes - (CHECKSUM_BYTES if info.gathered else 0))
        pieces: list[Buffer] = []
        for tile, checksum in zip(tiles, checksums, strict=True):
            own = checksum.to_bytes(CHECKSUM_BYTES, "little") if info.gathered else b""
            pieces += (tile, own + gap)
        self._put(b"".join(pieces)[: len(tiles) * info.tile_stride - len(gap)])
        return checksums

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
        section = Section(self._out.position, len(content), zlib.crc32(content))
        self._put(content)
        self._pad(round_up(self._out.position, DIRECT_IO_BYTES))
        return section

    def _pad(self, position: int) -> None:
        while (missing := position - self._out.position) > 0:
            self._put(bytes(min(missing, _PADDING_BYTES)))

    def _put(self, data: Buffer) -> None:
        self._guarded(lambda: self._out.put(data))

    def _publish(self, header: Header) -> None:
        self._out.finish(encode_header(header))
        os.replace(self._temporary, self._path)
        self._sink = None
        _sync_folder(self._path.parent)


def _tiles(info: ConstantInfo, run: Buffer) -> list[Buffer]:
    """The tiles of a run, as bytes."""
    whole = run if isinstance(run, bytes) else memoryview(run).cast("B")
    width = info.tile_bytes
    if len(whole) == width:
        return [whole]
    if not whole or not width or len(whole) % width:
        raise UllageError(f"constant {info.name}: tiles of {width} bytes wanted, {len(whole)} found.")
    return [whole[at : at + width] for at in range(0, len(whole), width)]


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
