"""Tilings by the sizes of operands: which kernels get another one than the template's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ullage.codegen.schedule.build import build_schedule
from ullage.codegen.templates import Conv2d, Gemm
from ullage.codegen.tiling import AnyTiling, Tiling
from ullage.frontends.load import load_model
from ullage.passes.pipelines import run_clean
from ullage.plan.steps import Step
from ullage.target import Target

TARGET = Target.parse("cpu", 2)
ONCE = Tiling(tiles_first=True)
RESIDUAL = Tiling(prefetch=True, from_registers=True)


class Product(nn.Module):
    """A linear layer, with a residual or without."""

    def __init__(self, inputs: int, outputs: int, residual: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.residual = residual

    def forward(self, x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """[rows, inputs] → [rows, outputs]."""
        return self.linear(x) + r if self.residual else self.linear(x).relu() + r[0, 0]


def tilings(module: nn.Module, *inputs: torch.Tensor) -> list[AnyTiling]:
    """Of the template kernels, in order."""
    clean, _ = run_clean(load_model(module.eval().requires_grad_(False), inputs))
    found = build_schedule(clean, TARGET)
    specs = [found.specs[step.kernel] for step in found.schedule.steps if isinstance(step, Step)]
    return [spec.tiling for spec in specs if isinstance(spec, Gemm | Conv2d)]


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "residual", "wanted"),
    [
        (64, 64, 128, False, Tiling()),
        (64, 64, 128, True, Tiling()),
        (8192, 32, 128, False, ONCE),
        (65536, 32, 16, False, Tiling(ahead=True)),
        (8192, 32, 128, True, Tiling(tiles_first=True, prefetch=True, from_registers=True)),
        (512, 512, 1024, False, Tiling()),
        (512, 512, 1024, True, RESIDUAL),
    ],
)
def test_rows_that_leave_the_cache_pass_once(
    rows: int, inputs: int, outputs: int, residual: bool, wanted: Tiling
) -> None:
    arguments = (torch.randn(rows, inputs), torch.randn(rows, outputs))
    assert tilings(Product(inputs, outputs, residual), *arguments) == [wanted]


def test_short_rows_of_narrow_products_are_fetched_ahead() -> None:
    assert tilings(nn.Conv2d(32, 8, 1), torch.randn(1, 32, 80, 80)) == [Tiling(ahead=True)]
    assert tilings(nn.Conv2d(32, 8, 1), torch.randn(1, 32, 40, 40)) == [Tiling()]
    assert tilings(nn.Conv2d(32, 8, 3), torch.randn(1, 32, 80, 80)) == [Tiling()]
    assert tilings(nn.Conv2d(512, 8, 1), torch.randn(1, 512, 80, 80)) == [Tiling()]
    assert tilings(nn.Conv2d(32, 150, 1), torch.randn(1, 32, 80, 80)) == [Tiling(tiles_first=True)]


def test_convolutions_count_pixels() -> None:
    module = nn.Conv2d(16, 96, 3, padding=1)
    assert tilings(module, torch.randn(1, 16, 80, 80)) == [ONCE]
    assert tilings(module, torch.randn(1, 16, 12, 12)) == [Tiling()]


def test_depthwise_convolutions_keep_theirs() -> None:
    assert tilings(nn.Conv2d(64, 64, 3, groups=64), torch.randn(1, 64, 120, 120)) == [Tiling()]
