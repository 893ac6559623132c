"""int8 where it is asked for or the error allows: what is rewritten, ranges, exactness of what is foreseen, memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.codegen.schedule.whole_flow import results, running
from tests.codegen.templates.template_runner import host_targets
from tests.passes.quantize.narrow_models import captured, case, lossy, samples
from ullage.errors import AccuracyNotMet, InputError
from ullage.graph.constants import ConstantRef
from ullage.graph.integers import integer_weight
from ullage.graph.sources import InMemory
from ullage.passes.manager import PassManager
from ullage.passes.pipelines import parse
from ullage.passes.quantize.choose import Judge
from ullage.passes.quantize.int8 import Int8, Range, candidates, needs_range
from ullage.passes.quantize.measure import relative_error, run_as_kernels
from ullage.plan.steps import Step
from ullage.target import Target


def judge(name: str) -> Judge:
    """The judge of a model on its inputs."""
    module, inputs = case(name)
    model = captured(module, inputs)
    return Judge.of(model, samples(model, inputs), lambda _: None)


@pytest.mark.parametrize(("name", "kinds"), [
    ("text", ["linear"] * 4), ("image", ["convolution"] * 4), ("residual", ["convolution"] * 5),
])  # fmt: skip
def test_candidates_sum_over_fours_of_values(name: str, kinds: list[str]) -> None:
    """Or over 3 channels or 33 values with some zeros, or one channel alone; transposed ones stay as they are."""
    found = [str(node.target).split(".")[1] for node in candidates(captured(*case(name)))]
    assert found == kinds


@pytest.mark.parametrize("target", host_targets(), ids=str)
@pytest.mark.parametrize("name", ["text", "image", "residual"])
def test_the_foreseen_error_is_that_of_the_compiled_model(name: str, target: Target) -> None:
    """Rounding operands in eager, the rewritten graph, and the kernels of every target agree."""
    module, inputs = case(name)
    judged = judge(name)
    prepared = lossy(module, inputs, scheme="int8", target=target.with_threads(2))
    (told,) = {r.error for r in prepared.rewrites if r.pass_name == "int8"}
    assert 1e-3 < told < 2e-2
    with running(prepared) as runner:
        measured = relative_error([results(runner, inputs)], judged.exact)
    assert measured == pytest.approx(told, rel=2e-2)


def test_integers_are_taken_once_all_is_in_bfloat16() -> None:
    """A little error is for bfloat16 everywhere, more for int8, all of it or a part."""
    schemes = {}
    for allowed in (4e-3, 6e-3, 2e-2):
        prepared = lossy(*case("text"), allowed)
        found = [r.pass_name for r in prepared.rewrites if r.error > 0.0]
        schemes[allowed] = (found.count("bfloat16"), found.count("int8"))
        assert max(r.error for r in prepared.rewrites) <= allowed
    assert schemes[4e-3][1] < schemes[6e-3][1] < schemes[2e-2][1] == 4
    assert all(sum(counts) == 5 for counts in schemes.values())


def test_a_scheme_that_errs_more_than_allowed_is_refused() -> None:
    with pytest.raises(AccuracyNotMet) as refusal:
        lossy(*case("text"), 1e-3, "int8")
    assert refusal.value.reached > refusal.value.wanted == 1e-3


def test_weights_take_a_quarter_of_the_bytes() -> None:
    whole, small = lossy(*case("residual"), 0.0), lossy(*case("residual"), scheme="int8")
    assert small.weight_bytes < 0.3 * whole.weight_bytes and small.minimum_bytes < whole.minimum_bytes


def test_codes_leave_the_kernel_that_computes_the_value() -> None:
    """A block's result is stored as float32 for the sum and as codes for the next product, by one kernel."""
    steps = [s for s in lossy(*case("residual"), scheme="int8").scheduled.schedule.steps if isinstance(s, Step)]
    assert [sum(o.access == "w" for o in step.operands) for step in steps] == [1, 2, 2, 2, 2, 1]


def test_ranges_are_those_of_all_samples() -> None:
    """With zero in them, and a zero that is exact."""
    module, inputs = case("image")
    model = captured(module, inputs)
    (one,) = samples(model, inputs)
    both = Judge.of(model, (one, {"x": 3 * one["x"]}), lambda _: None).ranges
    single = Judge.of(model, (one,), lambda _: None).ranges
    needed = [node.name for node in candidates(model) if needs_range(node)]
    assert sorted(both) == sorted(single) == sorted(needed)
    assert single[needed[1]].low == 0.0 > single[needed[3]].low  # the second one follows a ReLU
    assert all(both[n].low <= single[n].low and both[n].high >= single[n].high for n in needed)
    assert both != single
    assert Range(-1.0, 3.0).zero == 64 and Range(0.0, 0.0).zero == 0 and Range(-2.0, 0.0).zero == 255


def test_values_beyond_the_range_become_its_ends() -> None:
    module, inputs = nn.Conv2d(4, 16, 1, bias=False).eval().requires_grad_(False), (torch.randn(1, 4, 5, 5) * 10,)
    model = captured(module, inputs)
    (node,) = candidates(model)
    rewritten, _ = PassManager((Int8(f"{node.name}@-1.0:1.0"),)).run(model)
    (found,), (cut,) = (
        run_as_kernels(rewritten, *samples(model, inputs)),
        run_as_kernels(model, *samples(model, tuple(x.clamp(-1, 1) for x in inputs))),
    )
    assert relative_error([(found,)], [(cut,)]) < 1e-2


@pytest.mark.parametrize("rows", [torch.zeros(2, 64), torch.full((2, 64), -3.0), torch.arange(128.0).view(2, 64) / 50])
def test_rows_of_any_range_are_met(rows: torch.Tensor) -> None:
    """Zeros, negative and positive rows; a row's codes never wrap around."""
    torch.manual_seed(0)
    module, inputs = nn.Linear(64, 70).eval().requires_grad_(False), (torch.cat([rows, torch.randn(3, 64)]),)
    with running(lossy(module, inputs, scheme="int8")) as runner:
        (found,) = results(runner, inputs)
    assert torch.allclose(found, module(*inputs), atol=0.02 * float(inputs[0].abs().max()))


def test_a_row_with_nan_gives_nan_and_no_other_row_does() -> None:
    module, inputs = nn.Linear(64, 16).eval().requires_grad_(False), (torch.randn(3, 64),)
    inputs[0][1, 5] = float("nan")
    with running(lossy(module, (torch.randn(3, 64),), scheme="int8")) as runner:
        (found,) = results(runner, inputs)
    assert found.isnan().all(1).tolist() == [False, True, False]


def test_codes_reach_the_largest_weight_of_each_output() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 8, 3, 3)
    weight[2] = 0
    made = integer_weight(ConstantRef("w", torch.float32, tuple(weight.shape), InMemory(weight)))
    codes = made.codes.read()
    assert codes.dtype == torch.int8 and codes[[0, 1, 3, 4]].flatten(1).abs().amax(1).tolist() == [127] * 4
    assert torch.equal(made.codes.read((slice(1, 3), slice(0, 8), slice(1, 2), slice(0, 3))), codes[1:3, :, 1:2])
    error = (codes * made.scales.reshape(-1, 1, 1, 1) - weight).flatten(1).abs().amax(1)
    assert bool((error <= made.scales * 0.5001).all()) and torch.equal(made.sums, codes.flatten(1).sum(1).float())


def test_the_pass_has_a_text_form() -> None:
    """Which nodes are meant, and over which ranges, are options."""
    ranges = Range(-0.1, 1 / 3)
    assert parse(f"int8{{only=linear conv@{ranges}}}") == (Int8(f"linear conv@{ranges}"),)
    assert Range.parse(str(ranges)) == ranges
    for wrong in ("1:2", "-1", "a:b", "-1:nan"):
        with pytest.raises(InputError):
            Range.parse(wrong)


@pytest.mark.parametrize(("inputs", "allowed"), [(3, True), (7, True), (33, True), (1, False), (2, False), (5, False)])
def test_few_zeros_are_added_to_fill_words(inputs: int, allowed: bool) -> None:
    """As long as a third is the most that they add; one in four channels of one word is too many."""
    torch.manual_seed(0)
    module, x = nn.Conv2d(inputs, 16, 3, padding=1).eval().requires_grad_(False), (torch.randn(1, inputs, 6, 5),)
    assert len(list(candidates(captured(module, x)))) == allowed
    with running(lossy(module, x, scheme="int8")) as runner:
        (found,) = results(runner, x)
    assert relative_error([(found,)], [(module(*x),)]) < (0.02 if allowed else 1e-5)


@pytest.mark.parametrize("odd", [float("inf"), float("nan")])
def test_a_convolution_without_a_finite_range_is_left_alone(odd: float) -> None:
    """Of the samples, one is enough to say so; the others are still rewritten."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 16, 3), nn.Conv2d(4, 16, 3)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.first(x), self.second(y)

    torch.manual_seed(0)
    module, (x, y) = Two().eval().requires_grad_(False), torch.randn(2, 1, 4, 5, 5)
    y[0, 0, 0, 0] = odd
    found = [r.where for r in lossy(module, (x, y), scheme="int8").rewrites if r.pass_name == "int8"]
    (first, _) = (node.name for node in candidates(captured(module, (x, y))))
    assert found == [first]


def test_sums_that_zeros_make_too_long_are_left_alone() -> None:
    """More products than an int32 holds, once three channels are four."""
    fits, too_long = (nn.Conv1d(3, 8, taps) for taps in (1 << 14, (1 << 14) + 1))
    for module, count in ((fits, 1), (too_long, 0)):
        x = torch.randn(1, 3, (1 << 14) + 8)
        assert len(list(candidates(captured(module.eval().requires_grad_(False), (x,))))) == count
