"""Memory order: channels last around convolutions, attention whose reshape is free, copies only where needed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.codegen.schedule.scheduling import Function, Tensors, check, schedule
from ullage.codegen.loops.ir import Const
from ullage.codegen.lower.shapes import ordered_strides
from ullage.codegen.lower.values import View
from ullage.codegen.schedule.build import Scheduled
from ullage.codegen.schedule.layout import channels_last, memory_order
from ullage.plan.steps import Step

torch.manual_seed(0)
IMAGE = torch.randn(1, 3, 9, 7)


def names(scheduled: Scheduled) -> list[str]:
    """The steps by name."""
    return [step.name for step in scheduled.schedule.steps]


def copies(scheduled: Scheduled) -> list[str]:
    """The steps that only move elements into another order."""
    return [name for name in names(scheduled) if "copy" in name]


def view(shape: tuple[int, ...], order: tuple[int, ...]) -> View:
    """A compact view whose dimensions lie in `order`."""
    sizes = tuple(Const(n) for n in shape)
    return View("x", "float32", sizes, ordered_strides(sizes, order))


def test_order_of_memory_is_read_from_strides() -> None:
    assert channels_last(4) == (0, 2, 3, 1)
    assert memory_order(view((2, 3, 4, 5), (0, 2, 3, 1))) == (0, 2, 3, 1)
    assert memory_order(view((2, 3, 4, 5), (0, 1, 2, 3))) == (0, 1, 2, 3)
    assert memory_order(view((1, 3, 1, 5), (3, 1, 0, 2))) == (0, 2, 3, 1)


def test_an_image_is_turned_once_and_stays_so() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1), nn.SiLU()]
    module = nn.Sequential(*layers, nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    scheduled = schedule(module, (IMAGE,))
    assert len(copies(scheduled)) == 1
    kernels = [scheduled.kernels[step.kernel] for step in scheduled.schedule.steps[1:] if isinstance(step, Step)]
    assert not any("gather" in kernel.source for kernel in kernels)
    check(scheduled, module, (IMAGE,))


def test_an_image_output_is_written_row_major_without_a_copy() -> None:
    module = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3))
    inputs = (torch.randn(1, 8, 6, 6),)
    scheduled = schedule(module, inputs)
    assert len(names(scheduled)) == 3 and copies(scheduled) == names(scheduled)[:1]
    check(scheduled, module, inputs)


def test_a_residual_follows_the_order_of_its_operand() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return self.third(F.gelu(y) + self.second(y))

    module = Residual()
    scheduled = schedule(module, (IMAGE,))
    assert len(copies(scheduled)) == 1
    check(scheduled, module, (IMAGE,))


def test_heads_are_split_and_joined_without_copies() -> None:
    def attend(m: Function, x: torch.Tensor) -> torch.Tensor:
        q, k, v = F.linear(x, m.qkv).view(2, 6, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return F.linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 6, 32), m.out)

    module = Function(attend, qkv=torch.randn(96, 32) * 0.2, out=torch.randn(32, 32) * 0.2)
    inputs: Tensors = (torch.randn(2, 6, 32),)
    scheduled = schedule(module, inputs)
    assert len(names(scheduled)) == 3
    check(scheduled, module, inputs)


def test_windows_are_partitioned_without_materialising_views() -> None:
    def windows(m: Function, x: torch.Tensor) -> torch.Tensor:
        parts = F.layer_norm(x, (8,)).view(1, 2, 4, 2, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(4, 16, 8)
        return F.linear(parts, m.w)

    module = Function(windows, w=torch.randn(8, 8))
    inputs = (torch.randn(1, 8, 8, 8),)
    scheduled = schedule(module, inputs)
    assert len(names(scheduled)) <= 3
    check(scheduled, module, inputs)


def test_a_transposed_operand_is_read_in_place() -> None:
    module = Function(lambda m, a, b: a @ b.transpose(1, 2))
    inputs = (torch.randn(2, 5, 8), torch.randn(2, 7, 8))
    scheduled = schedule(module, inputs)
    assert len(names(scheduled)) == 1
    check(scheduled, module, inputs)


def test_an_operand_without_a_contiguous_row_is_copied() -> None:
    module = Function(lambda m, a, b: a.transpose(1, 2) @ b)
    inputs = (torch.randn(2, 8, 5), torch.randn(2, 8, 7))
    scheduled = schedule(module, inputs)
    assert len(names(scheduled)) == 2 and len(copies(scheduled)) == 1
    check(scheduled, module, inputs)


def test_outputs_that_are_inputs_views_or_repeats_are_copied() -> None:
    module = Function(lambda m, x: (x, x.transpose(0, 1), m.w, x + 1, (x + 1).t()), w=torch.randn(3))
    inputs = (torch.randn(3, 4),)
    scheduled = schedule(module, inputs)
    outputs = [s.name for s in scheduled.schedule.storages if s.kind == "output"]
    assert outputs == [t.name for t in scheduled.outputs] and len(outputs) == 5
    check(scheduled, module, inputs)


def test_arithmetic_writes_what_a_linear_reads_turned() -> None:
    module = Function(lambda m, x: F.linear((x * 2).tanh().transpose(1, 2), m.w), w=torch.randn(4, 24))
    inputs = (torch.randn(2, 24, 17),)
    scheduled = schedule(module, inputs)
    assert len(names(scheduled)) == 2 and not copies(scheduled)
    check(scheduled, module, inputs)


def test_a_constant_times_a_turned_matrix_is_a_linear() -> None:
    module = Function(
        lambda m, x: F.softplus(m.w @ x.transpose(1, 2) + m.b), w=torch.randn(33, 24), b=torch.randn(33, 1)
    )
    inputs = (torch.randn(2, 17, 24),)
    scheduled = schedule(module, inputs)
    assert [g.kind for g in scheduled.groups] == ["template"] and len(scheduled.groups[0].nodes) == 2
    check(scheduled, module, inputs)
