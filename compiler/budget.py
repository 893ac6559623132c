"""Budgets: what a user may write, in bytes per tier, and what the machine leaves free."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ullage.cgroups import group_folders
from ullage.errors import InputError

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that a compiled model may hold in each tier; None leaves a tier unlimited."""

    ram: int | None = None
    device: int | None = None
    disk: int | None = None

    def __post_init__(self) -> None:
        for tier in ("ram", "device", "disk"):
            value = getattr(self, tier)
            if value is not None and value <= 0:
                raise InputError(f"budget {tier}={value}: a positive number of bytes is wanted.")

    def of(self, kind: str) -> int | None:
        """The budget of the memory that a target of this kind ("cpu" or "cuda") computes from."""
        return self.device if kind == "cuda" else self.ram


def parse_bytes(value: int | str) -> int:
    """Bytes from an int or from text such as `24MiB`, `1.5GiB`, `512k`; InputError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _TEXT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match.group(2).lower() not in _UNITS:
        raise InputError(f"budget {value!r}: bytes, a text such as '24MiB' or '1.5GiB', or 'auto' wanted.")
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()])


def parse_budget(value: int | str | Budget, kind: str = "cpu") -> Budget:
    """A budget from what a user wrote; a number means the memory that the target computes from ("cpu" or "cuda")."""
    if isinstance(value, Budget):
        return value
    if value == "auto" and kind == "cpu":
        return Budget(ram=free_bytes())
    if value == "auto":
        raise InputError("budget 'auto' needs the device's free memory; give bytes or ullage.Budget(device=...).")
    count = parse_bytes(value)
    return Budget(device=count) if kind == "cuda" else Budget(ram=count)


def format_bytes(count: int) -> str:
    """Bytes with the largest binary unit that leaves at least one, such as `24 MiB` or `1.5 GiB`."""
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.4g} {unit}" if unit != "bytes" else f"{count} bytes"


def free_bytes() -> int:
    """Bytes of RAM that this process may still take: what the machine has available, cut by every memory cgroup."""
    free = [_available_bytes(), *(_cgroup_free(folder) for folder in group_folders("memory"))]
    return max(1, min(value for value in free if value is not None))


def limit_bytes() -> int | None:
    """The least limit of the memory cgroups that this process is in; None without one."""
    limits = [_cgroup_limit(folder) for folder in group_folders("memory")]
    return min((value for value in limits if value is not None), default=None)


def _available_bytes() -> int:
    text = Path("/proc/meminfo").read_text()
    match = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)
    if match is None:
        raise InputError("budget 'auto': this system does not tell its available memory; give bytes.")
    return int(match.group(1)) * 1024


def _cgroup_free(folder: Path) -> int | None:
    """Limit − usage + page cache that the kernel can drop; None without a limit."""
    limit = _cgroup_limit(folder)
    usage = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
    if limit is None or usage is None:
        return None
    stat = folder / "memory.stat"
    text = stat.read_text() if stat.exists() else ""
    droppable = max((int(n) for n in re.findall(r"^(?:total_)?inactive_file (\d+)", text, re.MULTILINE)), default=0)
    return max(0, limit - usage + droppable)


def _cgroup_limit(folder: Path) -> int | None:
    limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
    return None if limit is None or limit >= 1 << 60 else limit


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdigit() else None
