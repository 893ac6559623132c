"""Schedules to tune, a bench that only pretends to measure, and a clock that it drives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import nn

from ullage.codegen.kernel import Kernel
from ullage.codegen.schedule.build import Scheduled, build_schedule
from ullage.codegen.tune.tuner import Request
from ullage.codegen.tune.work import Work
from ullage.frontends.load import load_model
from ullage.passes.pipelines import run_clean
from ullage.plan.simulate import Rates
from ullage.target import Target

TARGET = Target.parse("cpu", 2)
RATES = Rates(2e8, 5e7, 1e9, 1e-4, 3e-3)
"""A machine so slow that measuring takes longer than compiling."""


class Layers(nn.Module):
    """Kernels of every tiled kind at sizes with odd edges: convolutions that are dense, grouped, transposed, depthwise
    and 1×1 with a residual, products with constant and computed operands, light, long and heavy epilogues."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Conv2d(3, 37, 3, padding=1)
        self.depthwise = nn.Conv2d(37, 37, 3, padding=1, groups=37)
        self.point = nn.Conv2d(37, 37, 1)
        self.grouped = nn.Conv2d(37 - 1, 72, 3, stride=2, groups=4)
        self.up = nn.ConvTranspose2d(72, 10, 2, stride=2)
        self.first = nn.Linear(10, 150)
        self.second = nn.Linear(150, 10)
        self.long = nn.Linear(800, 35)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, 3, height, width] → tokens [batch, positions, 10] and [batch, 35] after sums in several chunks."""
        x = torch.relu(self.dense(x))
        y = nn.functional.hardtanh(self.depthwise(x))
        x = torch.where((z := self.point(y) + x) < 0, 0.0, z)
        tokens = self.up(torch.relu(self.grouped(x[:, :36]))).flatten(2).transpose(1, 2)
        tokens = tokens + self.second(nn.functional.gelu(self.first(tokens)))
        mixed = tokens @ tokens.transpose(1, 2) @ tokens
        return mixed, self.long(mixed.flatten(1)[:, :800])


class FewLayers(nn.Module):
    """The kinds of kernels that matter where sizes are known at run time only."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Conv2d(3, 18, 3)
        self.depthwise = nn.Conv2d(18, 18, 3, padding=1, groups=18)
        self.linear = nn.Linear(18, 20)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, 3, height, width] → [batch, 18, …] and [batch, positions, 20]."""
        x = torch.relu(self.dense(x))
        return x, self.linear(self.depthwise(x).flatten(2).transpose(1, 2))


class NarrowLayers(nn.Module):
    """Linears and a convolution that every scheme of narrow arithmetic takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 64, 3, padding=1)
        self.first = nn.Linear(64, 200)
        self.second = nn.Linear(200, 64)
        self.third = nn.Linear(64, 33)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 16, height, width] → [batch, positions, 33]."""
        x = torch.relu(self.conv(x)).flatten(2).transpose(1, 2)
        return self.third(x + self.second(nn.functional.gelu(self.first(x))))


def layers_inputs(batch: int = 3) -> tuple[torch.Tensor, ...]:
    """A batch of 19 × 21 images."""
    torch.manual_seed(5)
    return (torch.randn(batch, 3, 19, 21),)


def layers(kind: type[nn.Module] = Layers) -> nn.Module:
    """A module with fixed weights."""
    torch.manual_seed(3)
    return kind().eval().requires_grad_(False)


@cache
def scheduled(target: Target = TARGET) -> Scheduled:
    """The module's schedule."""
    clean, _ = run_clean(load_model(layers(), layers_inputs()))
    return build_schedule(clean, target)


@dataclass
class Clock:
    """Seconds that pass when told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeBench:
    """Takes seconds out of a function of work, kernel and round, and lets the clock pass as they would."""

    lab: Lab
    work: Work
    kernels: Sequence[Kernel]

    def rounds(self, order: Sequence[int], count: int) -> list[list[float]]:
        found = []
        for _ in range(count):
            self.lab.measured += 1
            found.append([self.lab.seconds(self.work, self.kernels[number], self.lab.measured) for number in order])
            self.lab.clock.now += sum(found[-1])
        self.lab.contests.append((self.work.name, [self.kernels[n].symbol for n in order], count))
        return found

    def close(self) -> None:
        self.lab.closed += 1


@dataclass
class Lab:
    """Everything about pretended measurements; compiling takes `opening_seconds`."""

    seconds: Callable[[Work, Kernel, int], float]
    opening_seconds: float = 0.5
    clock: Clock = field(default_factory=Clock)
    opened: int = 0
    closed: int = 0
    measured: int = 0
    contests: list[tuple[str, list[str], int]] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)

    def open(self, work: Work, kernels: Sequence[Kernel]) -> FakeBench:
        self.opened += 1
        self.clock.now += self.opening_seconds
        return FakeBench(self, work, kernels)

    def request(self, seconds: float, most_bytes: int = 1 << 40) -> Request:
        """A request for this lab."""
        return Request(
            target=TARGET,
            seconds=seconds,
            rates=RATES,
            most_bytes=most_bytes,
            report=lambda stage, _: self.stages.append(stage),
            clock=self.clock,
            open=self.open,
        )


def own_is_best(work: Work, kernel: Kernel, number: int) -> float:
    """The template's own tiling is 5 % faster than all others."""
    return 1.0e-3 if kernel.symbol == work.kernel.symbol else 1.05e-3
