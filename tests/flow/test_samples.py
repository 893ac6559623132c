"""Every operator sample through the whole flow: at least as close to float64 as eager float32 is, times two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.samples import FAMILIES, Family, family
from ullage.driver import Options, prepare
from ullage.frontends.load import load_model
from ullage.runtime.load import load
from ullage.target import Target

RELATIVE = 3e-6
"""Floor of the allowed error relative to the largest value of a result: a few units in the last place of float32."""


def run(model: Family, path: Path, target: str) -> list[torch.Tensor]:
    """The results of all samples from a written artifact."""
    captured = load_model(model, model.inputs)
    prepared = prepare(captured, Options(Target.parse(target, threads=2)))
    prepared.write(prepared.plan(None), path)
    with load(path) as runner:
        names = [spec.name for spec in captured.inputs]
        found = runner.run({n: t.numpy() for n, t in zip(names, model.inputs, strict=True)})
    return [torch.from_numpy(np.array(value)) for value in found.values()]


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_are_as_close_to_the_truth_as_eager(name: str, tmp_path: Path) -> None:
    model = family(name)
    results = run(model, tmp_path / "family.ullage", "cpu")
    wrong = [
        s.name
        for s, r in zip(model.samples, results, strict=True)
        if (e := error(s, r)) is not None and print(s.name, e) is None
    ]
    assert not wrong


@pytest.mark.parametrize("target", ["cpu:avx2", "cpu:generic"])
def test_other_instruction_sets_agree(target: str, tmp_path: Path) -> None:
    model = family("reductions")
    results = run(model, tmp_path / "family.ullage", target)
    assert not [s.name for s, r in zip(model.samples, results, strict=True) if error(s, r) is not None]


def error(sample: object, result: torch.Tensor) -> str | None:
    """What is wrong with a result; None if it is right."""
    eager = sample.run(*sample.inputs)
    if result.shape != eager.shape or result.dtype != eager.dtype:
        return f"{result.dtype}{tuple(result.shape)} instead of {eager.dtype}{tuple(eager.shape)}"
    if not eager.is_floating_point():
        return None if torch.equal(result, eager) else "other values"
    wide = [t.double() if t.is_floating_point() else t for t in sample.inputs]
    truth = eager.double() if sample.name.startswith("cast") else sample.run(*wide).double()
    if not torch.equal(torch.isfinite(truth), torch.isfinite(result)):
        return "other places are infinite or undefined"
    finite = torch.isfinite(truth)
    if not finite.any():
        return None
    scale = truth[finite].abs().max()
    allowed = 2 * (eager.double() - truth)[finite].abs().max() + RELATIVE * scale
    reached = (result.double() - truth)[finite].abs().max()
    return None if reached <= allowed else f"error {reached:.3g}, allowed {allowed:.3g}"
