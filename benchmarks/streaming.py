"""More weights than memory: Ullage beside accelerate's disk offload and eager PyTorch on mapped weights.

`python -m benchmarks.streaming [--model bert_base] [--budget half] [--rounds 3]`. Every system runs in a memory cgroup
of the budget plus what its own libraries take, and starts with its files out of the page cache (pages that another
cgroup paid for would not count). The bound is max(compute, bytes read / disk rate). Disks of shared machines change
their rate by the minute, so each round reads the artifact plainly just before and just after Ullage runs, and the
better of the two is that round's rate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ullage.scratch import Scratch

RUNS = 4
BEFORE, AFTER = "disk before", "disk after"


@dataclass(frozen=True)
class Figures:
    """One system in one round: the median seconds of its runs, and why there are none."""

    system: str
    seconds: float | None
    problem: str = ""


def main() -> int:
    """Prepare the files, run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bert_base")
    parser.add_argument("--budget", default="half", help="bytes, or `half` of the weights")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    scratch = Scratch()
    about = _make_files(options.model, options.budget, scratch.path)
    systems: dict[str, Callable[[], Figures]] = {
        BEFORE: lambda: _disk(scratch.path),
        "ullage": lambda: _ullage(scratch.path, "small", about),
        AFTER: lambda: _disk(scratch.path),
        "ullage, all resident": lambda: _ullage(scratch.path, "large", about),
        "accelerate disk offload": lambda: _framework("accelerate", options.model, scratch.path, about),
        "eager on mapped weights": lambda: _framework("mapped", options.model, scratch.path, about),
    }
    rounds = [{name: run() for name, run in systems.items()} for _ in range(options.rounds)]
    print(_report(options.model, about, rounds))
    return 0


def _make_files(model: str, budget: str, folder: Path) -> dict[str, Any]:
    """In a process of its own: artifacts, inputs, and the frameworks' weight files."""
    command = [sys.executable, "-m", "benchmarks.streaming_files", model, budget, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _ullage(folder: Path, size: str, about: dict[str, Any]) -> Figures:
    artifact = folder / f"{size}.ullage"
    inspected = subprocess.run(
        [sys.executable, "-m", "ullage", "inspect", str(artifact), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    limit = about[f"{size}_budget_bytes"] + json.loads(inspected.stdout)["runtime_overhead_bytes"]
    inputs = str(folder / "inputs.npz")
    run = [sys.executable, "-m", "ullage", "run", str(artifact), "--input", inputs, "--repeat", str(RUNS), "--json"]
    return _capped(f"ullage {size}", run, limit)


def _framework(system: str, model: str, folder: Path, about: dict[str, Any]) -> Figures:
    worker = [sys.executable, "-m", "benchmarks.streaming_worker", system, model, str(folder)]
    evict(folder)
    limit = about["small_budget_bytes"] + _charged([*worker, "--libraries"])
    return _capped(system, worker, limit)


def _charged(command: list[str]) -> int:
    """Bytes that a command's cgroup is charged at most: what the libraries take, without pages shared with others."""
    from tests.cgroup import run_limited

    return run_limited(command).max_anonymous_bytes


def evict(folder: Path) -> None:
    """Drop the pages of all files below a folder from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def _capped(system: str, command: list[str], limit: int) -> Figures:
    from tests.cgroup import run_limited

    outcome = run_limited(command, limit)
    if outcome.returncode != 0:
        last = (outcome.stderr.strip().splitlines() or ["no message"])[-1]
        return Figures(system, None, "killed for memory" if outcome.oom_killed else last)
    return Figures(system, statistics.median(json.loads(outcome.stdout.splitlines()[-1])["seconds"][1:]))


def _disk(folder: Path) -> Figures:
    """Seconds per byte of reading the artifact in large blocks."""
    from ullage.doctor import read_bytes_per_s

    return Figures("disk", 1 / read_bytes_per_s(folder / "small.ullage"))


def _report(model: str, about: dict[str, Any], rounds: list[dict[str, Figures]]) -> str:
    from ullage.budget import format_bytes
    from ullage.facts import seconds_text

    def median(name: str) -> float | None:
        values = [r[name].seconds for r in rounds]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    lines = [
        f"{model}: weights {format_bytes(about['weight_bytes'])}, budget {format_bytes(about['small_budget_bytes'])}, "
        f"{format_bytes(about['streamed_bytes_per_run'])} read per run"
    ]
    for name in (name for name in rounds[0] if name not in (BEFORE, AFTER)):
        seconds = median(name)
        lines.append(f"  {name:<26} {seconds_text(seconds) if seconds is not None else rounds[0][name].problem}")
    shares = [_share_of_bound(found, about["streamed_bytes_per_run"]) for found in rounds]
    for bound, rate, share in shares:
        lines.append(f"  bound {seconds_text(bound)} at {rate / 1e9:.2f} GB/s, {share:.0%} reached")
    median_share = statistics.median(share for _, _, share in shares)
    lines.append(f"  share of the bound, median of {len(rounds)} rounds: {median_share:.0%}")
    return "\n".join(lines)


def _share_of_bound(found: dict[str, Figures], streamed_bytes: int) -> tuple[float, float, float]:
    """Of one round: the bound in seconds, the disk's bytes per second, and the bound over what Ullage took."""
    seconds = {name: figures.seconds or float("inf") for name, figures in found.items()}
    per_byte = min(seconds[BEFORE], seconds[AFTER])
    bound = max(seconds["ullage, all resident"], streamed_bytes * per_byte)
    return bound, 1 / per_byte, bound / seconds["ullage"]


if __name__ == "__main__":
    sys.exit(main())
