"""The content-addressed cache on disk."""

from __future__ import annotations

import os
from pathlib import Path

from ullage.codegen.cache import Cache, default_directory, key_of


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "folder")
    assert cache.get(key_of(["a"])) is None
    cache.put(key_of(["a"]), b"content")
    assert cache.get(key_of(["a"])) == b"content"
    assert cache.get(key_of(["b"])) is None


def test_keys_tell_parts_apart() -> None:
    assert len({key_of(p) for p in (["ab"], ["a", "b"], ["", "ab"], ["b", "a"], [b"ab", ""])}) == 5


def test_a_damaged_entry_counts_as_missing_and_is_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for damage in (lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda data: b""):
        cache.put("aa1", b"content")
        (path,) = tmp_path.glob("??/*")
        path.write_bytes(damage(path.read_bytes()))
        assert cache.get("aa1") is None
        assert not path.exists()


def test_the_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=3 * (1000 + 20))
    for i, name in enumerate(("aa1", "bb2", "cc3")):
        cache.put(name, bytes(1000))
        os.utime(tmp_path / name[:2] / name, (i, i))
    assert cache.get("aa1") is not None
    cache.put("dd4", bytes(1000))
    assert cache.get("bb2") is None
    assert all(cache.get(name) is not None for name in ("aa1", "cc3", "dd4"))
    assert cache.bytes_used() <= cache.limit_bytes


def test_an_unwritable_cache_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file")
    cache.put("aa1", b"content")
    assert cache.get("aa1") is None


def test_no_temporary_file_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("aa1", b"content")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["aa1"]


def test_the_directory_follows_the_xdg_variable() -> None:
    assert default_directory({"XDG_CACHE_HOME": "/elsewhere"}) == Path("/elsewhere/ullage")
    assert default_directory({}) == Path.home() / ".cache" / "ullage"
