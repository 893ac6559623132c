"""Figures of schedules shaped like known networks: least budgets, bytes streamed, predicted time, planning time."""

from __future__ import annotations

import time

import pytest

from tests.networks import bert_base, minilm, resnet50, transformer
from ullage.passes.plan import search
from ullage.passes.plan.cut import Cut, Draft, draft
from ullage.passes.plan.planner import Planner
from ullage.plan.check import check

_MIB = 1 << 20


def test_minilm_fits_eight_mebibytes_with_room_to_spare() -> None:
    planner = Planner(minilm())
    assert planner.minimum_bytes < 2.5 * _MIB
    plan = planner.plan(8 * _MIB)
    assert plan.peak_bytes <= 8 * _MIB
    assert plan.prediction.seconds < 0.5 * planner.plan(planner.minimum_bytes).prediction.seconds


@pytest.mark.parametrize("network", [minilm, bert_base, resnet50])
def test_a_ring_takes_little_of_the_memory_that_could_pin(network: object) -> None:
    """With half the memory, at most about what does not fit is read, and computing hides much of it."""
    assert callable(network)
    planner = Planner(network())
    plan = planner.plan(planner.resident_bytes // 2)
    weights = sum(w.bytes for w in planner.problem.weights)
    assert plan.streamed_bytes_per_run <= weights - 0.8 * (plan.budget_bytes - planner.minimum_bytes) + 8 * _MIB
    resident = planner.plan(None).prediction.seconds
    disk = plan.prediction.read_seconds
    assert plan.prediction.seconds <= 1.25 * max(resident, disk) + 0.007


@pytest.mark.parametrize("network", [minilm, resnet50])
def test_time_falls_as_memory_grows(network: object) -> None:
    assert callable(network)
    planner = Planner(network())
    low, high = planner.minimum_bytes, planner.resident_bytes
    budgets = [int(low * (high / low) ** (i / 6)) for i in range(7)]
    seconds = [planner.plan(budget).prediction.seconds for budget in budgets]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > 1.5 * seconds[-1]


def test_choices_that_come_to_the_same_are_placed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[tuple[object, ...]] = []

    def noting(plan_cut: Cut, wrap: bool) -> Draft:
        placed.append((plan_cut.space.size, plan_cut.chunks, tuple(shot[:3] for shot in plan_cut.shots)))
        return draft(plan_cut, wrap)

    monkeypatch.setattr(search, "draft", noting)
    planner = Planner(minilm())
    plan = planner.plan(16 * _MIB)
    again = len(placed) - len(set(placed))
    assert len(placed) > 20 and again <= 1, "only the draft that wins is made again"
    assert plan.prediction == planner.plan(16 * _MIB).prediction


def test_planning_a_long_schedule_takes_seconds() -> None:
    request = transformer(100, 256, 1024, 4, 64, 1000)
    assert len(request.schedule.steps) > 700
    start = time.process_time()
    planner = Planner(request)
    plan = planner.plan(planner.minimum_bytes + planner.resident_bytes // 4)
    assert time.process_time() - start < 6
    check(plan)
