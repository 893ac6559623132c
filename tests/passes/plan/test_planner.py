"""Plans of random schedules at random budgets: legal, within budget, right, and never slower with more memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.networks import Network
from tests.schedules import requests
from tests.toy_machine import ToyMachine, random_inputs, random_weights, run_schedule
from ullage.errors import BudgetTooSmall
from ullage.passes.plan.planner import Planner, PlanRequest, ladder, make_plan, minimum_bytes
from ullage.plan.check import check
from ullage.plan.plan import Launch, Plan
from ullage.plan.sizes import Size
from ullage.plan.steps import Constant, Operand, Step

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


def test_blocks_of_uneven_length_find_room_beside_a_constant_that_stays_for_the_step() -> None:
    """At the minimum the tiles of `b` come in blocks of 1, 2 and 2, and its 40000 bytes must not be in their way."""
    net = Network()
    source = net.storage("in", 64, "input")
    middle, out = net.storage("middle", 64), net.storage("out", 64, "output")
    first = (Operand(source, "r"), net.constant("ca", 49152), Operand(middle, "w"))
    net.steps.append(Step("a", "a", first, (), Size.of(1)))
    net.constants.append(Constant("cb", 5, 4096))
    operands = (Operand(middle, "r"), net.constant("stays", 40000), Operand("cb", "r", tiled=True), Operand(out, "w"))
    net.steps.append(Step("b", "b", operands, (), Size.of(1)))
    request = net.request()
    plan = make_plan(request, minimum_bytes(request))
    tiles = [c.integers[-1] for c in plan.commands if isinstance(c, Launch) and c.tiled >= 0]
    assert tiles == [(1,), (2,), (2,)]
    _assert_right(plan, request)


def test_one_storage_is_not_updated_in_place_while_another_operand_reads_it() -> None:
    net = Network()
    source = net.storage("in", 4096, "input")
    x, y = net.storage("x", 4096), net.storage("y", 4096)
    net.steps.append(Step("a", "a", (Operand(source, "r"), Operand(x, "w")), (), Size.of(1)))
    net.constants.append(Constant("c", 4, 4096))
    operands = (Operand(x, "r"), Operand(x, "r"), Operand("c", "r", tiled=True), Operand(y, "w"))
    net.steps.append(Step("b", "b", operands, (), Size.of(1), inplace=((0, 3),)))
    out = net.storage("out", 4096, "output")
    net.steps.append(Step("c", "c", (Operand(y, "r"), Operand(out, "w")), (), Size.of(1)))
    plan = make_plan(net.request(), None)
    assert all(buffer.alias_of < 0 for buffer in plan.buffers)
    _assert_right(plan, net.request())


def test_illegal_schedules_are_refused_with_everything_that_is_wrong() -> None:
    net = Network()
    net.storage("x", 64)
    net.storage("x2", 64)
    out = net.storage("out", 64, "output")
    net.steps.append(Step("a", "a", (Operand("x", "r"), Operand("nowhere", "r")), (), Size.of(1)))
    net.steps.append(Step("b", "b", (Operand("x2", "r", tiled=True),), (), Size.of(1)))
    with pytest.raises(ValueError, match="illegal schedule") as refused:
        minimum_bytes(net.request())
    for text in ("'x' is read before", "'nowhere' is neither", "'x2' is not a constant", f"{out!r} is never written"):
        assert text in str(refused.value)
