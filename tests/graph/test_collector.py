"""The collector rests inside, and is as it was afterwards."""

from __future__ import annotations

import gc

import pytest

from ullage.graph.collector import resting_collector


def test_the_collector_rests_and_is_put_back() -> None:
    with resting_collector():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_is_put_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="inside"), resting_collector():
        raise ValueError("inside")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with resting_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_as_a_decorator_every_call_rests() -> None:
    @resting_collector()
    def resting() -> bool:
        return not gc.isenabled()

    assert [resting(), resting(), gc.isenabled()] == [True, True, True]
