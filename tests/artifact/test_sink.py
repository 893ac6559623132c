"""The file behind an artifact: whole whatever its pieces are, and errors of the disk are told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ullage.artifact import sink
from ullage.artifact.sink import Sink


def test_pieces_of_any_length_lie_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda file, left: writev(file, [left[0][: 1 + len(left[0]) // 2]]))
    pieces = [os.urandom(length) for length in (0, 1, 5000, 0, 1 << 20, 3 << 20, 17)] + [b"ab"] * 2000
    out = Sink(tmp_path / "f")
    for piece in pieces:
        out.put(piece)
    assert out.position == sum(map(len, pieces))
    out.finish(b"start")
    out.close()
    assert (tmp_path / "f").read_bytes() == b"start" + b"".join(pieces)[5:]


def test_an_error_of_storing_in_the_background_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sink, "_SYNC_BYTES", 1 << 20)
    monkeypatch.setattr(os, "fdatasync", fail)
    out = Sink(tmp_path / "f")
    out.put(bytes(2 << 20))
    with pytest.raises(OSError, match="Input/output error"):
        out.finish(b"")
    out.close()


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        Sink(tmp_path / "f")
