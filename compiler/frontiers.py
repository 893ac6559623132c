"""The frontier: what each budget buys in time, predicted by the planner and, on demand, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ullage.budget import format_bytes
from ullage.facts import seconds_text
from ullage.flow import ladder
from ullage.plan.plan import Plan
from ullage.report import frontier_page
from ullage.scratch import Scratch

if TYPE_CHECKING:
    import torch

    from ullage.driver import Prepared


@dataclass(frozen=True)
class Point:
    """One budget: bytes, the predicted time, the measured median where there is one; exact plans have error 0."""

    budget_bytes: int
    peak_bytes: int
    resident_bytes: int
    streamed_bytes_per_run: int
    predicted_seconds: float
    measured_seconds: float | None = None
    error: float = 0.0


@dataclass(frozen=True)
class Frontier:
    """Points in ascending order of budget."""

    points: tuple[Point, ...]

    def table(self) -> str:
        """The points as a table in plain text."""
        rows: list[tuple[str, ...]] = [("budget", "peak", "resident", "read per run", "predicted", "measured", "error")]
        rows += [_row(point) for point in self.points]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows)

    def plot(self, path: str | Path) -> None:
        """Write one self-contained HTML page with time over budget."""
        Path(path).write_text(frontier_page(self.to_json()), encoding="utf-8")

    def to_json(self) -> list[dict[str, Any]]:
        """The points as plain values."""
        return [asdict(point) for point in self.points]


def _row(point: Point) -> tuple[str, ...]:
    figures = (point.budget_bytes, point.peak_bytes, point.resident_bytes, point.streamed_bytes_per_run)
    measured = "–" if point.measured_seconds is None else seconds_text(point.measured_seconds)
    return (*map(format_bytes, figures), seconds_text(point.predicted_seconds), measured, f"{point.error:g}")


def predicted(prepared: Prepared, budgets: Iterable[int] | None = None) -> Frontier:
    """Plan at every budget; without any, on a ladder from the least budget to the one that needs no streaming."""
    generous = prepared.plan(None)
    asked = ladder(prepared.minimum_bytes, generous.peak_bytes) if budgets is None else sorted(set(budgets))
    return Frontier(tuple(point_of(prepared.plan(budget), budget) for budget in asked))


def point_of(plan: Plan, budget_bytes: int) -> Point:
    """The figures of one plan."""
    return Point(
        budget_bytes,
        plan.peak_bytes,
        plan.resident_bytes,
        plan.streamed_bytes_per_run,
        plan.prediction.seconds,
    )


def measured(prepared: Prepared, frontier: Frontier, inputs: Mapping[str, torch.Tensor], runs: int = 5) -> Frontier:
    """The same points with the median time of `runs` runs each, after one to warm up."""
    return Frontier(tuple(_measure(prepared, point, inputs, runs) for point in frontier.points))


def _measure(prepared: Prepared, point: Point, inputs: Mapping[str, torch.Tensor], runs: int) -> Point:
    from ullage.runtime.load import load

    scratch = Scratch()
    path = scratch.path / "model.ullage"
    prepared.write(prepared.plan(point.budget_bytes), path)
    runner = load(path)
    try:
        seconds = []
        for _ in range(runs + 1):
            start = time.perf_counter()
            runner.run(dict(inputs))
            seconds.append(time.perf_counter() - start)
    finally:
        runner.close()
        scratch.remove()
    return replace(point, measured_seconds=statistics.median(seconds[1:]))
