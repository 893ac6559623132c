"""Orders: legal, and on small graphs as good as the best of all legal orders."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.networks import HELD, RATES, Network
from tests.schedules import requests
from ullage.analysis.lifetimes import predecessors
from ullage.passes.plan.inplace import spans, takeovers
from ullage.passes.plan.model import Problem, understand
from ullage.passes.plan.order import best_order, step_extras
from ullage.passes.plan.planner import PlanRequest
from ullage.plan.sizes import Size
from ullage.plan.steps import Operand, Schedule, Step, Storage

_SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def _peak(problem: Problem, order: tuple[int, ...]) -> int:
    """The most bytes live at a step, counted apart from the search: storages, less what is taken over, and extras."""
    lives, extras = spans(problem, order), step_extras(problem)
    taken = takeovers(problem, order, lives)
    needs = []
    for position, step in enumerate(order):
        live = sum(problem.sizes[s] for s, life in lives.items() if life.first <= position <= life.last)
        shared = sum(problem.sizes[new] for new in taken if lives[new].first == position)
        needs.append(live - shared + extras[step])
    return max(needs)


def _legal_orders(problem: Problem) -> Iterator[tuple[int, ...]]:
    before = predecessors(problem.accesses)

    def extend(done: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(done) == len(before):
            yield done
        for step in range(len(before)):
            if step not in done and before[step] <= set(done):
                yield from extend((*done, step))

    return extend(())


@_SETTINGS
@given(requests())
def test_orders_are_legal_and_never_worse_than_the_given_one(request: PlanRequest) -> None:
    problem = understand(request)
    order = best_order(problem)
    assert sorted(order) == list(range(len(problem.works)))
    for position, step in enumerate(order):
        assert predecessors(problem.accesses)[step] <= set(order[:position])
    assert _peak(problem, order) <= _peak(problem, tuple(range(len(order))))


@_SETTINGS
@given(requests(most_steps=5))
def test_small_orders_are_the_best_there_are(request: PlanRequest) -> None:
    problem = understand(request)
    assert _peak(problem, best_order(problem)) == min(_peak(problem, o) for o in _legal_orders(problem))


@given(st.permutations(range(4)))
def test_branches_run_one_after_the_other(shuffle: list[int]) -> None:
    """Four branches that each blow up and shrink: given breadth first, the best order is depth first."""
    net = Network()
    source = net.storage("in", 64, "input")
    for i in shuffle:
        wide = net.storage(f"wide{i}", 100_032)
        net.steps.append(Step(f"grow{i}", "grow", (Operand(source, "r"), Operand(wide, "w")), (), Size.of(1)))
    for i in range(4):
        small = net.storage(f"small{i}", 64)
        net.steps.append(Step(f"shrink{i}", "shrink", (Operand(f"wide{i}", "r"), Operand(small, "w")), (), Size.of(1)))
    out = net.storage("out", 64, "output")
    ends = tuple(Operand(f"small{i}", "r") for i in range(4))
    net.steps.append(Step("join", "join", (*ends, Operand(out, "w")), (), Size.of(1)))
    problem = understand(net.request())
    assert _peak(problem, tuple(range(9))) > 400_000
    assert _peak(problem, best_order(problem)) == 100_032 + 4 * 64


def test_writers_of_one_storage_keep_their_order() -> None:
    whole = Storage("whole", Size.of(128), "temp")
    steps = [Step(f"w{i}", "w", (Operand("whole", "w", Size.of(64 * i)),), (), Size.of(1)) for i in range(2)]
    steps.append(Step("end", "r", (Operand("whole", "r"),), (), Size.of(1)))
    problem = understand(PlanRequest(Schedule(tuple(steps), (whole,), (), ()), (), (), HELD, 1, RATES))
    assert best_order(problem) == (0, 1, 2)
