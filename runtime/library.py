"""The artifact's shared object in memory: loading it without a file on disk, and counting the bytes that it holds."""

from __future__ import annotations

import ctypes
import os
import struct
from _ctypes import dlclose
from collections.abc import Callable
from dataclasses import dataclass

from ullage.errors import ArtifactError
from ullage.plan.plan import DIRECT_IO_BYTES
from ullage.plan.tables import round_up
from ullage.runtime.memory import anonymous_bytes, file_ranges

Buffer = bytes | bytearray | memoryview
_ABI = 2
_ELF_MAGIC = b"\x7fELF\x02\x01"
_SHARED = 3
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
_LOAD = 1
_WRITABLE = 2
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_CALLS = ("ull_start", "ull_stop", "ull_prepare", "ull_run")


@dataclass(frozen=True, slots=True)
class Segment:
    """A loadable segment of a shared object: page-aligned addresses relative to its base, and whether it is written."""

    start: int
    end: int
    writable: bool


def segments(code: bytes) -> tuple[Segment, ...]:
    """The loadable segments of a 64-bit ELF shared object; ArtifactError if it is none, or cut short."""
    if code[:6] != _ELF_MAGIC or len(code) < 64:
        raise ArtifactError("the code is no 64-bit ELF shared object.")
    kind, _ = struct.unpack_from("<HH", code, 16)
    (table,) = struct.unpack_from("<Q", code, 32)
    size, count = struct.unpack_from("<HH", code, 54)
    if kind != _SHARED or size != _PROGRAM_HEADER.size or table + size * count > len(code):
        raise ArtifactError("the code's program headers are corrupt.")
    headers = [_PROGRAM_HEADER.unpack_from(code, table + i * size) for i in range(count)]
    loaded = [header for header in headers if header[0] == _LOAD]
    if not loaded or any(offset + length > len(code) for _, _, offset, _, _, length, _, _ in loaded):
        raise ArtifactError("the code is cut short: a segment lies beyond its end.")
    return tuple(
        Segment(_page_floor(address), round_up(address + memory, DIRECT_IO_BYTES), bool(flags & _WRITABLE))
        for _, flags, _, address, _, _, memory, _ in loaded
    )


def refuse_other_machine(code: bytes) -> None:
    """ArtifactError for code of another kind of processor (the system's linker would call it a missing file)."""
    (found,) = struct.unpack_from("<H", code, 18)
    here = os.uname().machine
    if found != _ELF_MACHINES.get(here, found):
        names = {number: name for name, number in _ELF_MACHINES.items()}
        made_for = names.get(found, f"another machine (ELF number {found})")
        raise ArtifactError(f"the code is made for {made_for}, this machine is {here}; convert the model again here.")


def code_bytes(code: bytes) -> int:
    """Bytes held once a shared object is loaded: the file in memory, and its own copies of the pages it may write."""
    written = sum(s.end - s.start for s in segments(code) if s.writable)
    return round_up(len(code), DIRECT_IO_BYTES) + written


class Library:
    """A loaded shared object, the executor and its kernels, with every page present; `close` unloads it."""

    def __init__(self, code: bytes) -> None:
        parts = segments(code)
        refuse_other_machine(code)
        self.held_bytes = code_bytes(code)
        self.file, self._native = _load(code)
        try:
            self._bind()
        except BaseException:
            self.close()
            raise
        self._base = min(start for start, _ in file_ranges(self.file))
        self._end = self._base + max(part.end for part in parts)
        for part in parts:
            _touch(self._base + part.start, self._base + part.end)

    def close(self) -> None:
        """Unload the code and free its memory; nothing of it may be running."""
        if self.file >= 0:
            dlclose(self._native._handle)
            os.close(self.file)
            self.file = -1

    def kernels(self) -> tuple[int, ...]:
        """Addresses of the kernels in plan order."""
        try:
            count = ctypes.c_long.in_dll(self._native, "ullage_kernel_count").value
            return tuple(address or 0 for address in (ctypes.c_void_p * count).in_dll(self._native, "ullage_kernels"))
        except ValueError as error:
            raise ArtifactError(f"the code has no table of kernels: {error}.") from error

    def rest(self, context: int) -> None:
        """Join the threads until the next start; ArtifactError for code from before executors could rest."""
        if self._rest is None:
            raise ArtifactError("the code lacks ull_rest; convert the model again.")
        self._rest(context)

    def crc32c(self, data: Buffer) -> int:
        """CRC-32C of a buffer."""
        if isinstance(data, bytes):
            return self._crc32c(data, len(data))
        view = memoryview(data).cast("B")
        if view.readonly:
            return self.crc32c(bytes(view))
        return self._crc32c((ctypes.c_char * len(view)).from_buffer(view), len(view))

    def measured_bytes(self) -> int:
        """Bytes that the code holds now as the kernel counts them: pages of the file, and private copies of pages."""
        return round_up(os.fstat(self.file).st_size, DIRECT_IO_BYTES) + anonymous_bytes(self._base, self._end)

    def _bind(self) -> None:
        missing = [name for name in ("ull_abi", "ull_crc32c", *_CALLS) if not hasattr(self._native, name)]
        if missing:
            raise ArtifactError(f"the code lacks {', '.join(missing)}; convert the model again.")
        if (version := self._native.ull_abi()) != _ABI:
            raise ArtifactError(f"the code reads tables of version {version}, {_ABI} wanted; convert the model again.")
        for name in _CALLS:
            function = getattr(self._native, name)
            function.argtypes, function.restype = (ctypes.c_void_p,), ctypes.c_uint
        self.start, self.stop, self.prepare, self.run = (getattr(self._native, name) for name in _CALLS)
        self._rest = getattr(self._native, "ull_rest", None)
        if self._rest is not None:
            self._rest.argtypes, self._rest.restype = (ctypes.c_void_p,), None
        checksum = self._native.ull_crc32c
        checksum.argtypes, checksum.restype = (ctypes.c_void_p, ctypes.c_long), ctypes.c_uint
        self._crc32c: Callable[[object, int], int] = checksum


def _page_floor(address: int) -> int:
    return address // DIRECT_IO_BYTES * DIRECT_IO_BYTES


def _touch(start: int, end: int) -> None:
    for address in range(start, end, DIRECT_IO_BYTES):
        ctypes.string_at(address, 1)


def _load(code: bytes) -> tuple[int, ctypes.CDLL]:
    """The open file and the loaded library; the file stays open so that no other library can take its name."""
    try:
        return _load_from_memory(code)
    except OSError:
        return _load_from_folder(code)


def _load_from_memory(code: bytes) -> tuple[int, ctypes.CDLL]:
    file = os.memfd_create("ullage", os.MFD_CLOEXEC)
    try:
        _write(file, code)
        return file, _open(f"/proc/self/fd/{file}")
    except BaseException:
        os.close(file)
        raise


def _load_from_folder(code: bytes) -> tuple[int, ctypes.CDLL]:
    """For systems that forbid to execute from anonymous files: a temporary file, removed as soon as it is mapped."""
    import tempfile

    file, path = tempfile.mkstemp(suffix=".so", prefix="ullage-")
    try:
        _write(file, code)
        return file, _open(path)
    except OSError as error:
        os.close(file)
        raise ArtifactError(f"the code cannot be loaded: {error}.") from error
    finally:
        os.unlink(path)


def _open(path: str) -> ctypes.CDLL:
    return ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
