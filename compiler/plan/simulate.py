"""Simulate: the time line of a plan (launches in order, one disk queue, waits), in steady state across calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ullage.plan.plan import DIRECT_IO_BYTES, Command, Gather, Launch, Plan, Prediction, Read, Wait, row_span_bytes
from ullage.plan.sizes import evaluate

_CALLS = 6
Kind = Literal["read", "wait", "run", "block"]


@dataclass(frozen=True, slots=True)
class Rates:
    """What the machine was measured to give; `flops_per_s` and `memory_bytes_per_s` of all threads together."""

    flops_per_s: float
    memory_bytes_per_s: float
    disk_bytes_per_s: float
    disk_latency_s: float
    launch_seconds: float

    def read_seconds(self, size_bytes: int) -> float:
        """Seconds of one disk request."""
        return self.disk_latency_s + size_bytes / self.disk_bytes_per_s

    def traffic_seconds(self, size_bytes: int) -> float:
        """Seconds for which a disk request keeps the memory from the kernels that run beside it."""
        return size_bytes / self.memory_bytes_per_s


class Event(NamedTuple):
    """One thing on the time line: `read` and `wait` name a block, `run` computes, `block` needs the disk at once.

    The seconds of a `wait` are what the block's transfer took from the kernels that ran beside it.
    """

    kind: Kind
    block: int
    seconds: float


def simulate(plan: Plan, costs: Sequence[float], rates: Rates) -> Prediction:
    """Predict one call in steady state; `costs[step]` are the compute seconds of a step, launch cost not included.

    A step cut into several launches costs each its share of the tasks, rounded up to whole rounds of the threads, and
    the launch cost once per launch.
    """
    dims = {d.name: d.maximum for d in plan.dimensions}
    tasks = [evaluate(c.tasks, dims) if isinstance(c, Launch) else 1 for c in plan.commands]
    totals: dict[int, int] = {}
    for command, count in zip(plan.commands, tasks, strict=True):
        if isinstance(command, Launch):
            totals[command.step] = totals.get(command.step, 0) + count
    events: list[Event] = []
    for command, count in zip(plan.commands, tasks, strict=True):
        share = task_share(count, totals[command.step], plan.threads) if isinstance(command, Launch) else 1.0
        events += _events(command, plan, costs, rates, share, dims)
    return play(events, plan.streamed_bytes_per_run)


def _events(
    command: Command, plan: Plan, costs: Sequence[float], rates: Rates, share: float, dims: dict[str, int]
) -> list[Event]:
    if isinstance(command, Read):
        return [Event("read", command.block, rates.read_seconds(plan.blocks[command.block].bytes))]
    if isinstance(command, Wait):
        return [Event("wait", command.block, rates.traffic_seconds(plan.blocks[command.block].bytes))]
    run = Event("run", -1, costs[command.step] * share + rates.launch_seconds)
    if isinstance(command, Gather) and command.block < 0:
        row_bytes = plan.constants[command.constant].tile_bytes
        readers = min(plan.threads, command.staging_bytes // row_span_bytes(row_bytes))
        seconds = staged_rows_seconds(evaluate(command.count, dims), row_bytes, max(1, readers), rates)
        return [Event("block", -1, seconds), run]
    return [run]


def task_share(tasks: int, total: int, threads: int) -> float:
    """The share of a step's time at full use of the threads that a launch of `tasks` of its `total` tasks takes."""
    return -(-tasks // threads) * threads / total if total else 1.0


def staged_rows_seconds(rows: int, row_bytes: int, readers: int, rates: Rates) -> float:
    """Seconds in which `readers` threads read `rows` scattered rows of a table, one request each."""
    share = rows / min(readers, rows) if rows else 0.0
    return share * rates.disk_latency_s + rows * (row_bytes + DIRECT_IO_BYTES) / rates.disk_bytes_per_s


def play(events: Sequence[tuple[Kind, int, float]], streamed_bytes: int) -> Prediction:
    """Play the events (`Event`s) of one call again and again until the calls take equal time; describe the last one."""
    arrivals: dict[int, float] = {}
    disk = clock = start = previous = stall = 0.0
    for _ in range(_CALLS):
        start, stall = clock, 0.0
        for kind, block, seconds in events:
            if kind == "run":
                clock += seconds
            elif kind == "read":
                disk = (clock if clock > disk else disk) + seconds
                arrivals[block] = disk
            elif kind == "wait":
                late = arrivals.get(block, 0.0) - clock
                if late > 0.0:
                    stall += late
                    seconds += late
                clock += seconds
            else:
                clock += seconds
                stall += seconds
                disk = max(disk, clock - seconds) + seconds
        if abs((clock - start) - previous) <= 1e-9 * clock:
            break
        previous = clock - start
    computing = sum([seconds for kind, _, seconds in events if kind == "run"])
    reading = sum([seconds for kind, _, seconds in events if kind in ("read", "block")])
    return Prediction(clock - start, computing, reading, stall, streamed_bytes)
