"""Rates of this machine for the cost model: what `ullage doctor` measured, or a cautious estimate before it ran.

Compiling never measures by itself: a measurement wants hundreds of megabytes, and converting keeps to the budget.
"""

from __future__ import annotations

import json
from pathlib import Path

from ullage.plan.simulate import Rates
from ullage.target import Target

_LAUNCH_SECONDS = 3e-6
_CLOCK_HZ = 2.5e9
_FMAS_PER_CYCLE = 2
_MEMORY_BYTES_PER_S = 30e9
_DISK_BYTES_PER_S = 1.5e9
_DISK_LATENCY_S = 80e-6


def estimated_rates(target: Target) -> Rates:
    """Rates from the instruction set and the number of threads alone."""
    flops_per_s = target.threads * target.lanes * 2 * _FMAS_PER_CYCLE * _CLOCK_HZ
    return Rates(flops_per_s, _MEMORY_BYTES_PER_S, _DISK_BYTES_PER_S, _DISK_LATENCY_S, _LAUNCH_SECONDS)


def rates_for(target: Target, rates_file: Path, key: str, measured_threads: int) -> Rates:
    """The rates under `key` in the doctor's file, else the estimate.

    Arithmetic was measured on `measured_threads` and is scaled to the target's; memory and disk are shared by all.
    """
    known = json.loads(rates_file.read_text()) if rates_file.exists() else {}
    if key not in known:
        return estimated_rates(target)
    found = known[key]
    flops_per_s = found["flops_per_s"] * target.threads / measured_threads
    return Rates(
        flops_per_s, found["memory_bytes_per_s"], found["disk_bytes_per_s"], found["disk_latency_s"], _LAUNCH_SECONDS,
    )  # fmt: skip
