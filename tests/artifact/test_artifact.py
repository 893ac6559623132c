"""Writing and reading artifacts: what is told of them, and how a write fails."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.runtime.handmade import (
    PAGE,
    about,
    dot_constant,
    dynamic_plan,
    matrix,
    resident_dot_plan,
    shared_object,
    streamed_dot_plan,
    table_constant,
    twice_plan,
    write,
)
from ullage.artifact import Artifact, ArtifactWriter, Rewrite, inspect, read_manifest
from ullage.artifact.manifest import About
from ullage.errors import ArtifactError, UllageError
from ullage.plan.plan import ConstantInfo


def crc(data: object) -> int:
    return len(memoryview(data)) if isinstance(data, bytes | bytearray | memoryview) else -1


def test_what_is_written_is_read(tmp_path: Path) -> None:
    plans = sorted((resident_dot_plan(63, 333), streamed_dot_plan(63, 333)), key=lambda p: p.peak_bytes)
    path = write(tmp_path / "a.ullage", plans, [matrix(63, 333)])
    with Artifact(path) as artifact:
        assert [artifact.plan(0), artifact.plan(1)] == plans
        assert artifact.code() == shared_object()
        assert len(artifact.checksums()) == 4 * 63
        assert artifact.manifest.default == 1
        assert artifact.weights.offset % PAGE == artifact.weights.length % PAGE == 0
    start = artifact.weights.offset
    assert path.read_bytes()[start : start + 63 * 333 * 4] == matrix(63, 333).tobytes()


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "a.ullage", resident_dot_plan(), [matrix(64, 333)])
    second = write(tmp_path / "b.ullage", resident_dot_plan(), [matrix(64, 333)])
    assert first.read_bytes() == second.read_bytes()


def test_the_document_of_inspect(tmp_path: Path) -> None:
    plan = dynamic_plan(5000)
    path = tmp_path / "a.ullage"
    told: About = about(accuracy=0.01, rewrites=(Rewrite("quantize", "int8", "layer 1", 0.002),))
    with ArtifactWriter(path, crc) as writer:
        writer.finish(told, [plan], shared_object())
    document = inspect(path)
    assert document == json.loads(json.dumps(document))
    wanted = (
        "format_version ullage_version target accuracy inputs outputs entry_points budget_bytes peak_bytes "
        "minimum_bytes resident_bytes streamed_bytes_per_run weight_bytes file_bytes runtime_overhead_bytes "
        "predicted_seconds kernels rewrites requires"
    )
    assert set(wanted.split()) <= set(document)
    assert document["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n"]}]
    assert document["file_bytes"] == path.stat().st_size and document["accuracy"] == 0.01
    assert document["rewrites"] == [{"pass": "quantize", "what": "int8", "where": "layer 1", "error": 0.002}]
    assert document["peak_bytes"] == {"ram": plan.peak_bytes} and document["requires"] == []
    assert read_manifest(path).about == told


def test_constants_may_be_written_in_the_order_of_the_file(tmp_path: Path) -> None:
    first, second = ConstantInfo("late", 2, 64, 64, PAGE), ConstantInfo("early", 3, 32, 32, 0)
    plan = twice_plan()
    fields = {name: getattr(plan, name) for name in plan.__struct_fields__}
    plan = type(plan)(**{**fields, "constants": (first, second)})
    with ArtifactWriter(tmp_path / "a.ullage", lambda data: len(data) * 1000 + data[0]) as writer:
        writer.add_constant(second, [bytes([n]) * 32 for n in range(3)])
        writer.add_constant(first, [bytes([n]) * 64 for n in range(2)])
        writer.finish(about(), [plan], shared_object())
    with Artifact(tmp_path / "a.ullage") as artifact:
        checksums = np.frombuffer(artifact.checksums(), np.uint32)
    assert checksums.tolist() == [64000, 64001, 32000, 32001, 32002]


def test_rows_of_gathered_tables_carry_their_checksum(tmp_path: Path) -> None:
    info = table_constant(3, 20)
    plan = twice_plan()
    fields = {name: getattr(plan, name) for name in plan.__struct_fields__}
    with ArtifactWriter(tmp_path / "a.ullage", crc) as writer:
        writer.add_constant(info, [bytes([n]) * 20 for n in range(1, 4)])
        writer.finish(about(), [type(plan)(**{**fields, "constants": (info,)})], shared_object())
    with Artifact(tmp_path / "a.ullage") as artifact:
        rows = (tmp_path / "a.ullage").read_bytes()[artifact.weights.offset :][: 3 * info.tile_stride]
        assert artifact.checksums() == b""
    row = b"\x02" * 20 + (20).to_bytes(4, "little") + bytes(8)
    assert rows[info.tile_stride : 2 * info.tile_stride] == row


@pytest.mark.parametrize(
    ("info", "tiles", "message"),
    [
        (dot_constant(3, 16), [bytes(64)] * 2, "constant w: 3 tiles wanted, 2 found"),
        (dot_constant(3, 16), [bytes(64)] * 4, "constant w: 3 tiles wanted, more found"),
        (dot_constant(3, 16), [bytes(60)] * 3, "constant w: tiles of 64 bytes wanted, 60 found"),
        (dot_constant(3, 16), [bytes(128)] * 2, "constant w: 3 tiles wanted, more found"),
        (dot_constant(3, 16), [bytes(192), b""], "constant w: tiles of 64 bytes wanted, 0 found"),
        (dot_constant(3, 16, 100), [bytes(64)] * 3, "constant w at 100: not aligned"),
        (ConstantInfo("w", 2, 64, 60, 0), [bytes(64)] * 2, "tiles of 64 bytes overlap at 60"),
    ],
)
def test_constants_that_do_not_fit_their_description(
    tmp_path: Path, info: ConstantInfo, tiles: list[bytes], message: str
) -> None:
    with pytest.raises(UllageError, match=message), ArtifactWriter(tmp_path / "a.ullage", crc) as writer:
        writer.add_constant(info, tiles)
    assert list(tmp_path.iterdir()) == []


def test_plans_that_do_not_belong_together(tmp_path: Path) -> None:
    small, large = twice_plan(threads=1), twice_plan(threads=2)
    for plans in ([], [twice_plan(1000), twice_plan(999)], [large, small], [resident_dot_plan()]):
        with pytest.raises(UllageError), ArtifactWriter(tmp_path / "a.ullage", crc) as writer:
            writer.finish(about(), plans, shared_object())
    assert list(tmp_path.iterdir()) == []


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Stands in for a full disk: writing beyond the limit fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0.0, 0.04, 0.5, 0.99])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.ullage"
    made = resident_dot_plan()
    code = shared_object()
    with ArtifactWriter(path, crc) as writer:
        writer.add_constant(made.constants[0], (row.tobytes() for row in matrix(64, 333)))
        writer.finish(about(), [made], code)
    limit = int(share * path.stat().st_size)
    path.write_bytes(b"old")
    with file_size_limit(limit), pytest.raises(UllageError, match="cannot write"), ArtifactWriter(path, crc) as writer:
        writer.add_constant(made.constants[0], (row.tobytes() for row in matrix(64, 333)))
        writer.finish(about(), [made], code)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ullage"] and path.read_bytes() == b"old"


def test_a_failing_source_of_tiles_leaves_nothing(tmp_path: Path) -> None:
    def tiles() -> Iterator[bytes]:
        yield bytes(64)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ArtifactWriter(tmp_path / "a.ullage", crc) as writer:
        writer.add_constant(dot_constant(3, 16), tiles())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["missing/a.ullage", "folder"])
def test_places_that_cannot_be_written(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UllageError, match="cannot write"):
        write(tmp_path / path, twice_plan())
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_things_that_are_no_artifacts(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello " * 2000)
    os.mkfifo(tmp_path / "fifo")
    cases = {
        "absent": "cannot be opened",
        "empty": "0 bytes found",
        "text": "signature",
        "fifo": "regular",
        "": "regular",
    }
    for name, message in cases.items():
        with pytest.raises(ArtifactError, match=message):
            read_manifest(tmp_path / name)


def test_the_manifest_is_strictly_typed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ullage", twice_plan())
    manifest = msgspec.to_builtins(read_manifest(path))
    manifest["weight_bytes"] = "many"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(manifest, type(read_manifest(path)))


@pytest.mark.parametrize("gathered", [False, True])
def test_tiles_may_come_in_runs(tmp_path: Path, gathered: bool) -> None:
    info = table_constant(7, 20) if gathered else ConstantInfo("w", 7, 64, 64, 0)
    fields = {name: getattr(twice_plan(), name) for name in twice_plan().__struct_fields__}
    plan = type(twice_plan())(**{**fields, "constants": (info,)})
    data = bytes(range(7 * info.tile_bytes)) if gathered else bytes(range(64)) * 7
    written = []
    for name, lengths in (("one", [1] * 7), ("runs", [4, 2, 1]), ("all", [7])):
        ends = [sum(lengths[: i + 1]) * info.tile_bytes for i in range(len(lengths))]
        runs = [data[end - length * info.tile_bytes : end] for end, length in zip(ends, lengths, strict=True)]
        with ArtifactWriter(tmp_path / name, lambda tile: sum(memoryview(tile))) as writer:
            writer.add_constant(info, runs)
            writer.finish(about(), [plan], shared_object())
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1] == written[2]
