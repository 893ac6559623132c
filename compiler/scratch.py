"""A folder on a real disk for files that live as long as a compiled model."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from ullage.errors import UllageError

_MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


def cache_folder() -> Path:
    """`ullage` in the user's cache folder (`$XDG_CACHE_HOME`, or `~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ullage"


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, such as ext4; empty where /proc/mounts does not exist."""
    mounts = Path("/proc/mounts")
    best, kind = "", ""
    for line in mounts.read_text().splitlines() if mounts.exists() else []:
        _, place, found, *_ = line.split()
        if path.resolve().is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind


def disk_folder() -> Path:
    """The temporary folder if it is on disk, else the cache folder: weights must not sit in a file system in memory."""
    for folder in (Path(tempfile.gettempdir()), cache_folder()):
        folder.mkdir(parents=True, exist_ok=True)
        if file_system(folder) not in _MEMORY_FILE_SYSTEMS:
            return folder
    raise UllageError("the temporary folder and the cache folder are both held in memory; set TMPDIR to one on a disk.")


class Scratch:
    """A new folder below `disk_folder()`, removed with this object or when the process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ullage-", dir=disk_folder()))
        self._remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder now."""
        self._remove()
