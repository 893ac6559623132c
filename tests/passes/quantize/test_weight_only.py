"""Weights in few bits: which linears, what codes stand for, that kernels give the bits of the weights, memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.codegen.schedule.whole_flow import results, running
from tests.codegen.templates.template_runner import host_targets
from tests.passes.quantize.narrow_models import captured, case, lossy, samples
from ullage.errors import InputError
from ullage.graph.constants import ConstantRef
from ullage.graph.integers import grouped_weight
from ullage.graph.operators import decoded
from ullage.graph.sources import InMemory
from ullage.passes.pipelines import parse
from ullage.passes.quantize.measure import relative_error, run_as_kernels
from ullage.passes.quantize.names import Scheme, parse_scheme
from ullage.passes.quantize.weight_only import WeightOnly, candidates, rounded
from ullage.target import Target


def held(weight: torch.Tensor) -> ConstantRef:
    """A constant in memory."""
    return ConstantRef("w", torch.float32, tuple(weight.shape), InMemory(weight))


@pytest.mark.parametrize("target", host_targets(), ids=str)
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_the_compiled_model_is_that_of_the_decoded_weights(bits: int, target: Target) -> None:
    """Up to the order of sums and 16 bits of activations; and its error is told, and falls with more bits."""
    module, inputs = case("text")
    prepared = lossy(module, inputs, scheme=f"int{bits}-weights", target=target.with_threads(2))
    with running(prepared) as runner:
        found = results(runner, inputs)
    model = captured(module, inputs)
    (sample,) = samples(model, inputs)
    (told,) = {r.error for r in prepared.rewrites if r.pass_name == "weight_only"}
    assert relative_error([found], [run_as_kernels(model, sample)]) == pytest.approx(told, rel=1e-3)
    assert 2.0**-bits / 30 < told < 2.0**-bits * 2 + 2.0**-8  # the table is in bfloat16


def test_candidates_have_rows_of_whole_groups() -> None:
    """Of 64, 96, 64 and 33 values by 32, and by 64."""
    model = captured(*case("text"))
    assert len(list(candidates(model, 32))) == 3 and len(list(candidates(model, 64))) == 2


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("group", [32, 128])
def test_codes_err_least_where_they_can(bits: int, group: int) -> None:
    """Within half a step but for what is cut off, never worse than the plain scale, and the same by any box."""
    torch.manual_seed(bits)
    weight = torch.randn(7, 384)
    weight[3, 128:256] = 0
    codes, scales = grouped_weight(held(weight), bits, group)
    whole, factors = codes.read(), scales.read()
    assert whole.dtype == torch.uint8 and int(whole.max()) < 1 << bits and factors.shape == (7, 384 // group)
    assert torch.equal(codes.read((slice(2, 5), slice(40, 300))), whole[2:5, 40:300])
    assert torch.equal(scales.read((slice(2, 5), slice(1, 2))), factors[2:5, 1:2])
    made = decoded(whole, factors, bits)
    assert bool((made[3, 128:256] == 0).all())
    grouped = weight.reshape(-1, group)
    most = grouped.abs().amax(1, True).clamp_min(1e-9)
    plain = (grouped / most * (2 ** (bits - 1) - 0.5)).round() * most / (2 ** (bits - 1) - 0.5)
    assert (made - weight).norm() <= 1.02 * (plain.reshape(weight.shape) - weight).norm()


def test_foreseen_rounding_is_the_codes() -> None:
    weight = torch.randn(5, 64)
    codes, scales = (part.read() for part in grouped_weight(held(weight), 3, 32))
    assert torch.equal(rounded((None, weight, None), 3, 32)[1], decoded(codes, scales, 3))


def test_weights_take_their_bits() -> None:
    """4 bits and a sixteen-bit scale for 32 values: 0.5625 bytes instead of 4; and 4 bytes for an output."""
    module, inputs = nn.Linear(512, 480, bias=False).eval().requires_grad_(False), (torch.randn(1, 512),)
    whole, small = lossy(module, inputs, 0.0), lossy(module, inputs, scheme="int4-weights")
    assert small.weight_bytes == whole.weight_bytes * 0.5625 / 4 + 4 * 480
    assert small.minimum_bytes < whole.minimum_bytes


def test_names_of_schemes() -> None:
    assert parse_scheme("int3-weights/128") == Scheme("weights", 3, 128)
    assert parse_scheme("int4-weights") == Scheme("weights", 4, 32)
    assert [parse_scheme(name) for name in ("int5-weights", "int4-weights/48", "int4", 4, None)] == [None] * 5


def test_the_pass_has_a_text_form() -> None:
    assert parse("weight_only{bits=3,group=64}, weight_only") == (WeightOnly(3, 64), WeightOnly())
    with pytest.raises(InputError, match="bits"):
        WeightOnly(5)


def test_scales_beyond_float16_end_at_its_largest() -> None:
    """Weights that no scale reaches are cut off, and are never infinite or NaN."""
    weight = torch.tensor([[3e7, -1.0] * 16])
    codes, scales = (part.read() for part in grouped_weight(held(weight), 4, 32))
    assert torch.equal(scales.abs(), torch.full((1, 1), 65504.0).half())
    assert decoded(codes, scales, 4)[0, 0] == 8 * 65504.0
