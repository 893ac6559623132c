"""Every model of the zoo through a ladder of budgets, each run in a memory cgroup of budget + overhead.

`python -m benchmarks.zoo --budgets [--tiny] [--models a,b] [--json FILE]`. Checked for each model: it ends within its
cgroup, holds no more than planned, gives the same bits at every budget, and is about as close to float64 as eager.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.zoo import ZOO
from tests.cgroup import Outcome, run_limited, unavailable
from ullage.budget import format_bytes
from ullage.facts import seconds_text
from ullage.scratch import Scratch

_FACTOR = 2.0
_FLOOR_ERROR = 1e-5


@dataclass(frozen=True)
class Rung:
    """One model at one budget; bytes, seconds and relative errors. `problem` is empty if all promises were kept."""

    model: str
    budget_bytes: int
    planned_bytes: int
    measured_bytes: int
    overhead_bytes: int
    cgroup_bytes: int
    streamed_bytes: int
    bytes_read: int
    predicted_seconds: float
    seconds: float
    error: float
    eager_error: float
    problem: str


def run_ladder(name: str, rungs: int) -> list[Rung]:
    """Convert and run one model at `rungs` budgets."""
    scratch = Scratch()
    folder = scratch.path
    command = [sys.executable, "-m", "benchmarks.budget_files", name, str(folder), str(rungs)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return [_failed(name, _last_line(made.stderr))]
    budgets = json.loads(made.stdout.splitlines()[-1])["budgets"]
    done = [_run(name, folder, index, budget) for index, budget in enumerate(budgets)]
    same = _same_bits(folder, len(budgets))
    scratch.remove()
    return [rung if same or rung.problem else _with_problem(rung, "bits differ between budgets") for rung in done]


def _failed(name: str, problem: str) -> Rung:
    return Rung(name, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, float("nan"), float("nan"), problem)


def _with_problem(rung: Rung, problem: str) -> Rung:
    return Rung(**{**asdict(rung), "problem": problem})


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1][:300]


def _run(name: str, folder: Path, index: int, budget: int) -> Rung:
    artifact = folder / f"{index}.ullage"
    about = _ullage("inspect", str(artifact), "--json")
    limit = budget + about["runtime_overhead_bytes"]
    command = [sys.executable, "-m", "ullage", "run", str(artifact), "--input", str(folder / "inputs.npz")]
    outcome = run_limited([*command, "--output", str(folder / f"{index}.npz"), "--repeat", "3", "--json"], limit)
    if outcome.returncode != 0:
        why = "killed for memory" if outcome.oom_killed else _last_line(outcome.stderr)
        return _with_problem(_failed(name, why), f"at {format_bytes(budget)}: {why}")
    return _judge(name, folder, index, budget, about, outcome)


def _ullage(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "ullage", *arguments], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _judge(name: str, folder: Path, index: int, budget: int, about: dict[str, Any], outcome: Outcome) -> Rung:
    ran = json.loads(outcome.stdout)
    error = _error(folder / f"{index}.npz", folder / "truth.npz")
    eager_error = _error(folder / "eager.npz", folder / "truth.npz")
    rung = Rung(
        name,
        budget,
        sum(about["peak_bytes"].values()),
        ran["measured_bytes"],
        about["runtime_overhead_bytes"],
        outcome.max_anonymous_bytes,
        about["streamed_bytes_per_run"],
        ran["bytes_read"],
        about["predicted_seconds"],
        min(ran["seconds"]),
        error,
        eager_error,
        "",
    )
    return _with_problem(rung, _problem(rung))


def _problem(rung: Rung) -> str:
    if rung.planned_bytes > rung.budget_bytes:
        return "the plan exceeds the budget"
    if rung.measured_bytes > rung.planned_bytes:
        return "more is held than was planned"
    if not rung.error <= max(_FACTOR * rung.eager_error, _FLOOR_ERROR):
        return "farther from float64 than eager"
    return ""


def _error(path: Path, truth_path: Path) -> float:
    """The largest relative error over the outputs."""
    with np.load(path) as found, np.load(truth_path) as truth:
        return max(_relative(found[name].astype(np.float64), truth[name]) for name in truth.files)


def _relative(value: Any, truth: Any) -> float:
    return float(np.linalg.norm(value - truth) / np.linalg.norm(truth))


def _same_bits(folder: Path, count: int) -> bool:
    files = [folder / f"{index}.npz" for index in range(count)]
    results = [np.load(path) for path in files if path.exists()]
    return all(np.array_equal(results[0][n].view(np.uint8), r[n].view(np.uint8)) for r in results for n in r.files)


def table(rungs: list[Rung]) -> Table:
    """The rungs for people."""
    made = Table(title="The zoo at its budgets", header_style="bold")
    columns = (
        "model",
        "budget",
        "planned",
        "measured",
        "read per run",
        "predicted",
        "best of 3",
        "error",
        "eager's",
        "",
    )
    for column in columns:
        made.add_column(column, justify="left" if column in ("model", "") else "right")
    for rung in rungs:
        sizes = (rung.budget_bytes, rung.planned_bytes, rung.measured_bytes, rung.streamed_bytes)
        times = (rung.predicted_seconds, rung.seconds)
        errors = (f"{rung.error:.1e}", f"{rung.eager_error:.1e}")
        verdict = f"[red]{rung.problem}" if rung.problem else "[green]kept"
        made.add_row(rung.model, *map(format_bytes, sizes), *map(seconds_text, times), *errors, verdict)
    return made


def main() -> int:
    """Run the ladder for the chosen models; exit 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", action="store_true", required=True, help="run the ladder of budgets")
    parser.add_argument("--models", help="comma-separated names (all)")
    parser.add_argument("--tiny", action="store_true", help="the tiny variants")
    parser.add_argument("--rungs", type=int, default=3, help="budgets per model")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    reason = unavailable()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    names = options.models.split(",") if options.models else list(ZOO)
    console, rungs = Console(), []
    for name in names:
        found = run_ladder(f"{name}_tiny" if options.tiny else name, options.rungs)
        rungs += found
        console.print(f"{name}: {'; '.join({r.problem for r in found if r.problem}) or 'kept'}")
    console.print(table(rungs))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(rung) for rung in rungs], indent=1))
    return 1 if any(rung.problem for rung in rungs) else 0
