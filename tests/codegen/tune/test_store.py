"""Choices on disk: kept by machine, read with suspicion, written whole or not at all."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ullage.codegen.cpp.toolchain import Compiler
from ullage.codegen.tiling import DepthwiseTiling, Tiling
from ullage.codegen.tune.store import Choice, Signature, Store
from ullage.target import Target

HERE = Signature.of("a processor", 2, Target("cpu", "avx2", 2), Compiler(("g++",), "g++ 12"))
DENSE = Choice(Tiling(block_rows=32, prefetch=True), 0.91, 5, 1e-3)
DEPTHWISE = Choice(DepthwiseTiling(block_vectors=1), 0.8, 7, 2e-5)
OWN = Choice(Tiling(), 1.0, 3, 0.0)


def filled(folder: Path) -> Store:
    store = Store.open(HERE, folder)
    for key, choice in {"k_1": DENSE, "k_2 8": DEPTHWISE, "k_3": OWN}.items():
        store.add(key, choice)
    return store


def test_choices_come_back(tmp_path: Path) -> None:
    filled(tmp_path / "new" / "folder")
    assert Store.open(HERE, tmp_path / "new" / "folder").choices == {"k_1": DENSE, "k_2 8": DEPTHWISE, "k_3": OWN}


def test_nothing_but_the_file_is_left(tmp_path: Path) -> None:
    assert [p.name for p in tmp_path.iterdir()] == [filled(tmp_path).signature.name][:0]
    filled(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [HERE.name]


@pytest.mark.parametrize(
    "other",
    [
        replace(HERE, cpu="another"),
        replace(HERE, cores=4),
        replace(HERE, threads=1),
        replace(HERE, compiler="g++ 13"),
        replace(HERE, target="cpu:generic"),
        replace(HERE, sources="changed"),
    ],
    ids=["cpu", "cores", "threads", "compiler", "target", "sources"],
)
def test_another_machine_knows_nothing(other: Signature, tmp_path: Path) -> None:
    filled(tmp_path)
    assert Store.open(other, tmp_path).choices == {}


def test_choices_of_other_processes_stay(tmp_path: Path) -> None:
    first, second = Store.open(HERE, tmp_path), Store.open(HERE, tmp_path)
    first.add("k_1", DENSE)
    second.add("k_3", OWN)
    assert set(Store.open(HERE, tmp_path).choices) == {"k_1", "k_3"}


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    return edit


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "binary": lambda data: bytes(range(256)),
    "a list": lambda data: b"[1, 2]",
    "a number": lambda data: b"7",
    "deep": lambda data: b"[" * 100_000,
    "older format": edited(lambda d: d.update(format=0)),
    "foreign": edited(lambda d: d["machine"].update(cpu="another")),
    "no choices": edited(lambda d: d.pop("choices")),
    "unknown kind": edited(lambda d: d["choices"]["k_1"].update(kind="sparse")),
    "rows out of range": edited(lambda d: d["choices"]["k_1"]["tiling"].update(rows=9)),
    "rows of text": edited(lambda d: d["choices"]["k_1"]["tiling"].update(rows="8")),
    "no tiling": edited(lambda d: d["choices"]["k_2 8"].pop("tiling")),
    "vectors below one": edited(lambda d: d["choices"]["k_2 8"]["tiling"].update(block_vectors=0)),
    "no seconds": edited(lambda d: d["choices"]["k_1"].pop("own_seconds")),
    "ratio": edited(lambda d: d["choices"]["k_1"].update(ratio=-1)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_file_that_is_no_such_is_ignored_with_a_warning_and_written_anew(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = filled(tmp_path).path
    assert path is not None
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="written anew"):
        store = Store.open(HERE, tmp_path)
    assert store.choices == {}
    with pytest.warns(UserWarning, match="written anew"):
        store.add("k_1", DENSE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Store.open(HERE, tmp_path).choices == {"k_1": DENSE}


def test_a_folder_that_cannot_be_written_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store.open(HERE, tmp_path / "file" / "folder")
    with pytest.warns(UserWarning, match="not kept"):
        store.add("k_1", DENSE)
    assert store.choices == {"k_1": DENSE}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.warns(UserWarning, match="not kept"):
        store.add("k_9", OWN)
    assert [p.name for p in tmp_path.iterdir()] == [HERE.name]
    assert set(Store.open(HERE, tmp_path).choices) == {"k_1", "k_2 8", "k_3"}
