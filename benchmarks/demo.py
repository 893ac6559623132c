"""MiniLM inside 16 MiB: real sentences, a capped process, and eager PyTorch beside it (`make demo`)."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.sentences import SENTENCES, minilm
from tests.cgroup import run_limited, unavailable
from ullage.arrays import write_arrays
from ullage.budget import format_bytes
from ullage.errors import UllageError
from ullage.facts import seconds_text
from ullage.flow import capture, prepare
from ullage.options import CompileOptions
from ullage.scratch import Scratch
from ullage.target import available_threads

MIB = 1 << 20
REPEATS = 20
LADDER_BYTES = (64 * MIB, 24 * MIB, 16 * MIB)
SHOWN_BYTES = 16 * MIB


@dataclass(frozen=True)
class Result:
    """One budget: bytes, the median time of a run, the embeddings."""

    label: str
    budget_bytes: int
    planned_bytes: int
    measured_bytes: int
    limit_bytes: int | None
    bytes_read_per_run: int
    seconds: float
    embeddings: Any


def main() -> int:
    """Convert, run, compare; exit 1 if a promise was broken."""
    console = Console()
    console.rule("Ullage: all-MiniLM-L6-v2 inside 16 MiB")
    scratch = Scratch()
    model, inputs = minilm()
    with console.status("capture, rewrite, generate kernels"):
        prepared = prepare(capture(model, inputs, {}, CompileOptions()), CompileOptions())
    budgets = _budgets(prepared.minimum_bytes, prepared.plan(None).peak_bytes)
    write_arrays(scratch.path / "in.npz", dict(zip(("input_ids", "attention_mask"), map(_numpy, inputs), strict=True)))
    eager_seconds, expected = _eager(model, inputs)
    results = []
    for label, budget in budgets:
        with console.status(f"budget {label}"):
            path = scratch.path / "model.ullage"
            prepared.write(prepared.plan(budget), path)
            results.append(_run(label, budget, path, scratch.path))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    shown = next((r for r in results if r.budget_bytes == SHOWN_BYTES), results[-1])
    console.print(_summary(shown, prepared.minimum_bytes, weights, eager_seconds))
    console.print(_sentences(shown, expected))
    console.print(_ladder(results))
    return _verdict(console, results, expected)


def _budgets(least: int, generous: int) -> list[tuple[str, int]]:
    asked = [(format_bytes(budget), budget) for budget in LADDER_BYTES if least <= budget < generous]
    return [("unlimited", generous), *asked, ("least", least)]


def _numpy(tensor: torch.Tensor) -> Any:
    return tensor.numpy()


def _eager(model: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[float, Any]:
    """The median time of eager PyTorch with as many threads, and its embeddings."""
    torch.set_num_threads(available_threads())
    seconds = []
    with torch.no_grad():
        for _ in range(REPEATS):
            start = time.perf_counter()
            result = model(*inputs)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result.numpy()


def _run(label: str, budget: int, artifact: Path, folder: Path) -> Result:
    """Run the artifact in a process that may take the budget and the interpreter's overhead, no byte more."""
    ullage = [sys.executable, "-m", "ullage"]
    about = json.loads(_output([*ullage, "inspect", str(artifact), "--json"]))
    out = folder / "out.npz"
    run = ["run", str(artifact), "--input", str(folder / "in.npz"), "--output", str(out), "--repeat", str(REPEATS)]
    command = [*ullage, *run, "--json"]
    limit = budget + about["runtime_overhead_bytes"] if unavailable() is None else None
    ran = json.loads(_output(command) if limit is None else _limited(command, limit))
    with np.load(out) as arrays:
        (embeddings,) = (arrays[name] for name in arrays.files)
    planned = sum(about["peak_bytes"].values())
    read = ran["bytes_read"] // REPEATS
    seconds = statistics.median(ran["seconds"])
    return Result(label, budget, planned, ran["measured_bytes"], limit, read, seconds, embeddings)


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _limited(command: Sequence[str], limit: int) -> str:
    outcome = run_limited(command, limit)
    if outcome.returncode != 0:
        raise SystemExit(f"the capped process failed: {'out of memory' if outcome.oom_killed else outcome.stderr}")
    return outcome.stdout


def _summary(result: Result, least: int, weights: int, eager_seconds: float) -> Table:
    table = Table(title=f"{len(SENTENCES)} sentences under {format_bytes(result.budget_bytes)}", show_header=False)
    cap = "none: " + str(unavailable()) if result.limit_bytes is None else format_bytes(result.limit_bytes)
    rows = {
        "weights of the model": format_bytes(weights),
        "least budget": format_bytes(least),
        "planned peak": format_bytes(result.planned_bytes),
        "measured by the kernel": format_bytes(result.measured_bytes),
        "cap of the process, interpreter included": cap,
        "read from disk per run": format_bytes(result.bytes_read_per_run),
        "time of a run": seconds_text(result.seconds),
        "eager PyTorch, all in memory": seconds_text(eager_seconds),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _sentences(result: Result, expected: Any) -> Table:
    table = Table(title="Embeddings beside eager PyTorch's", header_style="bold")
    table.add_column("sentence", no_wrap=True, max_width=60)
    table.add_column("cosine", justify="right", no_wrap=True, min_width=9)
    for sentence, cosine in zip(SENTENCES, _cosines(result.embeddings, expected), strict=True):
        table.add_row(sentence, f"{cosine:.7f}")
    return table


def _cosines(found: Any, expected: Any) -> Any:
    left, right = found.astype(np.float64), expected.astype(np.float64)
    return np.sum(left * right, axis=1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))


def _ladder(results: Sequence[Result]) -> Table:
    table = Table(title="The same model at other budgets", header_style="bold")
    for name in ("budget", "planned", "measured", "read/run", "time", "bits"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        sizes = (result.planned_bytes, result.measured_bytes, result.bytes_read_per_run)
        bits = "identical" if _same_bits(result, results[0]) else "[red]different"
        table.add_row(result.label, *map(format_bytes, sizes), seconds_text(result.seconds), bits)
    return table


def _same_bits(left: Result, right: Result) -> bool:
    return bool(np.array_equal(left.embeddings.view(np.uint32), right.embeddings.view(np.uint32)))


def _verdict(console: Console, results: Sequence[Result], expected: Any) -> int:
    broken = []
    for result in results:
        if not result.measured_bytes <= result.planned_bytes <= result.budget_bytes:
            broken.append(f"{result.label}: more was held than promised")
        if not _same_bits(result, results[0]):
            broken.append(f"{result.label}: other bits")
        if min(_cosines(result.embeddings, expected)) < 1 - 1e-6:
            broken.append(f"{result.label}: embeddings differ from eager's")
    console.print("\n".join(f"[red]{line}" for line in broken) or "[green]Every budget was kept, with the same bits.")
    return 1 if broken else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UllageError as error:
        sys.exit(f"ullage: error: {error}")
