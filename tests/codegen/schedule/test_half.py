"""bfloat16 and float16 models through the whole flow: at most twice eager's own distance from float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.codegen.schedule.models import VOCABULARY, Decoder, Encoder, convolutions
from tests.codegen.schedule.scheduling import Function, Tensors
from tests.codegen.schedule.whole_flow import error, prepared, results, running, tensors
from ullage.codegen.schedule.build import build_schedule
from ullage.frontends.load import load_model
from ullage.passes.pipelines import run_clean
from ullage.plan.steps import Step
from ullage.target import Target


def case(name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensors]:
    """A model in a half type and inputs for it."""
    torch.manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (2, 12))
    models: dict[str, tuple[nn.Module, Tensors]] = {
        "decoder": (Decoder(), (ids,)),
        "encoder": (Encoder(), (ids, (torch.arange(12) < torch.tensor([[12], [7]])).long())),
        "images": (convolutions(), (torch.randn(2, 3, 17, 17).to(dtype),)),
    }
    module, inputs = models[name]
    return module.eval().requires_grad_(False).to(dtype), inputs


def widened(inputs: Tensors) -> Tensors:
    """The inputs with floats as float64."""
    return tuple(x.double() if x.is_floating_point() else x for x in inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["decoder", "encoder", "images"])
def test_half_models_are_as_close_to_the_truth_as_eager(name: str, dtype: torch.dtype) -> None:
    module, inputs = case(name, dtype)
    truth = tensors(copy.deepcopy(module).double()(*widened(inputs)))
    eager = tensors(module(*inputs))
    model = prepared(module, inputs)
    with running(model) as runner:
        found = results(runner, inputs)
        assert [x.dtype for x in found] == [dtype] * len(truth)
        for ours, theirs, exact in zip(found, eager, truth, strict=True):
            assert error(ours, exact) <= 2 * error(theirs, exact)


@pytest.mark.parametrize(("isa", "dtype", "needs"), [
    ("avx512_bf16", torch.bfloat16, {"avx512_bf16"}), ("avx512_bf16", torch.float32, set()),
    ("avx512", torch.bfloat16, set()),
], ids=str)  # fmt: skip
def test_kernels_name_the_cpu_features_that_they_use(isa: str, dtype: torch.dtype, needs: set[str]) -> None:
    """A float32 model made on a newer machine still runs on older ones of the same family."""
    module, inputs = case("images", dtype)
    captured, _ = run_clean(load_model(module, inputs))
    kernels = build_schedule(captured, Target("cpu", isa, 2)).kernels.values()
    assert set().union(*(kernel.features for kernel in kernels)) == needs


class Converted(nn.Module):
    """Attention in float32 whose result is wanted in bfloat16, or in both."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.both = both

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Tensors:
        """[batch, heads, rows, width]."""
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return (y.bfloat16(), y) if self.both else (y.bfloat16(),)


@pytest.mark.parametrize("both", [False, True])
def test_a_conversion_is_part_of_the_attention_that_feeds_it_alone(both: bool) -> None:
    torch.manual_seed(0)
    module, inputs = Converted(both), tuple(torch.randn(2, 3, 20, 16) for _ in range(3))
    model = prepared(module, inputs)
    assert len(model.scheduled.schedule.steps) == (2 if both else 1)
    with running(model) as runner:
        found = results(runner, inputs)
    truth = module(*(x.double() for x in inputs))
    assert [x.dtype for x in found] == [torch.bfloat16, torch.float32][: len(found)]
    assert error(found[0], truth[0].double()) < 2**-8


@pytest.mark.parametrize("isa", ["avx512_bf16", "avx512"])
def test_attention_in_pairs_counts_as_half_the_operations(isa: str) -> None:
    """Where the processor has products of pairs."""
    flops = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = tuple(torch.randn(2, 3, 20, 16, dtype=dtype) for _ in range(3))
        captured, _ = run_clean(load_model(Converted(both=False), inputs))
        steps = build_schedule(captured, Target("cpu", isa, 2)).schedule.steps
        flops.append(max(step.flops for step in steps if isinstance(step, Step)))
    assert flops[0] == flops[1] * (2 if isa == "avx512_bf16" else 1)


def test_rounding_to_bfloat16_is_torch_s_for_normal_numbers() -> None:
    """To the nearest, ties to even, in whole vectors and in the rest; infinities and NaN stay."""
    upper = torch.arange(1 << 16, dtype=torch.int32) << 16
    lower = torch.tensor([0x0000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    x = (upper[:, None] | lower).flatten().view(torch.float32)
    x = torch.cat([x[(x.abs() >= 2.0**-126) | x.isnan()], torch.tensor([0.0, -0.0, 1.00390625])])
    module = Function(lambda _, value: value.to(torch.bfloat16))
    with running(prepared(module, (x,))) as runner:
        (found,) = results(runner, (x,))
    wanted = x.to(torch.bfloat16)
    assert torch.equal(found.isnan(), wanted.isnan())
    kept = ~wanted.isnan()
    assert torch.equal(found[kept].view(torch.int16), wanted[kept].view(torch.int16))
