"""The native executor on its own: checksums, the thread pool, and the sanitizers' opinion."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.machines import AARCH64, HOST, Machine
from tests.runtime.handmade import (
    COUNT_TASKS,
    NATIVE,
    PAGE,
    launch,
    plan,
    result,
    shared_object,
    tensor,
    write,
)
from ullage.errors import ArtifactError
from ullage.runtime.library import Library
from ullage.runtime.load import load


@pytest.fixture(scope="module")
def library() -> Iterator[Library]:
    loaded = Library(shared_object())
    yield loaded
    loaded.close()


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c_of_published_vectors(library: Library, data: bytes, crc: int) -> None:
    assert library.crc32c(data) == library.crc32c(bytearray(data)) == library.crc32c(memoryview(data)) == crc


def test_crc32c_with_and_without_the_instruction(library: Library) -> None:
    by_table = library._native.ull_crc32c_table
    by_table.restype = ctypes.c_uint
    rng = np.random.default_rng(0)
    for length in (*range(20), 1000, 4095):
        data = rng.bytes(length)
        assert by_table(data, ctypes.c_long(length)) == library.crc32c(data)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rounds", [0, 300])
def test_every_task_runs_exactly_once(tmp_path: Path, threads: int, rounds: int) -> None:
    counts = [1, 2, 3, 5, 64, 1000, 40_000]
    outputs = [tensor(f"t{n}", n, dtype="int32") for n in counts]
    repeats = 20 if rounds == 0 else 2
    commands = [
        launch(COUNT_TASKS, (result(index),), (rounds,), tasks, thread_stride=64)
        for _ in range(repeats)
        for index, tasks in enumerate(counts)
    ]
    made = plan(commands, [], outputs, arena_bytes=PAGE, threads=threads)
    with load(write(tmp_path / "count.ullage", made)) as runner:
        results = runner()
        assert all((counted == repeats).all() for counted in results)


def test_code_loads_where_memory_files_are_forbidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def forbidden(name: str, flags: int = 0) -> int:
        raise PermissionError("forbidden")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    loaded = Library(shared_object())
    assert loaded.crc32c(b"123456789") == 0xE3069283 and len(loaded.kernels()) == 4
    assert list(tmp_path.iterdir()) == []
    loaded.close()


def test_code_of_another_processor_is_refused() -> None:
    """By its name: the ELF header's field for the machine, at byte 18."""
    code = bytearray(shared_object())
    code[18:20] = (183 if code[18] == 62 else 62).to_bytes(2, "little")
    with pytest.raises(ArtifactError, match=r"made for (x86_64|aarch64), this machine is"):
        Library(bytes(code))


def driven(folder: Path, machine: Machine, flags: Sequence[str] = ()) -> tuple[int, str]:
    """Exit code and complaints of the driver of the executor, built with more flags, run on a machine."""
    program = folder / "driver"
    sources = [*NATIVE.glob("*.cpp"), Path(__file__).with_name("native_driver.cpp")]
    machine.build(program, sources, ["-g", "-O1", "-fno-exceptions", "-fno-rtti", *flags, f"-I{NATIVE}"])
    done = machine.run(program, [str(folder / "data.bin")], timeout_s=240)
    return done.returncode, done.stderr


@pytest.mark.skipif(bool(HOST.missing), reason=HOST.missing)
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_the_executor_under_sanitizers(tmp_path: Path, sanitizers: str) -> None:
    assert driven(tmp_path, HOST, [f"-fsanitize={sanitizers}"]) == (0, "")


@pytest.mark.skipif(bool(HOST.missing), reason=HOST.missing)
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is missing")
def test_the_executor_under_valgrind(tmp_path: Path) -> None:
    leaks = ("--leak-check=full", "--show-leak-kinds=all", "--errors-for-leak-kinds=all", "--error-exitcode=1")
    assert driven(tmp_path, replace(HOST, emulator=("valgrind", "-q", "--fair-sched=yes", *leaks))) == (0, "")


@pytest.mark.skipif(bool(AARCH64.missing), reason=AARCH64.missing)
def test_the_executor_on_aarch64(tmp_path: Path) -> None:
    """Built without a warning, optimized and not; the driver streams, gathers, fails and recovers."""
    for level in ("-O0", "-O2"):
        assert driven(tmp_path, AARCH64, [level]) == (0, "")


def test_the_shared_object_needs_only_the_c_library(tmp_path: Path) -> None:
    code = tmp_path / "code.so"
    code.write_bytes(shared_object())
    needed = subprocess.run(["readelf", "-d", str(code)], capture_output=True, text=True, check=True).stdout
    assert [line.split("[")[1] for line in needed.splitlines() if "NEEDED" in line] == ["libc.so.6]"]
