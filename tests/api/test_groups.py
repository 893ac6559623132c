"""Shape classes and pieces in one budget: what they hold together, as the kernel counts it, and what gives way."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ullage

PAGE = 4096
BATCHES = (4, 8, 1)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A mebibyte of weights in four layers."""
    torch.manual_seed(3)
    layers = [layer for _ in range(4) for layer in (nn.Linear(256, 256), nn.ReLU())]
    return nn.Sequential(*layers).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs() -> list[torch.Tensor]:
    return [torch.randn(batch, 256) for batch in BATCHES]


@pytest.fixture(scope="module")
def alone(net: nn.Module, inputs: Sequence[torch.Tensor]) -> list[Any]:
    """Every shape class compiled for itself, without a budget."""
    return [ullage.compile(net, (x,)) for x in inputs]


def least(net: nn.Module, x: torch.Tensor) -> int:
    """The least budget of one shape class."""
    found = ullage.minimum_budget(net, (x,)).ram
    assert found is not None
    return found


def run_all(made: Any, alone: Sequence[Any], inputs: Sequence[torch.Tensor], budget: int) -> None:
    """Two rounds over all classes: the bits of each alone, and never more memory than the budget."""
    for _ in range(2):
        for one, x in zip(alone, inputs, strict=True):
            assert torch.equal(made(x), one(x))
            assert made.group.measured_bytes() <= sum(made.group.held_bytes().values()) <= budget


def test_shape_classes_hold_their_weights_once(
    net: nn.Module, inputs: Sequence[torch.Tensor], alone: Sequence[Any]
) -> None:
    """A budget in which one class fits with all its weights takes all three of them with theirs."""
    budget = max(one.plan.peak_bytes["ram"] for one in alone) + 64 * PAGE
    assert budget < sum(one.plan.peak_bytes["ram"] for one in alone) / 2
    made = ullage.compile(net, budget=budget)
    run_all(made, alone, inputs, budget)
    stats = made.stats()
    assert stats["peak_bytes"] == sum(stats["high_water_bytes"].values()) <= budget == stats["budget_bytes"]
    assert [part["loaded"] for part in stats["pieces"]] == [True] * 3
    weights = 4 * 256 * 256 * 4
    assert all(part["resident_bytes"] >= weights for part in stats["pieces"])
    assert stats["high_water_bytes"]["arena"] < 1.1 * weights


def test_pieces_give_weights_back_until_all_fit(
    net: nn.Module, inputs: Sequence[torch.Tensor], alone: Sequence[Any]
) -> None:
    budget = 1200 << 10
    made = ullage.compile(net, budget=budget)
    run_all(made, alone, inputs, budget)
    parts = made.group.parts()
    assert all(part.loaded for part in parts)
    assert any(part.resident_bytes < 1 << 20 for part in parts)
    assert f"{len(parts)} pieces in one budget of 1.172 MiB" in made.explain()
    assert "float32[8, 256]" in made.explain()


def test_what_does_not_fit_together_takes_turns(
    net: nn.Module, inputs: Sequence[torch.Tensor], alone: Sequence[Any]
) -> None:
    """At the least budget of the largest class alone there is no room for a second one's code."""
    budget = max(least(net, x) for x in inputs)
    made = ullage.compile(net, budget=budget)
    run_all(made, alone, inputs, budget)
    assert sum(part.loaded for part in made.group.parts()) < 3
    assert "not loaded" in made.explain()


def test_a_class_that_fits_no_budget_is_named(net: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
    budget = least(net, inputs[0])
    made = ullage.compile(net, budget=budget)
    made(inputs[0])
    big = torch.randn(4096, 256)
    with pytest.raises(ullage.BudgetTooSmall, match=r"Sequential\(float32\[4096, 256\]\), a piece of Sequential,") as e:
        made(big)
    assert e.value.requested == {"ram": budget}
    assert e.value.minimum == {"ram": least(net, big)}
    assert "1 other pieces hold" in str(e.value)
    assert torch.allclose(made(inputs[0]), net(inputs[0]), atol=1e-5)


def test_closing_gives_everything_back_until_the_next_call(net: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
    made = ullage.compile(net, budget="4MiB")
    kept = made(inputs[0])
    before = kept.clone()
    made.close()
    assert made.group.measured_bytes() == 0
    assert torch.equal(made(inputs[0]), before)
    assert torch.equal(kept, before)


def test_a_reset_frees_the_pieces_and_their_files(net: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
    made = ullage.compile(net, budget="4MiB")
    made(inputs[0])
    folder: Path = made._current._home.path.parent
    made.reset()
    gc.collect()
    assert made.group.parts() == ()
    assert not folder.exists()


def test_more_classes_than_the_limit_are_refused(net: nn.Module) -> None:
    made = ullage.compile(net, budget="4MiB", recompile_limit=1)
    made(torch.randn(2, 256))
    with pytest.raises(ullage.InputError, match=r"1 classes of shapes.*dynamic_shapes"):
        made(torch.randn(3, 256))
    made(torch.randn(2, 256))


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
def test_a_bad_limit_is_refused_at_once(limit: Any) -> None:
    with pytest.raises(ullage.InputError, match="recompile_limit"):
        ullage.compile(recompile_limit=limit)
