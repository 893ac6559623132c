"""Rows by index, from a resident table or straight from the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.runtime.handmade import PAGE, Ids, gather_plan, matrix, write
from tests.runtime.test_streaming import flip, weights_offset
from ullage.errors import ArtifactError, InputError
from ullage.runtime import executor
from ullage.runtime.load import load

ROWS, WIDTH = 500, 50
TABLE = matrix(ROWS, WIDTH)
STRIDE = 4 * WIDTH + 4 + 12 & ~15
PLACES = [(True, 0), (False, 2 * PAGE), (False, 5 * PAGE), (False, 64 * PAGE)]


@pytest.mark.parametrize(("resident", "staging_bytes"), PLACES)
@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("direct", [True, False])
def test_any_ids_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resident: bool, staging_bytes: int, dtype: Ids, direct: bool
) -> None:
    if not direct:
        monkeypatch.setattr(executor, "open_direct", lambda file: -1)
    runner = load(write(tmp_path / "g.ullage", gather_plan(ROWS, WIDTH, resident, staging_bytes, dtype), [TABLE]))
    rng = np.random.default_rng(0)
    cases = [[0], [ROWS - 1], [7] * 64, [*range(64)], [*range(63, -1, -1)], *rng.integers(0, ROWS, (5, 64)).tolist()]
    for case in cases:
        ids = np.array(case, dtype)
        assert np.array_equal(runner(ids), TABLE[ids])
    assert (runner.stats()["gathered_bytes"] > 0) is not resident


def test_rows_wider_than_a_page(tmp_path: Path) -> None:
    table = matrix(40, 3000)
    runner = load(write(tmp_path / "g.ullage", gather_plan(40, 3000, False, 9 * PAGE), [table]))
    ids = np.random.default_rng(1).integers(0, 40, 64)
    assert np.array_equal(runner(ids), table[ids])


def gathered(tmp_path: Path, ids: np.ndarray, rows: int = 64 * 1000, staging_bytes: int = 64 * PAGE) -> int:
    """Bytes read from the file for some rows of a large table."""
    table = matrix(rows, WIDTH)
    runner = load(write(tmp_path / "g.ullage", gather_plan(rows, WIDTH, False, staging_bytes, most=4096), [table]))
    assert np.array_equal(runner(ids), table[ids])
    return int(runner.stats()["gathered_bytes"])


def test_neighbours_are_read_at_once_in_any_order(tmp_path: Path) -> None:
    for ids in (np.arange(64), np.arange(64)[::-1], np.random.default_rng(0).permutation(64)):
        assert 64 * STRIDE <= gathered(tmp_path, ids) <= 64 * STRIDE + 6 * PAGE


def test_a_row_that_is_asked_for_often_is_read_once(tmp_path: Path) -> None:
    ids = np.zeros(4096, np.int64)
    ids[::8] = 60_000
    assert gathered(tmp_path, ids) <= 8 * PAGE


def test_far_rows_are_read_one_by_one(tmp_path: Path) -> None:
    assert gathered(tmp_path, np.arange(0, 64_000, 1000)) in range(64 * PAGE, 128 * PAGE + 1)


@pytest.mark.parametrize("staging_bytes", [2 * PAGE, 4 * PAGE, 9 * PAGE, 300 * PAGE])
def test_more_rows_than_the_staging_memory_has_room_for(tmp_path: Path, staging_bytes: int) -> None:
    ids = np.random.default_rng(3).integers(0, 2000, 4096)
    least, most = len(np.unique(ids)) * (4 * WIDTH + 4), len(ids) * 2 * PAGE
    assert least <= gathered(tmp_path, ids, 2000, staging_bytes) <= most


@pytest.mark.parametrize(("resident", "staging_bytes"), PLACES)
@pytest.mark.parametrize("bad", [ROWS, -1, 1 << 40, -(1 << 62)])
def test_an_index_out_of_range_is_named(tmp_path: Path, resident: bool, staging_bytes: int, bad: int) -> None:
    runner = load(write(tmp_path / "g.ullage", gather_plan(ROWS, WIDTH, resident, staging_bytes), [TABLE]))
    ids = np.arange(20)
    for place in (0, 19):
        wrong = ids.copy()
        wrong[place] = bad
        with pytest.raises(InputError, match=rf"step: index {bad} is out of range for constant table with {ROWS} rows"):
            runner(wrong)
        assert np.array_equal(runner(ids), TABLE[ids])


@pytest.mark.parametrize("part", ["row", "checksum"])
def test_a_corrupt_row_is_named_only_when_it_is_asked_for(tmp_path: Path, part: str) -> None:
    path = write(tmp_path / "g.ullage", gather_plan(ROWS, WIDTH, False, 8 * PAGE), [TABLE])
    flip(path, weights_offset(path) + 123 * STRIDE + (3 if part == "row" else 4 * WIDTH))
    runner = load(path)
    assert np.array_equal(runner(np.array([122, 124])), TABLE[[122, 124]])
    with pytest.raises(ArtifactError, match=r"constant table \(tile 123\) is corrupt"):
        runner(np.array([5, 123]))


def test_a_corrupt_row_of_a_resident_table_refuses_to_load(tmp_path: Path) -> None:
    path = write(tmp_path / "g.ullage", gather_plan(ROWS, WIDTH, True), [TABLE])
    flip(path, weights_offset(path) + 499 * STRIDE)
    with pytest.raises(ArtifactError, match=r"constant table \(tile 499\) is corrupt"):
        load(path)
