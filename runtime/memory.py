"""Memory that the runtime maps itself: exact to the page, present from the start, and measurable."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ullage.errors import UllageError
from ullage.plan.plan import DIRECT_IO_BYTES
from ullage.plan.tables import round_up

_RANGE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+)")


class Region:
    """A private anonymous mapping of `size` bytes (rounded up to pages), zeroed, every page present from the start.

    One of no bytes has an address, and no page of it is present.
    """

    def __init__(self, size: int, what: str) -> None:
        self.bytes = round_up(size, DIRECT_IO_BYTES)
        refuse_beyond_machine(self.bytes, what)
        try:
            self.map = mmap.mmap(-1, max(self.bytes, DIRECT_IO_BYTES), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as error:
            raise UllageError(f"cannot map {self.bytes} bytes for {what}: {error}.") from error
        if self.bytes >= 1 << 21:
            _prefer_huge_pages(self.map)
        pages = np.frombuffer(self.map, np.uint8)
        pages[: self.bytes : DIRECT_IO_BYTES] = 0
        self.address = int(pages.ctypes.data)

    def close(self) -> None:
        """Unmap; BufferError while arrays still look into it."""
        self.map.close()


def refuse_beyond_machine(need_bytes: int, what: str) -> None:
    """Raise UllageError for more than this machine has, before any of it is touched."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need_bytes > machine:
        raise UllageError(f"{what} needs {need_bytes} bytes, this machine has {machine}; load with a smaller budget.")


def present_bytes(address: int, size: int) -> int:
    """Bytes of the anonymous pages in a mapped range that are in memory now."""
    pages = round_up(size, DIRECT_IO_BYTES) // DIRECT_IO_BYTES
    vector = np.zeros(pages, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(vector.ctypes.data)):
        raise UllageError(f"the kernel does not tell which pages are present (mincore: errno {ctypes.get_errno()}).")
    return DIRECT_IO_BYTES * int(np.count_nonzero(vector & 1))


def file_ranges(file: int) -> list[tuple[int, int]]:
    """Address ranges at which this process has mapped an open file."""
    status = os.fstat(file)
    wanted = (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
    found = (_RANGE.match(line) for line in Path("/proc/self/maps").read_text().splitlines())
    return [
        (int(m[1], 16), int(m[2], 16))
        for m in found
        if m is not None and (int(m[3], 16), int(m[4], 16), int(m[5])) == wanted
    ]


def anonymous_bytes(start: int, end: int) -> int:
    """Bytes of private pages in the mappings between two addresses (`Anonymous` of /proc/self/smaps)."""
    return sum(count for address, count in _anonymous_by_mapping() if start <= address < end)


def _anonymous_by_mapping() -> Iterator[tuple[int, int]]:
    address = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        match = _RANGE.match(line)
        if match is not None:
            address = int(match[1], 16)
        elif line.startswith("Anonymous:"):
            yield address, int(line.split()[1]) * 1024


def _prefer_huge_pages(region: mmap.mmap) -> None:
    """Ask for huge pages where the system has them; a kernel built without them refuses, which changes nothing."""
    try:
        region.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return
