"""Several pieces in one budget: what is chosen fits, shares what is equal, and is no slower than it need be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ullage.plan.shared import Resident, Rung, Sharing, check_sharing, share

PAGE = 4096


def resident(content: int, pages: int = 1, whole: bool = True) -> Resident:
    """A resident of whole pages, or of a page's worth of bytes beside others."""
    return Resident(content, 0, 1, 0, pages * PAGE if whole else 64 * pages, whole)


def rung(index: int, seconds: float, space_pages: int, *residents: Resident) -> Rung:
    """A plan that holds a page of its own and two of stacks."""
    return Rung(index, seconds, space_pages * PAGE, PAGE, 2 * PAGE, dict(enumerate(residents)))


def test_the_space_and_the_stacks_are_counted_once() -> None:
    sharing = Sharing({0: rung(0, 1.0, 3, resident(1)), 1: rung(0, 1.0, 5, resident(2))})
    assert sharing.space_bytes == 5 * PAGE
    assert sharing.region_bytes == 7 * PAGE
    assert sharing.peak_bytes == (7 + 2 + 2) * PAGE


def test_equal_residents_lie_at_one_place() -> None:
    common = resident(1, 4)
    sharing = Sharing({0: rung(0, 1.0, 1, common), 1: rung(0, 1.0, 1, common, resident(2))})
    assert sharing.region_bytes == (1 + 4 + 1) * PAGE
    assert sharing.saved_bytes == 4 * PAGE


def test_without_a_budget_every_piece_has_its_fastest_plan() -> None:
    slow, fast = rung(0, 2.0, 1), rung(1, 1.0, 1, resident(1))
    found = share({0: [slow, fast], 1: [fast]}, None)
    assert found is not None
    assert found.rungs == {0: fast, 1: fast}


def test_the_piece_that_loses_least_gives_way() -> None:
    patient = [rung(0, 1.1, 1), rung(1, 1.0, 1, resident(1, 8))]
    eager = [rung(0, 9.0, 1), rung(1, 1.0, 1, resident(2, 8))]
    found = share({0: patient, 1: eager}, (1 + 8 + 2 + 2) * PAGE)
    assert found is not None
    assert [found.rungs[0].plan_index, found.rungs[1].plan_index] == [0, 1]


def test_a_wide_space_is_given_up_when_weights_need_it_more() -> None:
    ring = [rung(0, 1.0, 8), rung(1, 1.2, 1)]
    pinned = [rung(0, 9.0, 1), rung(1, 1.0, 1, resident(2, 6))]
    found = share({0: ring, 1: pinned}, (1 + 6 + 2 + 2) * PAGE)
    assert found is not None
    assert found.rungs[1].plan_index == 1
    assert found.space_bytes == PAGE


def test_what_does_not_fit_is_refused() -> None:
    assert share({0: [rung(0, 1.0, 4)], 1: [rung(0, 1.0, 1)]}, 7 * PAGE) is None
    assert share({0: [rung(0, 1.0, 4)], 1: [rung(0, 1.0, 1)]}, 8 * PAGE) is not None


RESIDENTS = st.builds(resident, st.integers(0, 3), st.integers(1, 3), st.booleans())
RUNGS = st.lists(
    st.tuples(st.floats(0.1, 9), st.integers(1, 6), st.lists(RESIDENTS, max_size=4)), min_size=1, max_size=4
)


def distinct(residents: list[Resident]) -> list[Resident]:
    """One resident for each content: a content has one size."""
    return list({(r.content, r.whole_pages): r for r in residents}.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(RUNGS, min_size=1, max_size=4), st.integers(4, 40))
def test_whatever_is_chosen_fits_and_nothing_overlaps(
    drawn: list[list[tuple[float, int, list[Resident]]]], pages: int
) -> None:
    """A choice is found whenever all pieces with the least memory each would fit one of the spaces that are tried."""
    pieces = {
        n: [rung(i, s, space, *distinct(rs)) for i, (s, space, rs) in enumerate(rungs)] for n, rungs in enumerate(drawn)
    }
    budget = pages * PAGE
    found = share(pieces, budget)
    possible = [Sharing(dict(enumerate(choice))) for choice in itertools.product(*pieces.values())]
    if found is None:
        assert min(_separately(sharing) for sharing in possible) > budget
        return
    check_sharing(found, budget)
    assert found.rungs.keys() == pieces.keys()


def _separately(sharing: Sharing) -> int:
    """What a choice takes when nothing is shared but the space and the stacks, in whole pages."""
    residents = sum(rung.resident_bytes for rung in sharing.rungs.values())
    return sharing.space_bytes + residents + PAGE * 2 * len(sharing.rungs) + sharing.stack_bytes + sharing.own_bytes


def test_the_check_sees_overlaps_and_excess() -> None:
    sharing = Sharing({0: rung(0, 1.0, 3, resident(1))})
    with pytest.raises(AssertionError, match="exceed"):
        check_sharing(sharing, sharing.peak_bytes - 1)
    sharing.__dict__["offsets"] = {resident(1): 2 * PAGE}
    with pytest.raises(AssertionError, match="overlaps"):
        check_sharing(sharing, None)
