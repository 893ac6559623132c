"""What code is made for: a CPU instruction set or a GPU architecture, and how many threads run it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ullage.errors import InputError

_ISA_LANES = {"avx512": 16, "avx2": 8, "generic": 4}
_ISA_FLAGS = {
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mavx2", "-mf16c", "-mbmi2"),
    "avx2": ("-mavx2", "-mfma", "-mf16c", "-mbmi2"),
    "generic": (),
}
_ISA_NEEDS = {
    "avx512": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma", "f16c", "bmi2"}),
    "avx2": frozenset({"avx2", "fma", "f16c", "bmi2"}),
    "generic": frozenset(),
}


@dataclass(frozen=True, slots=True)
class Target:
    """`kind` is "cpu" or "cuda"; `isa` is avx512, avx2 or generic on CPUs and sm_NN on GPUs."""

    kind: str
    isa: str
    threads: int

    @property
    def lanes(self) -> int:
        """float32 lanes of one vector register."""
        return _ISA_LANES[self.isa]

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector register."""
        return 4 * self.lanes

    @property
    def panel_width(self) -> int:
        """Outputs per packed GEMM panel: three vector registers (two where there are only 16 registers)."""
        return self.lanes * (3 if self.isa == "avx512" else 2)

    @property
    def compiler_flags(self) -> tuple[str, ...]:
        """g++ flags that switch the instruction set on."""
        return _ISA_FLAGS[self.isa]

    @property
    def cpu_features(self) -> frozenset[str]:
        """Names from /proc/cpuinfo that a machine must list to run the code."""
        return _ISA_NEEDS[self.isa]

    def __str__(self) -> str:
        return f"{self.kind}:{self.isa}"

    @staticmethod
    def parse(text: str, threads: int | None = None) -> Target:
        """Read `cpu`, `cpu:avx2`, `cpu:generic`, `cuda` or `cuda:sm_90`; raises InputError for anything else."""
        count = threads if threads is not None else available_threads()
        if count < 1:
            raise InputError(f"threads must be at least 1, found {count}.")
        kind, _, isa = text.partition(":")
        if kind == "cpu" and (isa or best_isa()) in _ISA_LANES:
            return Target("cpu", isa or best_isa(), count)
        if kind == "cuda" and (not isa or re.fullmatch(r"sm_\d+a?", isa)):
            return Target("cuda", isa or "sm_90", count)
        raise InputError(f"unknown target {text!r}; use cpu, cpu:avx512, cpu:avx2, cpu:generic, cuda or cuda:sm_NN.")

    def with_threads(self, threads: int) -> Target:
        """The same target run by another number of threads."""
        return replace(self, threads=threads)


def host_features() -> frozenset[str]:
    """The CPU flags that this machine lists (empty where /proc/cpuinfo does not exist)."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    match = re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


def best_isa() -> str:
    """The widest instruction set that both Ullage and this machine know."""
    features = host_features()
    return next(isa for isa in ("avx512", "avx2", "generic") if _ISA_NEEDS[isa] <= features)


def available_threads() -> int:
    """Threads worth using: the CPU affinity, cut to the cgroup's CPU quota (rounded up)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _cgroup_cpu_quota()
    return max(1, cores if quota is None else min(cores, -int(-quota // 1)))


def _cgroup_cpu_quota() -> float | None:
    v2 = Path("/sys/fs/cgroup/cpu.max")
    if v2.exists():
        limit, period = v2.read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    v1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    if v1.exists() and (limit_us := int(v1.read_text())) > 0:
        return limit_us / int((v1.parent / "cpu.cfs_period_us").read_text())
    return None
