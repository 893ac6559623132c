"""Lifetimes, dependencies and bounds of straight lists of steps."""

from __future__ import annotations

from ullage.analysis.cost import roofline_seconds, transfer_seconds
from ullage.analysis.lifetimes import Access, Lifetime, lifetimes, live_bytes, predecessors, unavoidable_bytes


def _access(reads: str, writes: str) -> Access:
    return Access(frozenset(reads), frozenset(writes))


STEPS = [_access("", "a"), _access("a", "b"), _access("a", "c"), _access("bc", "d"), _access("d", "a")]
SIZES = {"a": 10, "b": 1, "c": 2, "d": 4}


def test_a_name_lives_from_first_touch_to_last() -> None:
    assert lifetimes(STEPS) == {"a": Lifetime(0, 4), "b": Lifetime(1, 3), "c": Lifetime(2, 3), "d": Lifetime(3, 4)}


def test_live_bytes_count_everything_between() -> None:
    assert live_bytes(STEPS, SIZES) == (10, 11, 13, 17, 14)


def test_the_bound_is_the_most_one_step_touches() -> None:
    assert unavoidable_bytes(STEPS, SIZES, [0, 0, 0, 0, 0]) == 14
    assert unavoidable_bytes(STEPS, SIZES, [0, 0, 0, 9, 0]) == 16


def test_dependencies_are_read_after_write_write_after_read_and_write_after_write() -> None:
    steps = [*STEPS, _access("", "a")]
    assert predecessors(steps) == (
        frozenset(), frozenset({0}), frozenset({0}), frozenset({1, 2}), frozenset({0, 1, 2, 3}), frozenset({4}),
    )  # fmt: skip


def test_an_update_in_place_orders_readers_on_both_sides() -> None:
    steps = [_access("", "a"), _access("a", "b"), _access("a", "a"), _access("a", "c")]
    assert predecessors(steps) == (frozenset(), frozenset({0}), frozenset({0, 1}), frozenset({2}))


def test_costs_are_bound_by_the_slower_resource() -> None:
    assert roofline_seconds(100, 10, 10.0, 10.0) == 10.0
    assert roofline_seconds(10, 100, 10.0, 10.0) == 10.0
    assert transfer_seconds(100, 10.0, 0.5) == 10.5
