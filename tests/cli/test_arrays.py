"""Arrays in files: what numpy wrote is read, what we write numpy reads, failures leave nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ullage.arrays import read_arrays, replacing, write_arrays
from ullage.errors import InputError

ARRAYS = {
    "x": np.arange(200_000, dtype=np.float32).reshape(2, -1),
    "transposed": np.arange(12).reshape(3, 4).T,
    "empty": np.zeros((0, 3), np.int8),
    "scalar": np.array(2.5),
    "flags": np.array([True, False]),
}


def test_archives_go_both_ways(tmp_path: Path) -> None:
    write_arrays(tmp_path / "ours.npz", ARRAYS)
    np.savez(tmp_path / "theirs.npz", **ARRAYS)
    for path in (tmp_path / "ours.npz", tmp_path / "theirs.npz"):
        found = read_arrays(path, ())
        assert found.keys() == ARRAYS.keys()
        assert all(np.array_equal(found[n], a) and found[n].dtype == a.dtype for n, a in ARRAYS.items())
        assert all(found[n].shape == a.shape for n, a in ARRAYS.items())


def test_a_lone_array_is_the_only_input(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npy", {"anything": ARRAYS["x"]})
    assert np.array_equal(read_arrays(tmp_path / "x.npy", ["pixels"])["pixels"], ARRAYS["x"])
    with pytest.raises(InputError, match="2 inputs"):
        read_arrays(tmp_path / "x.npy", ["a", "b"])


def test_two_arrays_do_not_fit_one_npy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.npz"):
        write_arrays(tmp_path / "x.npy", ARRAYS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x93NUMPY\x01\x00 broken", b"text"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"in\.npz"):
        read_arrays(path, ["x"])


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"in\.npz"):
        read_arrays(tmp_path / "in.npz", ["x"])


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError("broken off")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]
