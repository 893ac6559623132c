"""A file that is written once from front to back, in large pieces, while the disk already stores what came before."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

Buffer = bytes | bytearray | memoryview
_FLUSH_BYTES = 1 << 20
_FLUSH_PIECES = 512
_SYNC_BYTES = 32 << 20
"""So much is written between two requests to store it; at most twice as much waits in the system's cache."""


class Sink:
    """A new file (OSError if it exists); what is put must not change before about a megabyte more was put."""

    def __init__(self, path: Path) -> None:
        self.position = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._pending: list[Buffer] = []
        self._pending_bytes = self._unsynced_bytes = 0
        self._syncer = ThreadPoolExecutor(1)
        self._syncing: Future[None] | None = None

    def put(self, data: Buffer) -> None:
        """Append; OSError if what was put before cannot be written or stored."""
        self.position += len(data)
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= _FLUSH_BYTES or len(self._pending) >= _FLUSH_PIECES:
            self._flush()

    def finish(self, start: bytes) -> None:
        """Overwrite the first bytes, wait until the disk holds everything, and close."""
        self._flush()
        self._await_sync()
        os.pwrite(self._file, start, 0)
        os.fsync(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        self.close()

    def close(self) -> None:
        """Close the file as it is; does nothing the second time."""
        self._syncer.shutdown()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        self._unsynced_bytes += self._pending_bytes
        self._pending_bytes = 0
        _write_all(self._file, pending)
        if self._unsynced_bytes >= _SYNC_BYTES:
            self._await_sync()
            self._syncing = self._syncer.submit(self._sync)
            self._unsynced_bytes = 0

    def _await_sync(self) -> None:
        running, self._syncing = self._syncing, None
        if running is not None:
            running.result()

    def _sync(self) -> None:
        os.fdatasync(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)


def _write_all(file: int, pieces: list[Buffer]) -> None:
    """Write all pieces in order, however little the system takes at a time."""
    left = [memoryview(piece) for piece in pieces if len(piece)]
    while left:
        done = os.writev(file, left)
        whole = 0
        while whole < len(left) and done >= len(left[whole]):
            done -= len(left[whole])
            whole += 1
        del left[:whole]
        if left:
            left[0] = left[0][done:]
