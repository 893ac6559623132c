"""Models over integers and booleans are exact; casts between types are torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.codegen.schedule.scheduling import Function, Tensors
from tests.codegen.schedule.whole_flow import prepared, results, running, tensors

torch.manual_seed(0)
INTS = torch.randint(-100, 100, (3, 17))
SMALL = torch.randint(-100, 100, (3, 17), dtype=torch.int32)
BYTES = torch.randint(0, 256, (3, 17), dtype=torch.uint8)
BITS = torch.rand(3, 17) > 0.5


def arithmetic(_: Any, a: torch.Tensor, b: torch.Tensor) -> Tensors:
    """Python's and C's division, remainders, powers and comparisons."""
    d = b.abs() + 1
    return a + b * 3, a // d, torch.div(a, d, rounding_mode="trunc"), a % d, a.clamp(-5, 5), (a > b).int(), a**2


def logic(_: Any, a: torch.Tensor, b: torch.Tensor) -> Tensors:
    """Booleans combined, negated, counted."""
    return a & b, a | ~b, a ^ b, a.any(-1), (a | b).all(-1), a.sum(-1), torch.where(a, 1, 2), a.cumsum(-1)


def extremes(_: Any, a: torch.Tensor) -> Tensors:
    """Reductions of integers."""
    return (
        a.sum(),
        a.amax(-1),
        a.amin(0),
        a.argmax(-1),
        a.prod(0),
        a.cumsum(1),
        a.flip(1),
        *a.max(-1),
        *a.min(0, keepdim=True),
    )


def casts(_: Any, a: torch.Tensor) -> Tensors:
    """Conversions there and back."""
    return a.float() / 2, a.to(torch.int8), a.bool(), (a.float() * 0.37).to(torch.int64), a.double() * 0.1


def lookups(m: Any, a: torch.Tensor) -> Tensors:
    """Tables of integers and booleans by integers."""
    at = a.abs() % 10
    return m.numbers[at], m.flags[at], m.numbers[None].expand(3, 10).gather(1, at[:, :4]), at.index_select(1, at[0, :3])


def bytes_in(_: Any, a: torch.Tensor) -> Tensors:
    """Images as they come: bytes that are scaled."""
    return (a.float() / 255 - 0.5), a + 1, a.max(0).values, a // 2


CASES: dict[str, tuple[Callable[..., Any], Tensors]] = {
    "arithmetic_int64": (arithmetic, (INTS, INTS.flip(0))),
    "arithmetic_int32": (arithmetic, (SMALL, SMALL.flip(0))),
    "logic": (logic, (BITS, BITS.flip(1))),
    "extremes": (extremes, (INTS,)),
    "casts": (casts, (INTS,)),
    "lookups": (lookups, (INTS,)),
    "bytes": (bytes_in, (BYTES,)),
}


@pytest.mark.parametrize("name", CASES)
def test_exact(name: str) -> None:
    run, inputs = CASES[name]
    module = Function(run, numbers=torch.arange(10) * 7, flags=torch.arange(10) % 3 == 0)
    model = prepared(module, inputs)
    with running(model) as runner:
        found = results(runner, inputs)
    for number, (ours, wanted) in enumerate(zip(found, tensors(module(*inputs)), strict=True)):
        assert ours.dtype == wanted.dtype and torch.equal(ours, wanted), f"result {number}"
