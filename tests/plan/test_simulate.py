"""The time line, held against figures worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.networks import RATES, minilm
from tests.schedules import requests
from ullage.analysis.cost import roofline_seconds
from ullage.passes.plan.planner import Planner, PlanRequest
from ullage.plan.simulate import Event, Rates, play, simulate
from ullage.plan.steps import Step


def test_reads_hide_behind_computing() -> None:
    events = [Event("read", 0, 2.0), Event("run", -1, 3.0), Event("wait", 0, 0.0), Event("run", -1, 1.0)]
    found = play(events, 7)
    assert (found.seconds, found.stall_seconds, found.compute_seconds, found.read_seconds) == (4.0, 0.0, 4.0, 2.0)
    assert found.streamed_bytes == 7


def test_a_late_read_stalls_for_what_is_missing() -> None:
    events = [Event("read", 0, 5.0), Event("run", -1, 3.0), Event("wait", 0, 0.25), Event("run", -1, 1.0)]
    found = play(events, 0)
    assert (found.seconds, found.stall_seconds) == (6.25, 2.0)


def test_the_disk_serves_one_read_after_the_other() -> None:
    events = [Event("read", 0, 2.0), Event("read", 1, 2.0), Event("wait", 0, 0.0), Event("wait", 1, 0.0)]
    assert play(events, 0).seconds == 4.0


def test_reads_ahead_for_the_next_call_hide_behind_this_one() -> None:
    ahead = [Event("wait", 0, 0.0), Event("run", -1, 1.0), Event("read", 0, 4.0), Event("run", -1, 4.0)]
    assert play(ahead, 0).seconds == 5.0
    late = [Event("read", 0, 4.0), Event("wait", 0, 0.0), Event("run", -1, 5.0)]
    assert play(late, 0).seconds == 9.0


def test_staged_rows_hold_up_the_call_and_the_queue() -> None:
    events = [Event("block", -1, 2.0), Event("read", 0, 1.0), Event("wait", 0, 0.0), Event("run", -1, 1.0)]
    found = play(events, 0)
    assert (found.seconds, found.stall_seconds, found.read_seconds) == (4.0, 3.0, 3.0)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests())
def test_a_plan_says_the_same_as_the_draft_it_was_made_from(request: PlanRequest) -> None:
    plan = Planner(request).plan(None)
    assert simulate(plan, _costs(request), request.rates).seconds == pytest.approx(plan.prediction.seconds)


def test_streaming_plans_say_the_same_as_their_drafts() -> None:
    request = minilm()
    planner = Planner(request)
    for budget in (planner.minimum_bytes, 10 << 20, 60 << 20):
        plan = planner.plan(budget)
        again = simulate(plan, _costs(request), RATES)
        assert again.seconds == pytest.approx(plan.prediction.seconds)
        assert again.streamed_bytes == plan.prediction.streamed_bytes == plan.streamed_bytes_per_run
        assert again.stall_seconds == pytest.approx(plan.prediction.stall_seconds)


def _costs(request: PlanRequest) -> list[float]:
    tables = {c.name: c.tile_bytes for c in request.schedule.constants}
    dims = {d.name: d.maximum for d in request.schedule.dimensions}
    costs = []
    for step in request.schedule.steps:
        traffic = step.bytes if isinstance(step, Step) else 2 * step.count.evaluate(dims) * tables[step.table]
        costs.append(_roofline(step.flops if isinstance(step, Step) else 0, traffic, request.rates))
    return costs


def _roofline(flops: int, traffic: int, rates: Rates) -> float:
    return roofline_seconds(flops, traffic, rates.flops_per_s, rates.memory_bytes_per_s)
