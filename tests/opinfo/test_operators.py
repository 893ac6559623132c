"""Core operators: PyTorch's own samples of each, and the page that lists them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.opinfo.catalogue import Case, admitted, cases, core_operators
from tests.opinfo.judge import judged
from tests.opinfo.table import REASONS, how, page

MODULES = 3
"""Compiled models that the samples are spread over."""


def lowered() -> list[str]:
    """Core operators that something is made of."""
    names = [name for name in core_operators() if name not in REASONS]
    return [name for name in names if any(how(o, torch.float32) != "–" for o in core_operators()[name])]


def samples(part: int) -> list[Case]:
    """One sample of each operator of a part, in a dtype that goes round with the operators."""
    chosen: list[Case] = []
    for number, name in list(enumerate(lowered()))[part::MODULES]:
        dtypes = admitted(name)
        if dtypes:
            chosen += islice(cases(name, dtypes[number % len(dtypes)], 1), 1)
    return chosen


@pytest.mark.parametrize("part", range(MODULES))
def test_operators_give_what_pytorch_gives(part: int) -> None:
    wrong = [f"{case}: {fault}" for case, fault in judged(samples(part)) if fault is not None]
    assert not wrong, "\n".join(wrong)


def test_the_page_of_operators_is_up_to_date() -> None:
    assert Path("docs/operators.md").read_text() == page()
