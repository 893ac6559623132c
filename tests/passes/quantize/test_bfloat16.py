"""bfloat16 where the error allows: what is rewritten, that the foreseen error is the kernels' own, and the choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.codegen.schedule.scheduling import TARGET
from tests.codegen.schedule.whole_flow import results, running
from tests.passes.quantize.narrow_models import captured, case, lossy, samples
from ullage.graph.show import show
from ullage.passes.clean.common_subexpressions import CommonSubexpressions
from ullage.passes.clean.dead_code import DeadCode
from ullage.passes.instruments import Verify
from ullage.passes.manager import PassManager
from ullage.passes.pipelines import parse
from ullage.passes.quantize import choose, narrow_attention
from ullage.passes.quantize.bfloat16 import Bfloat16, candidates
from ullage.passes.quantize.measure import relative_error, run_as_kernels
from ullage.passes.quantize.schemes import options_of, roundings
from ullage.plan.steps import Step


@pytest.mark.parametrize(("name", "kinds"), [
    ("text", ["embedding", "linear", "linear", "linear", "linear"]), ("image", ["convolution"] * 5),
    ("heads", ["linear", "scaled_dot_product_attention", "linear"] * 2),
])  # fmt: skip
def test_candidates_are_attention_and_products_of_pairs_with_constant_weights(name: str, kinds: list[str]) -> None:
    """Those over 3 channels and 33 values get a zero more; a depthwise one has half as much to read."""
    found = [str(node.target).split(".")[1] for node in candidates(captured(*case(name)))]
    assert found == kinds


@pytest.mark.parametrize("name", ["text", "image", "residual", "pyramid", "heads", "attention"])
def test_the_foreseen_error_is_that_of_the_compiled_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding operands in eager, the rewritten graph, and the kernels agree to float32's precision.

    The weights of a softmax are rounded before they are divided by their sum, relative to other maxima of the scores in
    eager, and not at all by processors without products of pairs. Residuals are left as they are.
    """
    monkeypatch.setattr(choose, "NarrowResiduals", DeadCode)
    module, inputs = case(name)
    model = captured(module, inputs)
    (sample,) = samples(model, inputs)
    exact = [run_as_kernels(model, sample)]
    foreseen = relative_error([run_as_kernels(model, sample, roundings(options_of("bfloat16", model, {})))], exact)
    assert 1e-4 < foreseen < 1e-2
    prepared = lossy(module, inputs, scheme="bfloat16")
    (told,) = {r.error for r in prepared.rewrites if r.pass_name == "bfloat16"}
    assert told == pytest.approx(foreseen, rel=1e-2)
    with running(prepared) as runner:
        measured = relative_error([results(runner, inputs)], exact)
    attends = name in ("heads", "attention")
    assert measured == pytest.approx(foreseen, rel=(3e-2 if TARGET.dots_bf16 else 1e-1) if attends else 1e-2)


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


@pytest.mark.parametrize(("scheme", "narrow"), [("bfloat16", True), ("int8", True), ("int8-weights", False)])
def test_attention_is_narrow_where_activations_are(scheme: str, narrow: bool) -> None:
    """All of it, or, beside weights in integers, none."""
    calls = lossy(*case("heads"), scheme=scheme).rewrites
    found = [r.where for r in calls if r.pass_name == "bfloat16" and r.where.startswith("scaled_dot_product")]
    assert len(found) == (2 if narrow else 0)


def test_attention_needs_no_kernels_for_its_conversions() -> None:
    """Products store bfloat16, also where one makes queries, keys and values; so does attention for the next one."""
    module, inputs = case("heads")
    narrow, whole = (lossy(module, inputs, scheme=scheme).scheduled.schedule for scheme in ("bfloat16", None))
    assert len(narrow.steps) == len(whole.steps) + 1  # one for the model's own input
    assert all(s.bytes.evaluate({}) <= 2 * 2 * 21 * 108 for s in narrow.storages if s.kind == "temp")


def test_attention_in_bfloat16_as_text(golden: Callable[[str, str], None]) -> None:
    """What all read in bfloat16 is converted once, before views; what is read otherwise, behind them."""
    model = captured(*case("heads"))
    after, rewrites = PassManager((Bfloat16(), CommonSubexpressions()), (Verify(),)).run(model)
    golden("passes/bfloat16_attention", show(after))
    assert len(rewrites) >= 6


ATTENTIONS: dict[str, dict[str, Any]] = {
    "plain": {}, "causal": {"is_causal": True}, "scaled": {"scale": 0.7},
    "keep": {"attn_mask": torch.rand(2, 1, 30, 40, generator=torch.Generator().manual_seed(1)) < 0.5},
    "keys": {"attn_mask": torch.linspace(-3, 3, 40).expand(2, 1, 1, 40)}, "grouped": {"enable_gqa": True},
}  # fmt: skip


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("most", [1 << 24, 900])
def test_what_kernels_compute_is_attention(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the rounding of weights, whether all scores are held at once or a few rows."""
    monkeypatch.setattr(narrow_attention, "_MOST_SCORES", most)
    torch.manual_seed(0)
    options = ATTENTIONS[name]
    heads = 2 if name == "grouped" else 4
    q, k, v = (torch.randn(2, h, n, 8).bfloat16() for h, n in ((4, 30), (heads, 40), (heads, 40)))
    mask = options.get("attn_mask")
    rest = {key: value for key, value in options.items() if key in ("scale", "enable_gqa")}
    found = narrow_attention.attention((q, k, v, mask, 0.0, bool(options.get("is_causal"))), rest)
    q, k, v = (x.double() for x in (q, k, v))
    wide = mask.double() if isinstance(mask, torch.Tensor) and mask.is_floating_point() else mask
    truth = F.scaled_dot_product_attention(q, k, v, **{**options, **({} if mask is None else {"attn_mask": wide})})
    assert 0 < float((found - truth).norm() / truth.norm()) < 2**-8


def test_weights_take_half_the_bytes() -> None:
    """Of a model that is nearly all products."""
    module, inputs = case("text")
    whole, half = lossy(module, inputs, 0.0), lossy(module, inputs, scheme="bfloat16")
    assert half.weight_bytes < 0.6 * whole.weight_bytes and half.minimum_bytes < whole.minimum_bytes


def test_a_result_in_two_types_lies_over_the_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel per block stores both, and needs no more memory for the residual than before."""
    monkeypatch.setattr(choose, "NarrowResiduals", DeadCode)
    steps = lossy(*case("residual"), scheme="bfloat16").scheduled.schedule.steps
    both = [step for step in steps if isinstance(step, Step) and sum(o.access == "w" for o in step.operands) == 2]
    assert len(both) == 4 and all(step.inplace for step in both[1:])


def test_the_pass_has_a_text_form() -> None:
    """Which nodes are meant is an option."""
    assert parse("bfloat16{only=linear linear_1}, bfloat16") == (Bfloat16("linear linear_1"), Bfloat16())
