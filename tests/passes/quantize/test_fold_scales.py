"""Scales, offsets, biases and bounds behind convolutions of codes: one factor, one term, one pair of bounds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.passes.quantize.narrow_models import captured, lossy, samples
from ullage.graph.captured import CapturedModel
from ullage.passes.edit import calls
from ullage.passes.quantize.choose import forced
from ullage.passes.quantize.fold_scales import FoldScales
from ullage.passes.quantize.measure import relative_error, run_as_kernels
from ullage.passes.quantize.names import parse_scheme
from ullage.plan.steps import Step


class Inverted(nn.Module):
    """A bottleneck of MobileNetV2: out to many channels, each of them alone, and back."""

    def __init__(self, act: nn.Module, pad: bool = False) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(8, 8, 1), act
        self.out, self.each = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 24, 3, 2, 0 if pad else 1, groups=24)
        self.back, self.around = nn.Conv2d(24, 8, 1, bias=False), nn.ZeroPad2d((0, 1, 0, 1)) if pad else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 8, h, w]."""
        y: torch.Tensor = self.back(self.act(self.each(self.around(self.act(self.out(self.first(x)))))))
        return y


def narrowed(module: nn.Module, x: torch.Tensor) -> CapturedModel:
    """The model in int8."""
    model, scheme = captured(module, (x,)), parse_scheme("int8")
    assert scheme is not None
    return forced(model, scheme, samples(model, (x,)))[0][0]


def operators(model: CapturedModel) -> list[str]:
    return [str(node.target).split(".")[1] for node in calls(model.module.graph)]


def inverted(act: nn.Module, pad: bool = False) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(1)
    return Inverted(act, pad).eval().requires_grad_(False), torch.randn(1, 8, 9, 11)


def test_a_product_its_activation_and_codes_take_six_operators() -> None:
    found = operators(narrowed(*inverted(nn.ReLU6())))
    codes = ["mul", "add", "clamp", "round", "_to_copy"]
    products = ["convolution_int8", "convolution_int8", "depthwise_codes", "convolution_int8"]
    assert found == [name for product in products for name in (*codes, product)] + ["mul"]


def test_bounds_move_with_what_multiplies_them() -> None:
    """The upper bound of ReLU6 lies beyond the 255 of the codes; the lower one is theirs."""
    model = narrowed(*inverted(nn.ReLU6()))
    bounds = [node.args[1:] for node in calls(model.module.graph) if node.target is torch.ops.aten.clamp.default]
    assert set(bounds) == {(0.0, 255.0)}


@pytest.mark.parametrize("act", [nn.ReLU6(), nn.ReLU(), nn.SiLU(), nn.Hardtanh(-0.3, 0.2), nn.Identity()], ids=str)
def test_folding_changes_results_by_single_roundings(act: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code may tip over where a value lies between two of them; most stay."""
    module, x = inverted(act)
    (sample,) = samples(captured(module, (x,)), (x,))
    folded = run_as_kernels(narrowed(module, x), sample)
    monkeypatch.setattr(FoldScales, "run", lambda *_: None)
    assert relative_error([folded], [run_as_kernels(narrowed(module, x), sample)]) < 1e-2


def test_every_fold_is_told_with_the_error_of_the_scheme() -> None:
    module, x = inverted(nn.ReLU6())
    told = [rewrite for rewrite in lossy(module, (x,), scheme="int8").rewrites if rewrite.pass_name == FoldScales.name]
    assert len(told) == 3 and all(rewrite.error > 0.0 for rewrite in told)


def test_values_that_others_read_are_not_folded_through() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.relu(self.a(x))
            return y, self.b(y)

    torch.manual_seed(2)
    module, x = Both().eval().requires_grad_(False), torch.randn(1, 8, 5, 5)
    (sample,) = samples(captured(module, (x,)), (x,))
    value, _ = run_as_kernels(narrowed(module, x), sample)
    assert relative_error([(value,)], [(module(x)[0],)]) < 2e-2
    assert operators(narrowed(module, x)).count("clamp") >= 3


def test_zeros_around_are_codes_that_the_convolution_takes_in() -> None:
    """Codes come from the kernel before the zeros, which are no kernel of their own."""
    module, x = inverted(nn.ReLU6(), pad=True)
    prepared = lossy(module, (x,), scheme="int8")
    assert sum(isinstance(s, Step) for s in prepared.scheduled.schedule.steps) == 5
