"""Real architectures, tiny: right results and the same bits at the least budget and with everything resident."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from benchmarks.zoo import ZOO, sample
from ullage.calling import Convention
from ullage.checking import compare
from ullage.flow import capture, prepare
from ullage.graph.reference import run_captured
from ullage.options import CompileOptions
from ullage.reference import Tensors, as_tensor
from ullage.runtime.load import load
from ullage.scratch import Scratch

MODELS = ("bert_base", "resnet50", "unet", "gpt2", "llama", "mamba", "lstm", "whisper_tiny")


@pytest.mark.parametrize("name", MODELS)
def test_right_and_independent_of_the_budget(name: str) -> None:
    chosen = sample(f"{name}_tiny")
    captured = capture(chosen.module, chosen.inputs, chosen.kwargs, CompileOptions())
    prepared = prepare(captured, CompileOptions())
    inputs = Convention.of(captured, chosen.module).bind(chosen.inputs, chosen.kwargs)
    names = [spec.name for spec in captured.outputs]
    results: list[Tensors] = []
    for budget in (prepared.minimum_bytes, None):
        plan, scratch = prepared.plan(budget), Scratch()
        prepared.write(plan, scratch.path / "m.ullage")
        with load(scratch.path / "m.ullage") as runner:
            found = runner.run(inputs)
            assert runner.measured_bytes() <= plan.peak_bytes
        results.append({s.name: as_tensor(found[s.name], s.dtype) for s in captured.outputs})
    assert all(torch.equal(results[0][name], results[1][name]) for name in names)
    eager = dict(zip(names, pytree.tree_leaves(chosen.module(*chosen.inputs, **chosen.kwargs)), strict=True))
    truth = dict(zip(names, run_captured(captured, list(inputs.values()), torch.float64), strict=True))
    assert compare(results[0], eager, truth, None).passed


def test_every_entry_has_a_tiny_and_a_full_name() -> None:
    assert len(ZOO) >= 21
    with pytest.raises(KeyError):
        sample("no_such_model")
