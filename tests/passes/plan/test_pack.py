"""Offsets against an exact model: mixed-integer programming (HiGHS) on small cases."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from tests.networks import HELD, RATES
from ullage.passes.plan.model import Problem, understand
from ullage.passes.plan.pack import merge, needed_bytes, pack
from ullage.passes.plan.planner import PlanRequest
from ullage.plan.sizes import Size
from ullage.plan.steps import Operand, Schedule, Step, Storage

_SETTINGS = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
Lives = list[tuple[int, int, int]]
LIVES = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4), st.integers(1, 40)), min_size=1, max_size=6)


def _problem(lives: Lives) -> Problem:
    """Steps 0..12; storage i of 64·lines bytes is written at its first step and read at its last."""
    storages = tuple(Storage(f"s{i}", Size.of(64 * lines), "temp") for i, (_, _, lines) in enumerate(lives))
    steps = []
    for t in range(13):
        writes = [Operand(f"s{i}", "w") for i, (first, _, _) in enumerate(lives) if first == t]
        reads = [Operand(f"s{i}", "r") for i, (first, more, _) in enumerate(lives) if more and first + more == t]
        steps.append(Step(f"t{t}", "k", (*reads, *writes), (), Size.of(1)))
    return understand(PlanRequest(Schedule(tuple(steps), storages, (), ()), (), (), HELD, 1, RATES))


def _optimum(lives: Lives) -> int:
    """The least height of all placements, in bytes: offsets and, per pair that lives together, which one is below."""
    n = len(lives)
    pairs = [
        (i, j) for i, j in itertools.combinations(range(n), 2)
        if lives[i][0] <= lives[j][0] + lives[j][1] and lives[j][0] <= lives[i][0] + lives[i][1]
    ]  # fmt: skip
    size = [lines for _, _, lines in lives]
    big, width = sum(size), n + 1 + len(pairs)
    rows, upper = [], []
    for i in range(n):
        row = np.zeros(width)
        row[i], row[n] = 1, -1
        rows.append(row)
        upper.append(-size[i])
    for k, (i, j) in enumerate(pairs):
        for low, high, sign, limit in ((i, j, 1, big - size[i]), (j, i, -1, -size[j])):
            row = np.zeros(width)
            row[low], row[high], row[n + 1 + k] = 1, -1, sign * big
            rows.append(row)
            upper.append(limit)
    ends = Bounds(np.zeros(width), np.array([big] * (n + 1) + [1] * len(pairs)))
    goal = np.zeros(width)
    goal[n] = 1
    below = LinearConstraint(np.array(rows), ub=np.array(upper))
    found = milp(goal, constraints=below, bounds=ends, integrality=np.ones(width))
    return round(float(found.fun)) * 64


@_SETTINGS
@given(LIVES)
@example([(0, 3, 7), (1, 3, 2), (4, 0, 2), (4, 0, 6)])
def test_small_placements_are_near_the_exact_optimum(lives: Lives) -> None:
    problem = _problem(lives)
    packing = pack(problem, tuple(range(13)))
    assert packing.height >= _optimum(lives)
    assert packing.height <= 1.05 * _optimum(lives)


@_SETTINGS
@given(LIVES)
def test_storages_that_live_together_lie_apart(lives: Lives) -> None:
    packing = pack(_problem(lives), tuple(range(13)))
    for (i, (a, more_a, size_a)), (j, (b, more_b, size_b)) in itertools.combinations(enumerate(lives), 2):
        if a <= b + more_b and b <= a + more_a:
            low, high = sorted(((packing.offsets[i], 64 * size_a), (packing.offsets[j], 64 * size_b)))
            assert low[0] + low[1] <= high[0]


def test_a_chain_in_place_takes_one_place() -> None:
    storages = tuple(Storage(f"s{i}", Size.of(4096 - 64 * i), "temp") for i in range(4))
    steps = [Step("start", "k", (Operand("s0", "w"),), (), Size.of(1))]
    for i in range(3):
        operands = (Operand(f"s{i}", "r"), Operand(f"s{i + 1}", "w"))
        steps.append(Step(f"t{i}", "k", operands, (), Size.of(1), inplace=((0, 1),)))
    request = PlanRequest(Schedule(tuple(steps), storages, (), ()), (), (), HELD, 1, RATES)
    packing = pack(understand(request), (0, 1, 2, 3))
    assert packing.height == 4096
    assert packing.taken == {1: 0, 2: 1, 3: 2}


def test_a_unit_goes_into_the_first_hole_that_is_long_enough_on_pages() -> None:
    assert needed_bytes([], 8192) == 8192
    assert needed_bytes([(0, 64)], 0) == 64
    assert needed_bytes([(0, 64), (12288, 20000)], 8192) == 20000
    assert needed_bytes([(0, 64), (12224, 20000)], 8192) == 20480 + 8192


def test_touching_ranges_are_joined() -> None:
    assert merge([(0, 64), (64, 128), (100, 110), (192, 256)]) == [(0, 128), (192, 256)]
