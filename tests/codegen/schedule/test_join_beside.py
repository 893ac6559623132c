"""Horizontal fusion: small independent kernels of equal shape are one launch; others are left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.codegen.schedule.scheduling import Function, Tensors, check, schedule
from tests.codegen.schedule.whole_flow import artifact, budgets, error, prepared, results
from ullage.runtime.load import load

torch.manual_seed(0)
Q, K = torch.randn(2, 8, 1, 32), torch.randn(2, 8, 1, 32)


def turned(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding by halves."""
    return x * m.cos + torch.cat((-x[..., 16:], x[..., :16]), -1) * m.sin


def rotary(m: Any, q: torch.Tensor, k: torch.Tensor) -> Tensors:
    """Queries and keys of few rows, turned by the same angles."""
    return turned(m, q), turned(m, k)


def norms(m: Any, q: torch.Tensor, k: torch.Tensor) -> Tensors:
    """Norms of queries and of keys, each along its rows."""
    return F.rms_norm(q, (32,), m.cos), F.rms_norm(k, (32,), m.sin)


def three(_: Any, q: torch.Tensor, k: torch.Tensor) -> Tensors:
    """Three values of two inputs, which are no chain."""
    return q.exp(), k.tanh(), q[:, :1].sin()


def chain(m: Any, q: torch.Tensor, k: torch.Tensor) -> Tensors:
    """Norms of equal shape where the second reads what the first makes, through a product."""
    first = F.layer_norm(q, (32,))
    return first, F.layer_norm(first @ (first * k).mT, (1,))


def unlike(_: Any, q: torch.Tensor, k: torch.Tensor) -> Tensors:
    """A softmax and a pointwise value of one shape: what suits one kernel does not suit the other."""
    return q.softmax(-1), k.exp()


def large(_: Any, q: torch.Tensor, k: torch.Tensor) -> Tensors:
    """Values of more bytes than a launch is worth."""
    return q.mT * k, k.mT * q


ANGLES = {"cos": torch.rand(32), "sin": torch.rand(32)}
JOINED = {"rotary": (rotary, 1), "norms": (norms, 1), "three": (three, 2)}
APART = {"chain": (chain, 3), "unlike": (unlike, 2), "large": (large, 2)}
CASES = JOINED | APART


def module(name: str) -> nn.Module:
    """The function of a case with its tensors."""
    return Function(CASES[name][0], w=torch.randn(32, 32) / 6, **ANGLES)


@pytest.mark.parametrize("name", CASES)
def test_launches(name: str) -> None:
    scheduled = schedule(module(name), (Q, K))
    assert len(scheduled.schedule.steps) == CASES[name][1]
    check(scheduled, module(name), (Q, K))


@pytest.mark.parametrize("name", JOINED)
def test_joined_kernels_are_right_at_every_budget(name: str) -> None:
    case = module(name)
    truth = case.double()(Q.double(), K.double())
    model = prepared(module(name), (Q, K))
    with artifact(model) as path:
        for budget in budgets(model):
            with load(path, budget) as runner:
                found = results(runner, (Q, K))
            assert all(error(ours, wanted) < 1e-6 for ours, wanted in zip(found, truth, strict=True))


def test_what_both_read_is_one_operand() -> None:
    (step,) = schedule(module("rotary"), (Q, K)).schedule.steps
    targets = [operand.target for operand in step.operands]
    assert targets.count("b_cos") == targets.count("b_sin") == 1


def test_a_joined_kernel_writes_little_early() -> None:
    """Eleven values of 8 KiB each: launches of four of them, and what is left."""
    case = Function(lambda _, *xs: tuple(x.exp() for x in xs))
    inputs = tuple(torch.randn(64, 32) for _ in range(11))
    scheduled = schedule(case, inputs)
    assert [len(step.operands) for step in scheduled.schedule.steps] == [8, 8, 6]
    check(scheduled, case, inputs)
