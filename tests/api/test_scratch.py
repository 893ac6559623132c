"""Temporary artifacts lie on a disk, never in a file system that is memory itself, and vanish."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from ullage import scratch
from ullage.errors import UllageError
from ullage.scratch import Scratch, cache_folder, disk_folder, file_system


def test_a_folder_vanishes_with_its_object() -> None:
    made = Scratch()
    path = made.path
    (path / "file").write_text("x")
    del made
    gc.collect()
    assert not path.exists()


def test_a_folder_can_be_removed_at_once() -> None:
    made = Scratch()
    made.remove()
    made.remove()
    assert not made.path.exists()


def test_memory_file_systems_are_avoided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(scratch, "file_system", lambda path: "ext4" if path == tmp_path / "ullage" else "tmpfs")
    assert disk_folder() == tmp_path / "ullage"
    monkeypatch.setattr(scratch, "file_system", lambda path: "tmpfs")
    with pytest.raises(UllageError, match="TMPDIR"):
        disk_folder()


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/ullage")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "ullage"


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="needs /proc/mounts")
def test_file_systems_are_told_apart() -> None:
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(Path("/")) not in ("", "proc")
