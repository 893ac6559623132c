"""Residuals in bfloat16: which values are kept narrow for their other reader, in how few bytes, and at what error."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.codegen.schedule.whole_flow import results, running
from tests.passes.quantize.narrow_models import captured, case, lossy, samples
from ullage.passes.quantize.measure import relative_error, run_as_kernels
from ullage.plan.steps import Step


class Gated(nn.Module):
    """A value that is pooled and multiplied by what the pool gives: nothing reads a narrow form of the value itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = (nn.Conv2d(16, 16, 1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 16, h, w]."""
        x = F.silu(self.first(x))
        return self.last(x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))))


def kept(module: nn.Module, inputs: tuple[torch.Tensor, ...], scheme: str) -> int:
    """How many residuals a scheme keeps in bfloat16."""
    rewrites = lossy(module, inputs, scheme=scheme).rewrites
    return sum(rewrite.pass_name == "narrow_residuals" for rewrite in rewrites)


@pytest.mark.parametrize("scheme", ["bfloat16", "int8"])
def test_what_a_product_reads_narrow_is_added_narrow(scheme: str) -> None:
    """Five blocks: the input of the first and the output of the last are the caller's."""
    module, inputs = case("residual")
    assert kept(module, inputs, scheme) == 4


def test_weights_in_integers_leave_residuals_alone() -> None:
    module, inputs = case("residual")
    assert kept(module, inputs, "int4-weights") == 0


def test_what_nothing_reads_narrow_stays() -> None:
    torch.manual_seed(0)
    module = Gated().eval().requires_grad_(False)
    assert kept(module, (torch.randn(1, 16, 8, 8),), "bfloat16") == 0


@pytest.mark.parametrize(("scheme", "stores"), [
    ("bfloat16", [["bfloat16"]] * 4), ("int8", [["bfloat16", "uint8"]] * 4),
])  # fmt: skip
def test_no_float32_is_stored_beside(scheme: str, stores: list[list[str]]) -> None:
    prepared = lossy(*case("residual"), scheme=scheme)
    steps = [step for step in prepared.scheduled.schedule.steps if isinstance(step, Step)]
    found = []
    for step in steps:
        spec = prepared.scheduled.specs[step.kernel]
        dtypes = {b.name: b.dtype for b in spec.buffers}
        if hasattr(spec, "epilogue"):
            found.append(sorted({dtypes[store.buffer] for store in spec.epilogue}))
    assert found == [*stores, ["float32"]]


def test_residuals_of_sequences_stay() -> None:
    """Their products have operations enough, and errors of a residual stream add up."""
    assert kept(*case("heads"), "bfloat16") == 0


@pytest.mark.parametrize("scheme", ["bfloat16", "int8"])
def test_the_error_is_told(scheme: str) -> None:
    """What is measured on the rewritten graph is the kernels' own error."""
    module, inputs = case("residual")
    model = captured(module, inputs)
    exact = [run_as_kernels(model, sample) for sample in samples(model, inputs)]
    prepared = lossy(module, inputs, scheme=scheme)
    (told,) = {rewrite.error for rewrite in prepared.rewrites if rewrite.error}
    with running(prepared) as runner:
        measured = relative_error([results(runner, inputs)], exact)
    assert measured == pytest.approx(told, rel=2e-2)


def test_an_accuracy_that_residuals_would_break_is_kept_without_them() -> None:
    module, inputs = case("residual")
    with_them = {r.error for r in lossy(module, inputs, 0.1).rewrites if r.pass_name == "narrow_residuals"}
    (error,) = {r.error for r in lossy(module, inputs, scheme="bfloat16").rewrites if r.error}
    tight = lossy(module, inputs, 0.999 * error)
    reached = {r.error for r in tight.rewrites if r.error}
    assert with_them and all(found <= 0.999 * error for found in reached)
    assert "narrow_residuals" not in {r.pass_name for r in tight.rewrites}
