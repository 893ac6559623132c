"""bfloat16 where the error allows: what is rewritten, that the foreseen error is the kernels' own, and the choice."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.codegen.schedule.whole_flow import results, running
from tests.passes.quantize.narrow_models import captured, case, lossy, samples
from ullage.passes.pipelines import parse
from ullage.passes.quantize import choose
from ullage.passes.quantize.bfloat16 import Bfloat16, candidates, rounded
from ullage.passes.quantize.measure import relative_error, run_as_kernels
from ullage.plan.steps import Step


@pytest.mark.parametrize(("name", "kinds"), [
    ("text", ["embedding", "linear", "linear", "linear", "linear"]), ("image", ["convolution"] * 4),
])  # fmt: skip
def test_candidates_have_constant_weights_and_pairs_of_values(name: str, kinds: list[str]) -> None:
    """Sums over one channel of each group stay as they are; those over 3 channels and 33 values get a zero more."""
    found = [str(node.target).split(".")[1] for node in candidates(captured(*case(name)))]
    assert found == kinds


@pytest.mark.parametrize("name", ["text", "image", "residual", "pyramid"])
def test_the_foreseen_error_is_that_of_the_compiled_model(name: str) -> None:
    """Rounding operands in eager, the rewritten graph, and the kernels agree to float32's precision."""
    module, inputs = case(name)
    model = captured(module, inputs)
    (sample,) = samples(model, inputs)
    exact = [run_as_kernels(model, sample)]
    names = {node.name: rounded for node in candidates(model)}
    foreseen = relative_error([run_as_kernels(model, sample, names)], exact)
    assert 1e-4 < foreseen < 1e-2
    prepared = lossy(module, inputs, scheme="bfloat16")
    (told,) = {r.error for r in prepared.rewrites if r.pass_name == "bfloat16"}
    assert told == pytest.approx(foreseen, rel=1e-2)
    with running(prepared) as runner:
        measured = relative_error([results(runner, inputs)], exact)
    assert measured == pytest.approx(foreseen, rel=1e-2)


@pytest.mark.parametrize("scheme", ["bfloat16", "int8"])
def test_conversions_go_before_concatenations_and_keep_vectors_whole(scheme: str) -> None:
    """Interpolations read what linears store, and write their parts of what the convolution reads, by whole vectors."""
    prepared = lossy(*case("pyramid"), scheme=scheme)
    steps = [step for step in prepared.scheduled.schedule.steps if isinstance(step, Step)]
    kernels = [prepared.scheduled.kernels[step.kernel].source for step in steps]
    resized = [source for source in kernels if "floor" in source]
    assert resized and not any("gather" in source or "scatter" in source for source in resized)
    (whole,) = {o.target for step in steps for o in step.operands if o.access == "w" and "cat" in o.target}
    assert sum(o.target == whole for step in steps for o in step.operands if o.access == "w") == 2


@pytest.mark.parametrize(("allowed", "least", "most"), [(0.0, 0, 0), (1e-3, 0, 3), (3e-3, 1, 3), (6e-3, 4, 5)])
def test_what_is_allowed_is_kept(allowed: float, least: int, most: int) -> None:
    """The compiled model's own error stays within bounds, however many products that leaves in float32."""
    module, inputs = case("text")
    prepared = lossy(module, inputs, allowed)
    rewritten = [r for r in prepared.rewrites if r.pass_name in ("bfloat16", "int8")]
    assert least <= len(rewritten) <= most
    with running(prepared) as runner:
        found = results(runner, inputs)
    model = captured(module, inputs)
    assert relative_error([found], [run_as_kernels(model, *samples(model, inputs))]) <= allowed + 1e-6


def test_cheap_errors_are_spent_first() -> None:
    """Of two equal products, the one whose error is damped is narrowed."""
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud, self.quiet = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.loud(x) + 0.01 * torch.tanh(self.quiet(x))

    module, inputs = Two().eval().requires_grad_(False), (torch.randn(8, 64),)
    model = captured(module, inputs)
    loud, quiet = (node.name for node in candidates(model))
    _, rewrites = choose.chosen(model, 1e-4, samples(model, inputs), lambda _: None)
    assert [r.where for r in rewrites] == [quiet] != [loud]


def test_what_turns_out_worse_than_foreseen_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error that counts is measured on the graph that is used."""
    module, inputs = case("text")
    model = captured(module, inputs)
    exact = [run_as_kernels(model, *samples(model, inputs))]
    monkeypatch.setattr(choose.Judge, "error", lambda *_: 0.0)
    for allowed, most in ((3e-3, 3), (1e-5, 0)):
        rewritten, rewrites = choose.chosen(model, allowed, samples(model, inputs), lambda _: None)
        assert len(rewrites) <= most
        assert relative_error([run_as_kernels(rewritten, *samples(model, inputs))], exact) <= allowed


def test_weights_take_half_the_bytes() -> None:
    """Of a model that is nearly all products."""
    module, inputs = case("text")
    whole, half = lossy(module, inputs, 0.0), lossy(module, inputs, scheme="bfloat16")
    assert half.weight_bytes < 0.6 * whole.weight_bytes and half.minimum_bytes < whole.minimum_bytes


def test_a_result_in_two_types_lies_over_the_residual() -> None:
    """One kernel per block stores both, and needs no more memory for the residual than before."""
    steps = lossy(*case("residual"), scheme="bfloat16").scheduled.schedule.steps
    both = [step for step in steps if isinstance(step, Step) and sum(o.access == "w" for o in step.operands) == 2]
    assert len(both) == 4 and all(step.inplace for step in both[1:])


def test_the_pass_has_a_text_form() -> None:
    """Which nodes are meant is an option."""
    assert parse("bfloat16{only=linear linear_1}, bfloat16") == (Bfloat16("linear linear_1"), Bfloat16())
