"""What code is made for: a CPU instruction set or a GPU architecture, and how many threads run it."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ullage.cgroups import cpu_quota
from ullage.errors import InputError

BF16_DOT = "avx512_bf16"
"""The CPU feature of dot products of bfloat16 pairs; kernels that use it say so."""
INT8_DOT = "avx512_vnni"
"""That of dot products of fours of bytes, which CPUs with `BF16_DOT` have, too; likewise."""


@dataclass(frozen=True, slots=True)
class _Isa:
    """An instruction set: float32 lanes, compiler flags, CPU features that all code needs, and that some may."""

    lanes: int
    flags: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()


_DOT_INT8 = "-DULL_DOT_INT8"
"""Lets kernels use the instruction by name; a flag that lets the compiler use it would let it do so anywhere."""
_AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c", "-mbmi2")
_AVX512_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", *_AVX2_FLAGS)
_AVX512_NEEDS = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma", "f16c", "bmi2"})
_ISAS = {
    "avx512_bf16": _Isa(
        16, (*_AVX512_FLAGS, "-mavx512bf16", _DOT_INT8), _AVX512_NEEDS, frozenset({BF16_DOT, INT8_DOT})
    ),
    "avx512_vnni": _Isa(16, (*_AVX512_FLAGS, _DOT_INT8), _AVX512_NEEDS, frozenset({INT8_DOT})),
    "avx512": _Isa(16, _AVX512_FLAGS, _AVX512_NEEDS),
    "avx2": _Isa(8, _AVX2_FLAGS, frozenset({"avx2", "fma", "f16c", "bmi2"})),
    "generic": _Isa(4),
}
"""By name, the best first."""


MOST_THREADS = 4096
"""Threads of the largest plan that a runtime takes."""


@dataclass(frozen=True, slots=True)
class Target:
    """`kind` is "cpu" or "cuda"; `isa` is avx512_bf16, avx512_vnni, avx512, avx2 or generic; sm_NN on GPUs."""

    kind: str
    isa: str
    threads: int

    @property
    def lanes(self) -> int:
        """float32 lanes of one vector register."""
        return _ISAS[self.isa].lanes

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector register."""
        return 4 * self.lanes

    @property
    def panel_width(self) -> int:
        """Outputs per packed GEMM panel: three vector registers (two where there are only 16 registers)."""
        return self.lanes * (3 if self.registers == 32 else 2)

    @property
    def registers(self) -> int:
        """Vector registers."""
        return 32 if self.lanes == 16 else 16

    @property
    def dots_bf16(self) -> bool:
        """Whether there are instructions for dot products of bfloat16 pairs, summed in float32."""
        return BF16_DOT in _ISAS[self.isa].optional

    @property
    def dots_int8(self) -> bool:
        """Whether there are instructions for dot products of fours of uint8 and int8, summed in int32."""
        return INT8_DOT in _ISAS[self.isa].optional

    @property
    def compiler_flags(self) -> tuple[str, ...]:
        """g++ flags that switch the instruction set on."""
        return _ISAS[self.isa].flags

    @property
    def cpu_features(self) -> frozenset[str]:
        """Names from /proc/cpuinfo that a machine must list to run any of the code; kernels may need more."""
        return _ISAS[self.isa].needs

    def __str__(self) -> str:
        return f"{self.kind}:{self.isa}"

    @staticmethod
    def parse(text: str, threads: int | None = None) -> Target:
        """Read `cpu`, `cpu:avx2`, `cpu:generic`, `cuda` or `cuda:sm_90`; raises InputError for anything else."""
        count = available_threads() if threads is None else check_threads(threads)
        kind, _, isa = text.partition(":")
        if kind == "cpu" and (isa or best_isa()) in _ISAS:
            return Target("cpu", isa or best_isa(), count)
        if kind == "cuda" and (not isa or re.fullmatch(r"sm_\d+a?", isa)):
            return Target("cuda", isa or "sm_90", count)
        known = ", ".join(f"cpu:{name}" for name in _ISAS)
        raise InputError(f"unknown target {text!r}; use cpu, {known}, cuda or cuda:sm_NN.")

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
    return next(name for name, isa in _ISAS.items() if isa.needs | isa.optional <= features)


def check_threads(threads: object) -> int:
    """A number of threads as a user gave it; InputError for anything but a whole number from 1 to `MOST_THREADS`."""
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads must be a whole number from 1 to {MOST_THREADS}, found {threads!r}.")
    return threads


def available_threads() -> int:
    """Threads worth using: the CPUs of the affinity mask, at most as many as the cgroups' CPU quota rounded up.

    Up, as the JVM does: one thread could not use all of a quota of 1.5 CPUs. The price is that two are stopped for the
    rest of a period (100 ms as a rule) once its quota is spent, so single runs take longer while the mean does not.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = cpu_quota()
    return cores if quota is None else min(cores, math.ceil(quota))
