"""Every pass keeps the meaning of random graphs, leaves legal ones, and has nothing to do the second time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.graphs import exact_graphs, graphs, random_inputs
from ullage.graph.captured import CapturedModel
from ullage.graph.reference import run_captured
from ullage.graph.show import show
from ullage.passes.instruments import Verify
from ullage.passes.manager import Pass, PassManager
from ullage.passes.pipelines import KNOWN, passes_of

PASSES = [kind() for kind in KNOWN.values()]
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
QUICK = settings(max_examples=20, deadline=None, suppress_health_check=SLOW, derandomize=True)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Integers that differ where floats differ at all, one NaN being like another."""
    return torch.where(tensor.isnan(), 0.5, tensor).contiguous().view(torch.int64)


def outputs(model: CapturedModel) -> tuple[torch.Tensor, ...]:
    return run_captured(model, random_inputs(model))


@pytest.mark.parametrize("step", PASSES, ids=str)
@QUICK
@given(model=exact_graphs())
def test_bits_do_not_change(step: Pass, model: CapturedModel) -> None:
    after, _ = PassManager((step,), (Verify(),)).run(model)
    for old, new in zip(outputs(model), outputs(after), strict=True):
        assert old.shape == new.shape and torch.equal(bits(old), bits(new)), show(model) + show(after)


@pytest.mark.parametrize("step", PASSES, ids=str)
@QUICK
@given(model=graphs())
def test_meaning_is_kept_and_a_second_run_does_nothing(step: Pass, model: CapturedModel) -> None:
    manager = PassManager((step,))
    once, _ = manager.run(model)
    twice, rewrites = manager.run(once)
    assert rewrites == [] and show(once) == show(twice)
    _assert_close(model, once)


@settings(QUICK, max_examples=60)
@given(model=graphs(12))
def test_the_whole_pipeline_keeps_the_meaning(model: CapturedModel) -> None:
    after, _ = PassManager(passes_of("clean"), (Verify(),)).run(model)
    _assert_close(model, after)


@settings(QUICK, max_examples=60)
@given(model=exact_graphs(12))
def test_the_whole_pipeline_keeps_the_bits(model: CapturedModel) -> None:
    after, _ = PassManager(passes_of("clean"), (Verify(),)).run(model)
    for old, new in zip(outputs(model), outputs(after), strict=True):
        assert torch.equal(bits(old), bits(new)), show(model) + show(after)


def _assert_close(before: CapturedModel, after: CapturedModel) -> None:
    for old, new in zip(outputs(before), outputs(after), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-9, equal_nan=True)
