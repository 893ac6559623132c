"""The control groups of this process, of version 1 or 2: what containers and batch systems limit it by."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def group_folders(controller: str) -> list[Path]:
    """The folders of this process's group under a controller and of all groups above it, as far as they are visible."""
    folders: list[Path] = []
    lines = (line.split(":", 2) for line in _text(_OWN_GROUPS).splitlines() if line.count(":") >= 2)
    for _, controllers, path in lines:
        if controllers == "" and (_ROOT / "cgroup.controllers").exists():
            folders += _upward(_ROOT, path)
        if controller in controllers.split(","):
            folders += _upward(_ROOT / controller, path)
    return folders


def _upward(root: Path, path: str) -> list[Path]:
    """`root/path` and its parents down to the root; in a namespace the path may not exist, the root then stands in."""
    folder = root / path.lstrip("/")
    chain = [folder, *folder.parents]
    return [f for f in chain[: chain.index(root) + 1] if f.is_dir()]


def cpu_quota() -> float | None:
    """CPUs' worth of time that the tightest of this process's groups allows, such as 1.5; None without a limit."""
    quotas = [_quota(folder) for folder in group_folders("cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(folder: Path) -> float | None:
    """Quota / period of one group; None where there is no limit or the files make no sense."""
    words = _text(folder / "cpu.max").split() or [
        _text(folder / "cpu.cfs_quota_us").strip(),
        _text(folder / "cpu.cfs_period_us").strip(),
    ]
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return None
    quota_us, period_us = map(int, words)
    return quota_us / period_us if quota_us and period_us else None


def _text(path: Path) -> str:
    """A file's text; empty where it does not exist or cannot be read, as groups may vanish at any time."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
