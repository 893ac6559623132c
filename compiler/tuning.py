"""Tuning for this machine: which one it is, what the cost model knows of it, and how much memory measuring may take."""

from __future__ import annotations

from collections.abc import Callable

from ullage.artifact.manifest import TunedKernel
from ullage.budget import free_bytes
from ullage.codegen.cpp.toolchain import find_compiler
from ullage.codegen.schedule.build import Scheduled
from ullage.codegen.tune.store import Signature, Store
from ullage.codegen.tune.tuner import Request, Tuning, tune
from ullage.doctor import cpu_name, rates_file, rates_key
from ullage.machine import rates_for
from ullage.target import Target, available_threads

_MEMORY_SHARE = 0.5
"""Of the free memory that the operands of one kernel may take while it is measured."""


def tuned(
    scheduled: Scheduled, target: Target, seconds: float, report: Callable[[str, float], None]
) -> tuple[Scheduled, Tuning]:
    """The schedule with tilings for this machine, after at most so many seconds of measuring (0: those that are kept).

    `report` is told each stage with a fraction between that of scheduling and that of compiling.
    """
    request = Request(
        target=target,
        seconds=seconds,
        rates=rates_for(target, rates_file(), rates_key(), available_threads()),
        most_bytes=int(_MEMORY_SHARE * free_bytes()),
        report=lambda stage, done: report(stage, 0.1 + 0.1 * done),
    )
    signature = Signature.of(cpu_name(), available_threads(), target, find_compiler())
    return tune(scheduled, Store.open(signature), request)


def tuning_notes(tuning: Tuning | None) -> tuple[TunedKernel, ...]:
    """What an artifact tells of its tuning: nothing that differs between measuring choices and taking kept ones."""
    kernels = () if tuning is None else tuning.kernels
    return tuple(TunedKernel(k.kernel, k.name, k.launches, k.choice, k.ratio, k.tried) for k in kernels)
