"""`--input` and `--dynamic` as text."""

from __future__ import annotations

import pytest

from ullage.cli_source import parse_inputs, parse_ranges
from ullage.errors import InputError


def test_inputs_are_names_with_dtype_and_shape() -> None:
    found = parse_inputs(["x=float32[1,3,224,224]", "ids=int64[2, 7]", "scale=float64[]"])
    assert found == {"x": ("float32", (1, 3, 224, 224)), "ids": ("int64", (2, 7)), "scale": ("float64", ())}


def test_no_inputs_are_none() -> None:
    assert parse_inputs([]) is None
    assert parse_ranges([]) is None


@pytest.mark.parametrize("text", ["x", "x=float32", "x=float31[1]", "=float32[1]", "x=float32[0]", "x=float32[-1]"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--input"):
        parse_inputs([text])


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="twice"):
        parse_inputs(["x=float32[1]", "x=float32[2]"])


def test_ranges_are_bounds_by_input_and_axis() -> None:
    found = parse_ranges(["x.0=1..32", "x.1=2..8", "layer.y.0=4..4"])
    assert found == {"x": {0: (1, 32), 1: (2, 8)}, "layer.y": {0: (4, 4)}}


@pytest.mark.parametrize("text", ["x=1..2", "x.0=2..1", "x.0=0..3", "x.0=1..", "x.0=1-3", "x.a=1..3"])
def test_other_ranges_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--dynamic"):
        parse_ranges([text])
