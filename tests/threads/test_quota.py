"""The CPU quota of control groups: read from every level of either version, and kept to by the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ullage import cgroups, target
from ullage.cgroups import cpu_quota, group_folders
from ullage.target import available_threads

V1 = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty /sys/fs/cgroup of this process alone, which is in no group yet."""
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "_OWN_GROUPS", tmp_path / "own-groups")
    return tmp_path


def fill(root: Path, groups: str, files: dict[str, str]) -> None:
    """Put the process in these groups and write these files."""
    for name, text in {"own-groups": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def v2(root: Path, path: str, **quotas: str) -> None:
    """Version 2: a text of `cpu.max` by group, `_` standing for the slash; the root has none, as in reality."""
    files = {f"{group.replace('_', '/')}/cpu.max": text for group, text in quotas.items()}
    fill(root, f"0::{path}\n", {"cgroup.controllers": "cpuset cpu memory\n", **files})


def v1(root: Path, path: str, **quotas: tuple[str, str]) -> None:
    """Version 1: quota and period in µs by group, `_` standing for the slash."""
    files = {}
    for group, (quota, period) in quotas.items():
        files[f"cpu/{group.replace('_', '/')}/cpu.cfs_quota_us"] = quota
        files[f"cpu/{group.replace('_', '/')}/cpu.cfs_period_us"] = period
    fill(root, f"4:memory:/elsewhere\n2:cpu,cpuacct:{path}\n0::/\n", files)


def test_the_own_group_of_version_2(root: Path) -> None:
    v2(root, "/job", job="150000 100000\n")
    assert cpu_quota() == 1.5


def test_the_tightest_group_of_version_2_counts(root: Path) -> None:
    v2(root, "/a/b/c", a="300000 100000\n", a_b="50000 20000\n", a_b_c="max 100000\n", a_x="1000 100000\n")
    assert cpu_quota() == 2.5


def test_the_own_group_of_version_1(root: Path) -> None:
    v1(root, "/job", job=("25000\n", "50000\n"))
    assert cpu_quota() == 0.5


def test_the_tightest_group_of_version_1_counts(root: Path) -> None:
    v1(root, "/a/b", a=("200000\n", "100000\n"), a_b=("-1\n", "100000\n"))
    assert cpu_quota() == 2.0


def test_a_namespace_shows_the_own_group_as_the_root(root: Path) -> None:
    fill(root, "0::/\n", {"cgroup.controllers": "cpu", "cpu.max": "100000 100000\n"})
    assert cpu_quota() == 1.0
    (root / "own-groups").write_text("0::/../../outside\n")
    assert cpu_quota() == 1.0


def test_a_container_of_version_1_sees_its_group_in_place_of_the_root(root: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    fill(root, "2:cpu,cpuacct:/docker/0123abc\n", files)
    assert cpu_quota() == 4.0


@pytest.mark.parametrize("text", ["max 100000\n", "max\n", "", "100000\n", "-1 100000\n", "1 0\n", "0 1\n", "a b c\n"])
def test_what_is_no_limit_or_makes_no_sense_is_none(root: Path, text: str) -> None:
    v2(root, "/job", job=text)
    assert cpu_quota() is None


@pytest.mark.parametrize("pair", [("-1\n", "100000\n"), ("\n", "100000\n"), ("x", "y"), ("1000\n", "0\n")])
def test_version_1_alike(root: Path, pair: tuple[str, str]) -> None:
    v1(root, "/job", job=pair)
    assert cpu_quota() is None


def test_malformed_lists_of_groups_and_unreadable_files_are_passed_over(root: Path) -> None:
    assert cpu_quota() is None and group_folders("cpu") == []
    v2(root, "/job", job="150000 100000\n")
    (root / "own-groups").write_text("nonsense\n\n7:cpu\n0::/job\n")
    assert cpu_quota() == 1.5
    (root / "job" / "cpu.max").write_bytes(b"\xff\xfe")
    assert cpu_quota() is None
    (root / "job" / "cpu.max").unlink()
    (root / "job" / "cpu.max").mkdir()
    assert cpu_quota() is None


@pytest.mark.parametrize(
    ("cpus", "quota", "threads"),
    [(8, None, 8), (8, 0.1, 1), (8, 1.0, 1), (8, 1.5, 2), (8, 3.0, 3), (2, 3.0, 2), (1, 0.5, 1)],
)
def test_threads_are_the_affinity_cut_to_the_quota_rounded_up(
    monkeypatch: pytest.MonkeyPatch, cpus: int, quota: float | None, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cpus)))
    monkeypatch.setattr(target, "cpu_quota", lambda: quota)
    assert available_threads() == threads


@pytest.fixture
def half_a_cpu() -> Iterator[Path]:
    """A real group with a quota of half a CPU, nested in one without; skips where none can be made."""
    outer = (V2 if (V2 / "cgroup.controllers").exists() else V1) / f"ullage-quota-{os.getpid()}"
    inner = outer / "inner"
    try:
        inner.mkdir(parents=True)
        _limit(outer)
    except OSError as error:
        _remove(inner, outer)
        pytest.skip(f"CPU groups cannot be made here: {error}")
    yield inner
    _remove(inner, outer)


def _limit(group: Path) -> None:
    if (group / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_quota_us").write_text("50000")
    else:
        (group / "cpu.max").write_text("50000 100000")


def _remove(*groups: Path) -> None:
    for group in groups:
        if group.exists():
            group.rmdir()


def test_a_process_in_a_real_group_sees_its_quota(half_a_cpu: Path) -> None:
    code = "from ullage.target import available_threads, cpu_quota; print(cpu_quota(), available_threads())"
    enter = f'echo $$ > {half_a_cpu}/cgroup.procs && exec "$@"'
    command = ["/bin/sh", "-c", enter, "sh", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.5", "1"]
