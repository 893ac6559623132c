"""Uneven zeros before a convolution become its own padding; everything else stays a kernel of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.codegen.schedule.scheduling import Function, Tensors, check, schedule, shown
from tests.codegen.schedule.whole_flow import error, prepared, results, running

torch.manual_seed(0)
IMAGE = torch.randn(2, 6, 9, 12)
SIGNAL = torch.randn(2, 6, 15)
DENSE, DEPTHWISE = torch.randn(8, 6, 3, 3), torch.randn(6, 1, 3, 3)
SHORT = torch.randn(8, 6, 3)
PAD = "loops: constant_pad_nd -> 1"
ALONE, INSIDE = "template: convolution -> 1", "template: constant_pad_nd convolution -> 1"


def padded(pads: tuple[int, ...], value: float = 0.0, **options: Any) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """Padding, then a convolution with the module's weight."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        convolve = F.conv1d if x.dim() == 3 else F.conv2d
        return convolve(F.pad(x, pads, value=value), m.w, **options)

    return run


def shared(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Two convolutions read the padded tensor."""
    y = F.pad(x, (0, 1, 0, 1))
    return F.conv2d(y, m.w) + F.conv2d(y, m.w * 0.5)


CASES: dict[str, tuple[Function, Tensors, list[str]]] = {
    "after": (Function(padded((0, 1, 0, 1), stride=2), w=DENSE), (IMAGE,), [INSIDE]),
    "before": (Function(padded((2, 0, 1, 0)), w=DENSE), (IMAGE,), [INSIDE]),
    "more than the kernel": (Function(padded((5, 4, 0, 7), padding=1), w=DENSE), (IMAGE,), [INSIDE]),
    "one side": (Function(padded((0, 3), dilation=2), w=DENSE), (IMAGE,), [INSIDE]),
    "depthwise": (Function(padded((0, 1, 0, 1), stride=2, groups=6), w=DEPTHWISE), (IMAGE,), [INSIDE]),
    "depthwise, wide": (Function(padded((3, 4, 6, 5), groups=6), w=DEPTHWISE), (IMAGE,), [INSIDE]),
    "one dimension": (Function(padded((4, 0)), w=SHORT), (SIGNAL,), [PAD, ALONE]),
    "other values": (Function(padded((0, 1, 0, 1), value=1.0), w=DENSE), (IMAGE,), [PAD, ALONE]),
    "cropped": (Function(padded((0, -1, 0, 1)), w=DENSE), (IMAGE,), [PAD, ALONE]),
    "channels": (Function(padded((0, 1, 0, 1, 0, 2)), w=DENSE), (IMAGE[:, :4],), [PAD, ALONE]),
    "read twice": (
        Function(shared, w=DENSE), (IMAGE,), [PAD, ALONE, "template: convolution add -> 1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_groups(name: str) -> None:
    module, inputs, expected = CASES[name]
    scheduled = schedule(module, inputs)
    assert shown(scheduled) == expected
    check(scheduled, module, inputs)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2] == [INSIDE]])
def test_compiled_results(name: str) -> None:
    module, inputs, _ = CASES[name]
    truth = module.double()(*(x.double() for x in inputs))
    module.float()
    with running(prepared(module, inputs)) as runner:
        (found,) = results(runner, inputs)
    assert error(found, truth) < 1e-6


def test_the_source_of_padding_has_its_channels_last() -> None:
    module = Function(
        lambda m, x: F.conv2d(F.pad(F.conv2d(x, m.w).relu(), (0, 1, 0, 1)), m.v), w=DENSE, v=torch.randn(2, 8, 2, 2)
    )
    names = [step.name for step in schedule(module, (IMAGE,)).schedule.steps]
    assert len(names) == 3 and sum("copy" in name for name in names) == 1  # of the input, which is row-major
