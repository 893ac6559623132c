"""Random models at random budgets: right, inside the budget, and the same bits at every budget."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.random_models import networks
from ullage.driver import Options, Prepared, prepare
from ullage.frontends.load import load_model
from ullage.plan.plan import Plan
from ullage.runtime.load import load
from ullage.target import Target


def results(prepared: Prepared, plan: Plan, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of the second run of an artifact; the runtime holds what the plan it chose says, within the budget."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ullage"
        prepared.write(plan, path)
        with load(path, plan.budget_bytes) as runner:
            runner.run(inputs)
            outputs = [np.array(v) for v in runner.run(inputs).values()]
            peak_bytes = runner.plan.raw.peak_bytes
            assert plan.budget_bytes is None or peak_bytes <= plan.budget_bytes
            assert runner.measured_bytes() <= peak_bytes * 1.02
            return outputs


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(networks(), st.floats(0, 1))
def test_random_models_keep_the_promise(network: tuple[nn.Module, tuple[torch.Tensor, ...]], share: float) -> None:
    model, inputs = network
    captured = load_model(model, inputs)
    prepared = prepare(captured, Options(Target.parse("cpu", threads=2)))
    arrays = {spec.name: x.numpy() for spec, x in zip(captured.inputs, inputs, strict=True)}
    least, most = prepared.minimum_bytes, prepared.plan(None).peak_bytes
    middle = least + int(share * max(0, most - least))
    reference = results(prepared, prepared.plan(None), arrays)
    for budget in {least, max(least, middle)}:
        plan = prepared.plan(budget)
        found = results(prepared, plan, arrays)
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(reference, found, strict=True))
        assert plan.peak_bytes <= budget
    _check_truth(model, inputs, reference)


def _check_truth(model: nn.Module, inputs: tuple[torch.Tensor, ...], found: list[np.ndarray]) -> None:
    eager = model(*inputs)
    truth = model.double()(*(x.double() for x in inputs))
    for ours, single, exact in zip(found, eager, truth, strict=True):
        scale = exact.norm().clamp_min(1e-30)
        reached = (torch.from_numpy(ours).double() - exact).norm() / scale
        assert reached <= max(2 * (single.double() - exact).norm() / scale, 1e-5)
