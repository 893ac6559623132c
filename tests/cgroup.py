"""Run a command in a memory cgroup of its own: a hard limit, the bytes it took, and whether it was killed for them.

The command's page cache, page tables and socket buffers are charged too, as for any container. Needs root (or a
delegated group) and a memory controller, version 1 or 2; `unavailable()` says why not.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_SERIAL = itertools.count()
_SAMPLE_SECONDS = 0.004


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended. `max_bytes` counts all charges with page cache, `max_anonymous_bytes` (sampled) without."""

    returncode: int
    stdout: str
    stderr: str
    max_bytes: int
    max_anonymous_bytes: int
    oom_killed: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class _Group:
    """One cgroup directory and the file names of its version."""

    path: Path
    version: int

    def limit(self, limit_bytes: int) -> None:
        """Forbid more than `limit_bytes`, swap included."""
        if self.version == 2:
            (self.path / "memory.max").write_text(str(limit_bytes))
            if (self.path / "memory.swap.max").exists():
                (self.path / "memory.swap.max").write_text("0")
            return
        (self.path / "memory.limit_in_bytes").write_text(str(limit_bytes))
        if (self.path / "memory.memsw.limit_in_bytes").exists():
            (self.path / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))

    def max_bytes(self) -> int:
        """High-water mark of all charges."""
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        return int((self.path / name).read_text()) if (self.path / name).exists() else 0

    def anonymous_bytes(self) -> int:
        """Anonymous memory charged now."""
        return _counter(self.path / "memory.stat", "anon" if self.version == 2 else "rss")

    def oom_kills(self) -> int:
        """Processes of the group that the kernel killed for memory."""
        return _counter(self.path / ("memory.events" if self.version == 2 else "memory.oom_control"), "oom_kill")


def _counter(path: Path, key: str) -> int:
    pairs = (line.split() for line in path.read_text().splitlines())
    return next((int(pair[1]) for pair in pairs if pair[0] == key), 0)


def _parent() -> tuple[Path, int]:
    """The directory to make groups in, and the version of the memory controller; OSError if there is none."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            own = _ROOT / "memory" / path.strip("/")
            return (own if own.is_dir() else _ROOT / "memory"), 1
    if "memory" in (_ROOT / "cgroup.controllers").read_text().split():
        return _ROOT, 2
    raise OSError("this system has no memory controller")


@contextmanager
def _group() -> Iterator[_Group]:
    parent, version = _parent()
    path = parent / f"ullage-{os.getpid()}-{next(_SERIAL)}"
    path.mkdir()
    try:
        if not (path / ("memory.max" if version == 2 else "memory.limit_in_bytes")).exists():
            raise OSError(f"{parent} does not delegate the memory controller")
        yield _Group(path, version)
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    for _ in range(100):
        try:
            path.rmdir()
            return
        except OSError:
            time.sleep(0.02)


def unavailable() -> str | None:
    """Why memory cgroups cannot be made here, or None if they can."""
    try:
        with _group() as group:
            group.limit(1 << 30)
    except OSError as error:
        return f"memory cgroups cannot be made here: {error}"
    return None


def run_limited(
    command: Sequence[str],
    limit_bytes: int | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_seconds: float = 600,
) -> Outcome:
    """Run `command` in a fresh group; `limit_bytes` None only measures."""
    with _group() as group, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        if limit_bytes is not None:
            group.limit(limit_bytes)
        enter = f'echo $$ > {group.path}/cgroup.procs && exec "$@"'
        start = time.perf_counter()
        child = subprocess.Popen(
            ["/bin/sh", "-c", enter, "sh", *command], stdout=out, stderr=err, env=env, cwd=cwd, start_new_session=True
        )
        peak = _watch(child, group, timeout_seconds)
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        killed = group.oom_kills() > 0
        return Outcome(child.returncode, out.read(), err.read(), group.max_bytes(), peak, killed, seconds)


def _watch(child: subprocess.Popen[bytes], group: _Group, timeout_seconds: float) -> int:
    """Wait for the child while sampling its anonymous memory; kills it at the time limit. The highest sample."""
    peaks, done = [0], threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            peaks.append(max(peaks.pop(), group.anonymous_bytes()))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        child.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    finally:
        done.set()
        sampler.join()
    return peaks[0]
