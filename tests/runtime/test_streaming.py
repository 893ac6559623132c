"""Weights that come from the file during a run: rings, prefetch across calls, files that change under the runner."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.handmade import (
    PAGE,
    TILE_DOT,
    block,
    dot_constant,
    given,
    launch,
    matrix,
    plan,
    resident_dot_plan,
    result,
    streamed_dot_plan,
    tensor,
    write,
)
from ullage.artifact import Artifact
from ullage.errors import ArtifactError
from ullage.plan.plan import Block, Command, ConstantInfo, Plan, Wait
from ullage.runtime import executor
from ullage.runtime.load import load

TILES, K = 63, 333
X = matrix(1, K, seed=1)[0]
W = matrix(TILES, K)


@pytest.fixture(params=["direct", "buffered"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways to read: direct I/O, and what is done where a file system refuses it."""
    if request.param == "buffered":
        monkeypatch.setattr(executor, "open_direct", lambda file: -1)
    yield request.param


@pytest.mark.parametrize(("per_block", "slots"), [(7, 3), (1, 3), (63, 1), (21, 1), (9, 7), (16, 2)])
def test_a_ring_gives_the_same_bits_as_resident_weights(
    tmp_path: Path, reading: str, per_block: int, slots: int
) -> None:
    streamed = streamed_dot_plan(TILES, K, per_block, slots)
    with load(write(tmp_path / "s.ullage", streamed, [W])) as runner:
        for _ in range(4):
            assert np.array_equal(runner(X), W @ X)
            assert runner.stats()["bytes_read"] == {"disk": streamed.streamed_bytes_per_run}


def test_one_file_holds_a_resident_and_a_streamed_plan(tmp_path: Path) -> None:
    streamed, resident = streamed_dot_plan(TILES, K), resident_dot_plan(TILES, K)
    path = write(tmp_path / "both.ullage", sorted((streamed, resident), key=lambda p: p.peak_bytes), [W])
    for chosen in (streamed, resident):
        with load(path, chosen.peak_bytes) as runner:
            assert runner.plan.streamed_bytes_per_run == chosen.streamed_bytes_per_run
            assert np.array_equal(runner(X), W @ X)


def packed_plan() -> Plan:
    """Two small constants that share a page of the file and lie side by side in the arena, 64-byte aligned."""
    constants = [dot_constant(3, 16), ConstantInfo("v", 2, 64, 64, 192)]
    blocks = [Block(0, 0, 3, 64, 192, 0, True), Block(1, 0, 2, 256, 128, 0, True)]
    commands = [
        launch(TILE_DOT, (block(0), given(), result()), (16, 0, 3), 3),
        launch(TILE_DOT, (block(1), given(), result(0, 12)), (16, 0, 2), 2),
    ]
    inputs, outputs = [tensor("x", 16)], [tensor("y", 5)]
    return plan(commands, inputs, outputs, arena_bytes=512, blocks=blocks, constants=constants)


def test_short_resident_constants_are_packed(tmp_path: Path, reading: str) -> None:
    w, v, x = matrix(3, 16), matrix(2, 16, seed=2), matrix(1, 16, seed=3)[0]
    with load(write(tmp_path / "packed.ullage", packed_plan(), [w, v])) as runner:
        assert np.array_equal(runner(x), np.concatenate([w @ x, v @ x]))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def weights_offset(path: Path) -> int:
    with Artifact(path) as artifact:
        return artifact.weights.offset


def test_a_corrupt_tile_is_named_when_it_is_first_read(tmp_path: Path, reading: str) -> None:
    path = write(tmp_path / "s.ullage", streamed_dot_plan(TILES, K), [W])
    flip(path, weights_offset(path) + 40 * 4 * K + 17)
    with load(path) as runner:
        for _ in range(3):
            with pytest.raises(ArtifactError, match=r"constant w \(tile 40\) is corrupt"):
                runner(X)
        flip(path, weights_offset(path) + 40 * 4 * K + 17)
        assert np.array_equal(runner(X), W @ X)


def test_a_file_that_changes_between_runs_is_verified_again(tmp_path: Path, reading: str) -> None:
    path = write(tmp_path / "s.ullage", streamed_dot_plan(TILES, K), [W])
    with load(path) as runner:
        for _ in range(2):
            assert np.array_equal(runner(X), W @ X)
        for tile in (0, 62, 30):
            flip(path, weights_offset(path) + tile * 4 * K + 5)
            with pytest.raises(ArtifactError, match=rf"constant w \(tile {tile}\) is corrupt"):
                for _ in range(2):
                    runner(X)
            flip(path, weights_offset(path) + tile * 4 * K + 5)
            assert np.array_equal(runner(X), W @ X)


def test_a_corrupt_resident_tile_refuses_to_load(tmp_path: Path, reading: str) -> None:
    path = write(tmp_path / "r.ullage", resident_dot_plan(TILES, K), [W])
    flip(path, weights_offset(path) + 5 * 4 * K)
    with pytest.raises(ArtifactError, match=r"constant w \(tile 5\) is corrupt"):
        load(path)


def test_a_file_truncated_while_in_use_is_an_error_and_no_crash(tmp_path: Path, reading: str) -> None:
    path = write(tmp_path / "s.ullage", streamed_dot_plan(TILES, K), [W])
    whole = path.read_bytes()
    with load(path) as runner:
        assert np.array_equal(runner(X), W @ X)
        os.truncate(path, weights_offset(path) + 30_000)
        for _ in range(2):
            with pytest.raises(ArtifactError, match="truncated while in use"):
                runner(X)
        os.truncate(path, 0)
        with pytest.raises(ArtifactError, match="truncated while in use"):
            runner(X)
        path.write_bytes(whole)
        for _ in range(2):
            assert np.array_equal(runner(X), W @ X)


def test_a_deleted_file_goes_on_working(tmp_path: Path, reading: str) -> None:
    path = write(tmp_path / "s.ullage", streamed_dot_plan(TILES, K), [W])
    with load(path) as runner:
        path.unlink()
        for _ in range(3):
            assert np.array_equal(runner(X), W @ X)


def test_waiting_for_a_block_that_nothing_reads_is_an_error(tmp_path: Path) -> None:
    constant = dot_constant(1, K)
    lone = Block(0, 0, 1, 0, PAGE, 0, False)
    commands: list[Command] = [Wait(0), launch(TILE_DOT, (block(0), given(), result()), (K, 0, 1), 1)]
    waiting = plan(commands, [tensor("x", K)], [tensor("y", 1)], blocks=[lone], constants=[constant])
    with (
        load(write(tmp_path / "w.ullage", waiting, [W[:1]])) as runner,
        pytest.raises(ArtifactError, match="never reads"),
    ):
        runner(X)
