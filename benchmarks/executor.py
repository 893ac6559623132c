"""What the executor itself costs: dispatch of a command, fork and join, the Python side of a call, and disk reads.

`python -m benchmarks.executor` uses plans written by hand with kernels that do next to nothing. Medians over runs; each
disk rate stands beside a plain loop of direct reads over the same file, taken just before.
"""

from __future__ import annotations

import mmap
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.runtime.handmade import (
    COUNT_TASKS,
    TWICE_PLUS_ONE,
    arena,
    given,
    launch,
    plan,
    result,
    tensor,
    write,
)
from ullage.plan.plan import Block, Command, ConstantInfo, Plan, Read, Wait
from ullage.runtime.load import load
from ullage.runtime.runner import Runner

MIB = 1 << 20
COMMANDS = 1000
TILES = 256
X = np.zeros(256, np.float32)


def median_ns(action: Callable[[], int], runs: int = 200) -> float:
    """The median of what the action reports."""
    return statistics.median(action() for _ in range(runs))


def native_ns(runner: Runner) -> int:
    """One run by the executor's own clock."""
    runner(X)
    seconds: float = runner.stats()["seconds"]
    return round(seconds * 1e9)


def python_ns(runner: Runner) -> int:
    """One run as the caller sees it."""
    start = time.perf_counter_ns()
    runner(X)
    return time.perf_counter_ns() - start


def launches(tasks: int, rounds: int, threads: int) -> Plan:
    """Many launches of a counting kernel, then one that writes the output."""
    count = launch(COUNT_TASKS, (arena(8192),), (rounds,), tasks, thread_stride=4096)
    last = launch(TWICE_PLUS_ONE, (given(), result()), (256,), 1)
    tensors = [tensor("x", 256)], [tensor("y", 256)]
    return plan([count] * COMMANDS + [last], *tensors, arena_bytes=12288, threads=threads)


def per_command_ns(path: Path, tasks: int, rounds: int, threads: int) -> float:
    """Nanoseconds per launch."""
    with load(write(path, launches(tasks, rounds, threads))) as runner:
        native_ns(runner)
        return median_ns(lambda: native_ns(runner), 50) / COMMANDS


def stream_plan(tiles_per_block: int, slots: int) -> Plan:
    """Reads every block of a file of `TILES` MiB in a ring, computing nothing."""
    firsts = range(0, TILES, tiles_per_block)
    size = tiles_per_block * MIB
    blocks = [Block(0, first, tiles_per_block, n % slots * size, size, 0, False) for n, first in enumerate(firsts)]
    commands: list[Command] = []
    for number in range(len(blocks)):
        commands += [Wait(number), Read((number + slots) % len(blocks))]
    commands.append(launch(TWICE_PLUS_ONE, (given(), result()), (256,), 1))
    constant = ConstantInfo("w", TILES, MIB, MIB, 0)
    tensors = [tensor("x", 256)], [tensor("y", 256)]
    prologue = [Read(number) for number in range(slots)]
    return plan(commands, *tensors, arena_bytes=slots * size, blocks=blocks, constants=[constant], prologue=prologue)


def raw_rate(path: Path, chunk_bytes: int = 4 * MIB) -> float:
    """GB/s of a loop of direct reads."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, chunk_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer.madvise(mmap.MADV_HUGEPAGE)
    buffer.write(bytes(chunk_bytes))
    start = time.perf_counter()
    for offset in range(0, TILES * MIB, chunk_bytes):
        os.preadv(file, [buffer], offset)
    seconds = time.perf_counter() - start
    os.close(file)
    return TILES * MIB / seconds / 1e9


def disk_rates(path: Path, tiles_per_block: int, slots: int) -> tuple[float, float]:
    """GB/s of plain direct reads, and of the executor's ring after a first run that verifies."""
    weights = np.random.default_rng(0).integers(0, 255, (TILES, MIB), np.uint8)
    with load(write(path, stream_plan(tiles_per_block, slots), [weights])) as runner:
        runner(X)
        pairs = [(raw_rate(path), TILES * MIB / native_ns(runner)) for _ in range(5)]
    return statistics.median(raw for raw, _ in pairs), statistics.median(ours for _, ours in pairs)


def main() -> None:
    """Print every figure with its unit."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bench.ullage"
        print_calls(path)
        print_dispatch(path)
        print_disk(path)


def print_calls(path: Path) -> None:
    """What Python adds to a call."""
    with load(write(path, launches(1, 0, 1))) as runner:
        whole, native = median_ns(lambda: python_ns(runner)), median_ns(lambda: native_ns(runner))
    print(f"Python side of a call: {(whole - native) / 1e3:.1f} µs")


def print_dispatch(path: Path) -> None:
    """Launches that do nothing, and launches that do little on one thread and on two."""
    for threads, tasks in ((1, 1), (2, 1), (2, 2), (2, 64)):
        cost = per_command_ns(path, tasks, 0, threads)
        print(f"dispatch, {threads} threads, {tasks} tasks: {cost:.0f} ns per launch")
    for rounds in (100, 1000, 10_000):
        one, two = (per_command_ns(path, 16, rounds, threads) for threads in (1, 2))
        print(f"fork-join of {one / 1e3:.1f} µs of work: {two / 1e3:.1f} µs on two threads ({one / two:.2f}×)")


def print_disk(path: Path) -> None:
    """Rings of several block sizes."""
    for tiles_per_block, slots in ((1, 4), (4, 4), (16, 2)):
        raw, ours = disk_rates(path, tiles_per_block, slots)
        print(f"disk, {slots} blocks of {tiles_per_block} MiB: {ours:.2f} GB/s, plain direct reads {raw:.2f} GB/s")


if __name__ == "__main__":
    main()
