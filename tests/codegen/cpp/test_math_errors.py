"""Every elementary function stays within its stated error over all exponents of float32, on every instruction set."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.vector_math import table
from tests.codegen.cpp.loop_runner import ISAS, target
from ullage.codegen.cpp import toolchain
from ullage.codegen.cpp.accuracy import FUNCTIONS, Worst, arguments, measure, ulps

DOCUMENT = Path(__file__).parents[3] / "docs" / "vector-math.md"
# One low digit of a coefficient of each of these functions; erf and tanh have others on AVX-512.
BROKEN = {
    "exp": ("0x1.55548e", "0x1.55588e"), "log": ("0x1.99a4b6", "0x1.99b4b6"), "cos": ("0x1.555556p-5", "0x1.555856p-5"),
    "tan": ("0x1.110d44", "0x1.111d44"), "asin": ("0x1.3340e6", "0x1.3350e6"), "atan": ("0x1.23b6c4", "0x1.23bac4"),
    "sinh": ("0x1.1110ep-7f", "0x1.1130ep-7f"), "tanh": ("0x1.110cee", "0x1.112cee"),
    "erf": ("0x1.812744", "0x1.812944"), "pow": ("0.0555041086", "0.0555041286"),
}  # fmt: skip


def beyond(measured: list[Worst]) -> dict[str, Worst]:
    """The functions whose error is above what is stated (rounding errors of the truth itself are let through)."""
    return {w.function: w for w in measured if w.ulp > FUNCTIONS[w.function].limit_ulp + 1e-6}


def test_errors_stay_within_the_bounds_over_all_exponents() -> None:
    measured = measure([target(isa) for isa in ISAS], mantissas=1024)
    assert {(w.function, w.isa) for w in measured} == {(f, isa) for f in FUNCTIONS for isa in ISAS}
    assert beyond(measured) == {}


def test_no_bound_is_above_two_ulp() -> None:
    assert max(f.limit_ulp for f in FUNCTIONS.values()) <= 2


def test_arguments_cover_both_signs_of_every_exponent() -> None:
    x = arguments(mantissas=3)
    assert set((x.view(np.uint32) >> 23).tolist()) == set(range(512))
    assert np.isinf(x).any() and np.isnan(x).any() and (x == 0).any()


def _replaced(read: Callable[[Sequence[str]], str]) -> Callable[[Sequence[str]], str]:
    """The headers with every coefficient of `BROKEN` changed; each must be there."""

    def changed(names: Sequence[str]) -> str:
        text = read(names)
        for old, new in BROKEN.values():
            assert not names or old in text, old
            text = text.replace(old, new)
        return text

    return changed


def test_a_coefficient_that_is_a_little_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "header_text", _replaced(toolchain.header_text))
    assert set(BROKEN) <= set(beyond(measure([target("generic")], mantissas=64)))


def test_one_ulp_and_the_sign_of_a_zero_are_seen() -> None:
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    assert ulps(np.nextafter(one, np.float32(2)), one.astype(np.float64))[0] == 1
    assert ulps(np.array([np.nan], np.float32), one.astype(np.float64))[0] == np.inf
    assert ulps(np.array([np.inf], np.float32), one.astype(np.float64))[0] == np.inf
    assert ulps(-zero, zero.astype(np.float64))[0] == np.inf


def test_every_elementary_operator_has_a_bound() -> None:
    """What generated kernels call by name is in the table."""
    header = (toolchain.INCLUDE / "math.h").read_text()
    public = set(re.findall(r"^ULL_LIBM\(ull_(\w+),", header, re.MULTILINE))
    assert public <= set(FUNCTIONS)


def test_the_document_states_the_bounds() -> None:
    stated = [row.split("|") for row in DOCUMENT.read_text().splitlines() if row.startswith("| `")]
    wanted = [row.split("|") for row in table([]) if row.startswith("| `")]
    assert [(r[1], r[2], r[-2]) for r in stated] == [(r[1], r[2], r[-2]) for r in wanted]
