"""Fusion: what becomes one kernel, as text, and that the result is right without any generated code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.codegen.schedule.scheduling import Function, Tensors, check, schedule, shown

torch.manual_seed(0)
X = torch.randn(2, 6, 16)
IMAGE = torch.randn(1, 3, 8, 8)


def linear(outputs: int = 16, inputs: int = 16) -> torch.Tensor:
    """A weight."""
    return torch.randn(outputs, inputs) * 0.2


def tanh_gelu(_: Any, x: torch.Tensor) -> torch.Tensor:
    """GELU spelled out: a diamond over x."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def swiglu(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Two products of which one gates the other."""
    return F.silu(F.linear(x, m.gate)) * F.linear(x, m.up)


def rope(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding by halves."""
    half = x.shape[-1] // 2
    return x * m.cos + torch.cat((-x[..., half:], x[..., :half]), -1) * m.sin


def activation_kept(m: Any, x: torch.Tensor) -> torch.Tensor:
    """The residual is the product's own operand, so it cannot be computed in the product's epilogue."""
    y = x.relu()
    return y + F.linear(y, m.w)


def normalised(m: Any, x: torch.Tensor) -> torch.Tensor:
    """exp(x) divided by something that a product makes of it: joining all would make a cycle."""
    y = x.exp()
    return y * F.linear(y.sum(-1, keepdim=True), m.w)


def several(_: Any, x: torch.Tensor) -> Tensors:
    """Values that are used inside and outside."""
    y = x.exp()
    return y, y.relu(), y * 2 + 1


def repeated(m: Any, x: torch.Tensor) -> torch.Tensor:
    """An expensive value read forty times: computed once."""
    return (x.exp()[:, :, None] * m.w).sum(-1)


def joined(m: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A concatenation whose parts are computed."""
    return torch.cat([a.relu(), b.exp()], 1) @ m.w


CASES: dict[str, tuple[nn.Module, Tensors, list[str]]] = {
    "linear_gelu": (nn.Sequential(nn.Linear(16, 24), nn.GELU()), (X,), ["template: linear gelu -> 1"]),
    "linear_residual": (Function(lambda m, x: x + F.linear(x, m.w), w=linear()), (X,), ["template: linear add -> 1"]),
    "tanh_gelu": (
        nn.Sequential(nn.Linear(16, 24), Function(tanh_gelu)), (X,),
        ["template: linear mul mul mul mul add mul tanh add mul -> 1"],
    ),
    "layer_norm": (
        Function(lambda m, x, y: F.layer_norm(x + y, (16,), m.w), w=torch.rand(16)), (X, X + 1),
        ["loops: add layer_norm -> 1"],
    ),
    "softmax": (
        Function(lambda m, x: (x * 0.25 + m.mask).softmax(-1), mask=torch.randn(6, 6)), (torch.randn(2, 3, 6, 6),),
        ["loops: mul add _softmax -> 1"],
    ),
    "convolution": (
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()), (IMAGE,),
        ["template: convolution relu -> 1"],
    ),
    "swiglu": (
        Function(swiglu, gate=linear(32), up=linear(32)), (X,),
        ["template: linear -> 1", "template: linear silu mul -> 1"],
    ),
    "rope": (
        Function(rope, cos=torch.randn(6, 16), sin=torch.randn(6, 16)), (X,), ["loops: mul neg cat mul add -> 1"]
    ),
    "concatenation": (
        Function(joined, w=linear(16, 4)), (X, X[:, :3] * 0.5),
        ["loops: relu -> 1", "loops: exp -> 1", "concat: cat -> 1", "template: linear -> 1"],
    ),
    "activation_kept": (
        Function(activation_kept, w=linear()), (X,), ["loops: relu -> 1", "template: linear add -> 1"]
    ),
    "no_cycle": (
        Function(normalised, w=linear(16, 1)), (X,),
        ["loops: exp -> 1", "loops: sum -> 1", "template: linear mul -> 1"],
    ),
    "several_outputs": (Function(several), (X,), ["loops: exp relu mul add -> 3"]),
    "nothing_expensive_twice": (
        Function(repeated, w=torch.randn(2, 6, 40, 16)), (X,), ["loops: exp -> 1", "loops: mul sum -> 1"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_groups(name: str) -> None:
    module, inputs, expected = CASES[name]
    scheduled = schedule(module, inputs)
    assert shown(scheduled) == expected
    check(scheduled, module, inputs)


def test_every_node_that_is_no_view_is_in_one_group() -> None:
    scheduled = schedule(CASES["rope"][0], (X,))
    nodes = [n for g in scheduled.groups for n in g.nodes]
    assert len(nodes) == len(set(nodes)) == 5


def test_a_concatenation_costs_no_copy() -> None:
    module, inputs, _ = CASES["concatenation"]
    scheduled = schedule(module, inputs)
    writes = [o for step in scheduled.schedule.steps for o in step.operands if o.access == "w"]
    assert writes[0].target == writes[1].target and writes[0].offset != writes[1].offset
    assert len(scheduled.schedule.steps) == 3


def test_the_same_part_twice_is_copied_once() -> None:
    module = Function(lambda m, x: (lambda y: torch.cat([y, y], 1) @ m.w)(x.exp()), w=linear(16, 4))
    scheduled = schedule(module, (X,))
    assert len(scheduled.schedule.steps) == 3
    check(scheduled, module, (X,))


def test_a_value_may_be_overwritten_where_it_is_read_last() -> None:
    module = nn.Sequential(Function(swiglu, gate=linear(32), up=linear(32)), nn.Linear(32, 4))
    _, gated, _ = schedule(module, (X,)).schedule.steps
    ((read, written),) = gated.inplace
    assert (gated.operands[read].access, gated.operands[written].access) == ("r", "w")


def test_equal_layers_share_a_kernel() -> None:
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.GELU()) for _ in range(4)))
    inner = [s.kernel for s in schedule(layers, (X,)).schedule.steps]
    assert len(inner) == 4 and len(set(inner)) == 1
