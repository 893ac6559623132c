"""Plans of random schedules at random budgets: legal, within budget, right, and never slower with more memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.schedules import requests
from tests.toy_machine import ToyMachine, random_inputs, random_weights, run_schedule
from ullage.errors import BudgetTooSmall
from ullage.passes.plan.planner import Planner, PlanRequest, ladder, make_plan, minimum_bytes
from ullage.plan.check import check
from ullage.plan.plan import Plan

_SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def _assert_right(plan: Plan, request: PlanRequest) -> None:
    """The plan's outputs over three calls are those of the schedule, whenever the disk delivers."""
    schedule = request.schedule
    weights = random_weights(schedule)
    for delivery in ("early", "late"):
        machine = ToyMachine(plan, schedule, weights, delivery)
        for seed, pick in enumerate((max, min, max)):
            dims = {d.name: pick(d.minimum, d.maximum) for d in schedule.dimensions}
            inputs = random_inputs(schedule, dims, seed)
            wanted = run_schedule(schedule, weights, inputs, dims)
            assert machine.call(inputs, dims) == wanted


@_SETTINGS
@given(requests(), st.floats(0, 1))
def test_random_plans_are_safe_fit_and_compute_what_the_schedule_says(request: PlanRequest, fraction: float) -> None:
    planner = Planner(request)
    low, high = planner.minimum_bytes, planner.resident_bytes
    budget = int(low + fraction * (high - low))
    plan = planner.plan(budget)
    check(plan)
    assert plan.peak_bytes <= plan.budget_bytes == budget
    assert plan.minimum_bytes == low
    _assert_right(plan, request)


@_SETTINGS
@given(requests())
def test_the_minimum_works_and_a_page_less_is_refused(request: PlanRequest) -> None:
    least = minimum_bytes(request)
    assert least % 4096 == 0
    plan = make_plan(request, least)
    assert plan.peak_bytes <= plan.budget_bytes == least
    _assert_right(plan, request)
    with pytest.raises(BudgetTooSmall) as refused:
        make_plan(request, least - 4096)
    assert refused.value.minimum == {"ram": least}
    assert refused.value.requested == {"ram": least - 4096}


@_SETTINGS
@given(requests(), st.floats(0, 1), st.floats(0, 1))
def test_more_memory_is_never_predicted_slower(request: PlanRequest, one: float, other: float) -> None:
    planner = Planner(request)
    low, high = planner.minimum_bytes, planner.resident_bytes
    small, large = sorted(int(low + f * (high - low)) for f in (one, other))
    assert planner.plan(large).prediction.seconds <= planner.plan(small).prediction.seconds * (1 + 1e-9)


@_SETTINGS
@given(requests())
def test_without_a_budget_everything_is_resident(request: PlanRequest) -> None:
    plan = make_plan(request, None)
    assert plan.streamed_bytes_per_run == 0
    assert plan.peak_bytes == plan.budget_bytes
    assert all(block.resident for block in plan.blocks)
    _assert_right(plan, request)


@settings(_SETTINGS, max_examples=8)
@given(requests(most_steps=6))
def test_the_plans_of_a_ladder_share_one_file_and_get_faster(request: PlanRequest) -> None:
    plans = ladder(request)
    assert plans[0].budget_bytes == minimum_bytes(request)
    assert len({plan.constants for plan in plans}) == 1
    for slower, faster in pairwise(plans):
        assert slower.budget_bytes < faster.budget_bytes
        assert slower.prediction.seconds >= faster.prediction.seconds
