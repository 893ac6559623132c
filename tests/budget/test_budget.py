"""Budgets as users write them, and what the machine leaves free."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ullage import cgroups
from ullage.budget import Budget, format_bytes, free_bytes, limit_bytes, parse_budget, parse_bytes
from ullage.errors import InputError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (4096, 4096), ("4096", 4096), ("24MiB", 24 << 20), ("1.5GiB", 3 << 29), ("1.5 gib", 3 << 29),
        ("512k", 512 << 10), ("10MB", 10_000_000), ("2GB", 2_000_000_000), ("100 B", 100), (".5KiB", 512),
        ("1TiB", 1 << 40),
    ],
)  # fmt: skip
def test_numbers_with_units(text: int | str, count: int) -> None:
    assert parse_bytes(text) == count
    assert parse_budget(text) == Budget(ram=count)
    assert parse_budget(text, "cuda") == Budget(device=count)


@pytest.mark.parametrize("wrong", ["", "MiB", "12 parsecs", "1e6", "-5", "1,5GiB", True, 1.5, None])
def test_anything_else_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="budget"):
        parse_bytes(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0, -1])
def test_budgets_are_positive(wrong: int) -> None:
    with pytest.raises(InputError, match="positive"):
        parse_budget(wrong)
    with pytest.raises(InputError, match="disk"):
        Budget(disk=wrong)


def test_a_budget_object_is_taken_as_it_is() -> None:
    both = Budget(ram=5, device=7)
    assert parse_budget(both) is both
    assert both.of("cpu") == 5 and both.of("cuda") == 7


def test_bytes_for_people() -> None:
    wanted = {
        0: "0 bytes",
        1023: "1023 bytes",
        1024: "1 KiB",
        24 << 20: "24 MiB",
        3 << 29: "1.5 GiB",
        5 << 41: "10 TiB",
    }
    assert {count: format_bytes(count) for count in wanted} == wanted


def meminfo() -> int:
    found = re.search(r"MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_auto_is_what_is_left_here() -> None:
    assert 0 < free_bytes() <= meminfo()
    automatic = parse_budget("auto").ram
    assert automatic is not None and 0 < automatic <= meminfo()


def fake_machine(root: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], groups: str) -> None:
    """A /sys/fs/cgroup of these files, and a process in these groups."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    own = root / "own-groups"
    own.write_text(groups)
    monkeypatch.setattr(cgroups, "_ROOT", root)
    monkeypatch.setattr(cgroups, "_OWN_GROUPS", own)


def test_the_tightest_group_of_version_2_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "cgroup.controllers": "memory",
        "a/memory.max": f"{100 << 20}",
        "a/memory.current": f"{60 << 20}",
        "a/memory.stat": f"anon 1\ninactive_file {10 << 20}\n",
        "a/b/memory.max": "max",
        "a/b/memory.current": "5",
    }
    fake_machine(tmp_path, monkeypatch, files, "0::/a/b\n")
    assert limit_bytes() == 100 << 20
    assert free_bytes() == 50 << 20


def test_the_tightest_group_of_version_1_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "memory/memory.limit_in_bytes": str((1 << 63) - 4096),
        "memory/memory.usage_in_bytes": "1",
        "memory/job/memory.limit_in_bytes": f"{64 << 20}",
        "memory/job/memory.usage_in_bytes": f"{32 << 20}",
        "memory/job/memory.stat": f"inactive_file 0\ntotal_inactive_file {1 << 20}\n",
    }
    fake_machine(tmp_path, monkeypatch, files, "9:cpu:/job\n4:memory:/job\n")
    assert limit_bytes() == 64 << 20
    assert free_bytes() == 33 << 20


def test_without_a_limit_the_machine_is_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(tmp_path, monkeypatch, {}, "")
    assert limit_bytes() is None
    assert free_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
