"""The ring's profile of last uses, against a plain array of pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ullage.passes.plan.ring import NEVER, Bundle, Demand, Profile, Stop, place

PAGE = 4096


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(1, 8), st.integers(0, 3)), max_size=30), st.integers(1, 20))
def test_the_window_free_for_longest_is_found(uses: list[tuple[int, int, int]], pages: int) -> None:
    profile, array, launch = Profile(20 * PAGE), [NEVER] * 20, 0
    for low, count, wait in uses:
        launch, high = launch + wait, min(20, low + count)
        profile.use(low * PAGE, high * PAGE, launch)
        array[low:high] = [launch] * (high - low)
        assert profile.latest(low * PAGE, high * PAGE) == launch
    assert all(profile.latest(i * PAGE, (i + 1) * PAGE) == last for i, last in enumerate(array))
    windows = [max(array[i : i + pages]) for i in range(20 - pages + 1)]
    base, latest = profile.earliest_window(pages * PAGE, launch + 1, NEVER)
    assert latest == min(windows) == max(array[base // PAGE : base // PAGE + pages])


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(1, 8)), max_size=30), st.integers(1, 20), st.integers(0, 30))
def test_a_window_that_is_free_soon_enough_is_as_good(uses: list[tuple[int, int]], pages: int, soon: int) -> None:
    profile, array = Profile(20 * PAGE), [NEVER] * 20
    for launch, (low, count) in enumerate(uses):
        high = min(20, low + count)
        profile.use(low * PAGE, high * PAGE, launch)
        array[low:high] = [launch] * (high - low)
    least = min(max(array[i : i + pages]) for i in range(20 - pages + 1))
    base, latest = profile.earliest_window(pages * PAGE, len(uses) + 1, soon)
    assert latest == max(array[base // PAGE : base // PAGE + pages])
    assert latest == least or latest < soon


def test_ranges_off_the_page_block_the_pages_they_touch() -> None:
    profile = Profile(3 * PAGE)
    profile.use(PAGE - 64, PAGE + 64, 5)
    assert profile.earliest_window(PAGE, 6, NEVER) == (2 * PAGE, NEVER)
    assert profile.earliest_window(2 * PAGE, 6, NEVER) == (PAGE, 5)
    with pytest.raises(ValueError, match="no window"):
        profile.earliest_window(4 * PAGE, 6, NEVER)


def _one(block: int, launch: int, pages: int = 1) -> Stop:
    demand = Demand(block, pages * PAGE, launch, launch)
    return Stop(launch, launch, (), [(launch, Bundle(demand, demand.bytes, ()))])


def test_a_ring_of_two_reads_one_block_ahead_across_calls() -> None:
    ring = place(2 * PAGE, [_one(i, i) for i in range(4)], 4, True)
    assert [at for at, _ in ring.reads] == [1, 2]
    assert ring.ahead == ((3, 0), (4, 1))
    assert ring.offsets[0] == ring.offsets[2] != ring.offsets[1] == ring.offsets[3]


def test_without_wrapping_every_read_is_inside_the_call() -> None:
    ring = place(2 * PAGE, [_one(i, i) for i in range(4)], 4, False)
    assert ring.reads == ((0, 0), (0, 1), (1, 2), (2, 3))
    assert ring.ahead == ()


def test_a_lasting_block_leaves_room_for_the_blocks_of_its_step() -> None:
    lasting = Demand(9, PAGE, 0, 2)
    bundles = [(i, Bundle(Demand(i, size, i, i), 3 * PAGE, (lasting,) if not i else ()))
               for i, size in enumerate((PAGE, 3 * PAGE, 2 * PAGE))]  # fmt: skip
    bundles[1:] = [(i, Bundle(b.own, b.own.bytes, ())) for i, b in bundles[1:] if b.own]
    ring = place(4 * PAGE, [Stop(0, 2, (), bundles)], 3, False)
    kept = range(ring.offsets[9], ring.offsets[9] + PAGE)
    assert ring.offsets[1] + 3 * PAGE <= kept.start or ring.offsets[1] >= kept.stop
    assert ring.offsets[2] + 2 * PAGE <= kept.start or ring.offsets[2] >= kept.stop
