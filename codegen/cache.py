"""A content-addressed cache of build results on disk.

Entries are files named by the hash of everything that they depend on. Each starts with a checksum of its content, is
written under a temporary name and renamed, and counts as missing when it is damaged. A cache that cannot be written
(read-only or full disk) only costs time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

DEFAULT_LIMIT_BYTES = 256 * 2**20
_DIGEST_BYTES = 20


def default_directory(environment: Mapping[str, str] | None = None) -> Path:
    """`$XDG_CACHE_HOME/ullage`, or `~/.cache/ullage`."""
    env = os.environ if environment is None else environment
    base = env.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ullage"


def key_of(parts: Iterable[str | bytes]) -> str:
    """The name of the entry that depends on exactly these parts, in this order."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Cache:
    """Entries below `directory`; the least recently used ones go when they exceed `limit_bytes` together.

    The limit may be passed by a few small entries for a while: looking through tens of thousands takes a second.
    """

    directory: Path
    limit_bytes: int = DEFAULT_LIMIT_BYTES

    @staticmethod
    def default() -> Cache:
        """The user's cache."""
        return Cache(default_directory())

    def get(self, key: str) -> bytes | None:
        """The content of an entry, or None if it is missing or damaged (a damaged one is removed)."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        content = data[_DIGEST_BYTES:]
        if _checksum(content) != data[:_DIGEST_BYTES]:
            self._remove(path)
            return None
        self._touch(path)
        return content

    def put(self, key: str, content: bytes) -> None:
        """Add an entry and evict old ones; does nothing where the directory cannot be written."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _checksum(content) + content)
            if self._is_time(key, len(content)):
                self._evict()
        except OSError:
            return

    def bytes_used(self) -> int:
        """Bytes of all entries together."""
        return sum(size for _, size, _ in self._entries())

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / key

    def _entries(self) -> list[tuple[float, int, str]]:
        """(time of last use, bytes, path), the oldest first."""
        found = []
        for folder in _listed(self.directory):
            for entry in _listed(folder.path) if len(folder.name) == 2 else ():
                try:
                    status = entry.stat()
                except OSError:
                    continue
                found.append((status.st_mtime, status.st_size, entry.path))
        return sorted(found)

    def _is_time(self, key: str, size: int) -> bool:
        """Whether to look through the whole cache: for large entries, and for one in sixteen of the small ones."""
        return size * 64 >= self.limit_bytes or key.endswith("0")

    def _evict(self) -> None:
        entries = self._entries()
        excess = sum(size for _, size, _ in entries) - self.limit_bytes
        for _, size, path in entries:
            if excess <= 0:
                return
            self._remove(Path(path))
            excess -= size

    @staticmethod
    def _remove(path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return

    @staticmethod
    def _touch(path: Path) -> None:
        try:
            os.utime(path)
        except OSError:
            return


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds; nothing if it is none. (`Path.glob` takes three times as long.)"""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _checksum(content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()


def write_atomically(path: Path, data: bytes) -> None:
    """A file in an existing folder that is there whole or not at all; OSError if it cannot be written."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
