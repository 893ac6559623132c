"""Damaged artifacts: always one of our errors, never a crash, never a run on wrong bytes."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.runtime.handmade import PAGE, ROOT, about, matrix, plan, shared_object, streamed_dot_plan, tensor, write
from ullage.artifact import Artifact
from ullage.artifact.format import FORMAT_VERSION, SECTIONS, Header, Section, encode_header
from ullage.artifact.writer import ArtifactWriter
from ullage.errors import ArtifactError, UllageError
from ullage.plan.tables import round_up
from ullage.runtime.load import load

X = matrix(1, 333, seed=1)[0]
W = matrix(63, 333)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "a.ullage", streamed_dot_plan(63, 333), [W])


def outcome(path: Path) -> str:
    """ "right", or the type of the error."""
    try:
        with load(path) as runner:
            assert np.array_equal(runner(X), W @ X)
            return "right"
    except UllageError as error:
        assert "\n" not in str(error)
        return type(error).__name__


def test_truncation_anywhere(path: Path) -> None:
    data = path.read_bytes()
    with Artifact(path) as artifact:
        ends = [s.end for s in artifact.header.sections.values()] + [
            s.offset for s in artifact.header.sections.values()
        ]
    for length in {0, 1, 100, PAGE - 1, PAGE, *ends, *(end - 1 for end in ends), len(data) - 1} - {len(data)}:
        path.write_bytes(data[:length])
        assert outcome(path) == "ArtifactError"
    path.write_bytes(data + b"\0")
    assert outcome(path) == "ArtifactError"
    path.write_bytes(data)
    assert outcome(path) == "right"


@pytest.mark.parametrize("section", ["header", *SECTIONS])
def test_a_flipped_bit_in_any_section(path: Path, section: str) -> None:
    data = bytearray(path.read_bytes())
    with Artifact(path) as artifact:
        where = artifact.header.sections.get(section)
        used = 63 * 333 * 4 if section == "weights" else where.length if where else 130
        start = where.offset if where else 0
    rng = random.Random(0)
    for place in {start, start + used - 1, *(start + rng.randrange(used) for _ in range(12))}:
        damaged = data.copy()
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert outcome(path) == "ArtifactError", place


def test_another_version_is_named(path: Path) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 8, FORMAT_VERSION + 1)
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=f"format version {FORMAT_VERSION + 1} found, this Ullage reads"):
        load(path)


@pytest.mark.parametrize("field", range(len(SECTIONS) * 2))
def test_absurd_sections_with_right_checksums(path: Path, field: int) -> None:
    """Header fields beyond the file, overlapping or unaligned, in a header that is otherwise whole."""
    with Artifact(path) as artifact:
        header = artifact.header
    page = bytearray(encode_header(header))
    place = 24 + 24 * (field // 2) + 8 * (field % 2)
    (value,) = struct.unpack_from("<Q", page, place)
    for wrong in (value + 1, value ^ 1 << 12, value + (1 << 40), (1 << 64) - 1, (1 << 63) + value, 0):
        changed = page.copy()
        struct.pack_into("<Q", changed, place, wrong)
        struct.pack_into("<I", changed, 24 + 24 * len(SECTIONS), zlib.crc32(changed[: 24 + 24 * len(SECTIONS)]))
        with path.open("r+b") as file:
            file.write(changed)
        if SECTIONS[field // 2] not in ("weights", "plans"):
            assert outcome(path) == "ArtifactError"
        else:
            assert outcome(path) in ("ArtifactError", "right")


def with_plan(path: Path, text: bytes, **changes: object) -> None:
    """Put other bytes in the place of the only plan, and change the manifest, with all checksums right."""
    with Artifact(path) as artifact:
        header, manifest = artifact.header, artifact.manifest
    entry = msgspec.structs.replace(manifest.plans[0], length=len(text), crc=zlib.crc32(text))
    told = msgspec.structs.replace(manifest.about, **changes)
    content = msgspec.msgpack.encode(msgspec.structs.replace(manifest, about=told, plans=(entry,)))
    start = header.sections["plans"].offset
    plans = Section(start, len(text), zlib.crc32(text))
    last = Section(round_up(start + len(text), PAGE), len(content), zlib.crc32(content))
    total = round_up(last.end, PAGE)
    sections = {**header.sections, "plans": plans, "manifest": last}
    with path.open("r+b") as file:
        file.truncate(start)
        file.truncate(total)
        for offset, data in ((0, encode_header(Header(total, sections))), (start, text), (last.offset, content)):
            file.seek(offset)
            file.write(data)


def mutations(tree: Any, rng: random.Random) -> Any:
    """The tree with one of its leaves replaced by something absurd."""
    leaves: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in list(items):
            collect(value) if isinstance(value, dict | list) and value else leaves.append((node, key))

    collect(tree)
    node, key = leaves[rng.randrange(len(leaves))]
    old = node[key]
    numbers = [0, -1, 1, 7, 63, 4096, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]
    if isinstance(old, int) and not isinstance(old, bool):
        numbers += [old + 1, old - 1, old * 2, old + 4096, old - 4096]
    node[key] = rng.choice([*numbers, "n", "+", "//", "x" * 300, [], None, 1.5])
    return tree


FUZZ = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import msgspec
from tests.artifact.test_corruption import load, mutations, with_plan
from ullage.artifact import Artifact
from ullage.errors import UllageError
rng, path, seen = random.Random(int(sys.argv[3])), Path(sys.argv[2]), {}
with Artifact(path) as artifact:
    clean = msgspec.msgpack.encode(artifact.plan(0))
for _ in range(int(sys.argv[4])):
    with_plan(path, msgspec.msgpack.encode(mutations(msgspec.msgpack.decode(clean), rng)))
    try:
        load(path).close()
        result = "taken"
    except UllageError as error:
        result = type(error).__name__
    seen[result] = seen.get(result, 0) + 1
print(seen)
"""


def test_absurd_plans_with_right_checksums_never_crash(path: Path) -> None:
    """Loading reads blocks and fills tables; what a launch's own numbers mean is proved when the plan is made."""
    command = [sys.executable, "-c", FUZZ, str(ROOT), str(path), "0", "400"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "ArtifactError" in done.stdout and "taken" in done.stdout


def test_another_machine_is_named(path: Path) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"cpu_features": ("sse2", "avx99")}, "this machine lacks avx99"),
        ({"target": "cuda:sm_90"}, "made for cuda:sm_90"),
    ]
    for changes, message in cases:
        with_plan(path, msgspec.msgpack.encode(streamed_dot_plan(63, 333)), **changes)
        with pytest.raises(ArtifactError, match=message):
            load(path)


def test_code_that_is_none(tmp_path: Path) -> None:
    made = plan([], [], [tensor("y", 1)])
    for code in (b"", b"\x7fELF\x02\x01" + bytes(58), shared_object()[:2000], b"MZ" * 500):
        with ArtifactWriter(tmp_path / "a.ullage", lambda data: 0) as writer:
            writer.finish(about(), [made], code)
        with pytest.raises(ArtifactError, match="code"):
            load(tmp_path / "a.ullage")


def check(action: Callable[[], object]) -> str:
    try:
        action()
    except ArtifactError:
        return "refused"
    return "taken"


def test_garbage_in_place_of_the_manifest(path: Path) -> None:
    with Artifact(path) as artifact:
        header = artifact.header
    section = header.sections["manifest"]
    rng = random.Random(1)
    for content in (
        rng.randbytes(section.length),
        b"\x91" * section.length,
        bytes(section.length),
        b"\xc1" * section.length,
    ):
        crc = zlib.crc32(content)
        sections = {**header.sections, "manifest": type(section)(section.offset, section.length, crc)}
        with path.open("r+b") as file:
            file.write(encode_header(type(header)(header.total_bytes, sections)))
            file.seek(section.offset)
            file.write(content)
        assert check(lambda: load(path)) == "refused"
