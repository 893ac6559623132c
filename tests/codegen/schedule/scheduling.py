"""Schedules of small modules for tests: built, shown as text, and run by the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.interpret import run_schedule
from ullage.codegen.schedule.build import Scheduled, build_schedule
from ullage.frontends.load import load_model
from ullage.passes.pipelines import run_clean
from ullage.target import Target

TARGET = Target.parse("cpu", threads=2)
Tensors = tuple[torch.Tensor, ...]


class Function(nn.Module):
    """A function with parameters made from named tensors, as a module."""

    def __init__(self, run: Callable[..., Any], **tensors: torch.Tensor) -> None:
        super().__init__()
        self.run = run
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The function of the module (for its tensors) and the inputs."""
        return self.run(self, *inputs)


def schedule(module: nn.Module, inputs: Tensors, dynamic_shapes: Any = None) -> Scheduled:
    """The schedule of a module in eval mode."""
    module.eval().requires_grad_(False)
    clean, _ = run_clean(load_model(module, inputs, dynamic_shapes=dynamic_shapes))
    return build_schedule(clean, TARGET)


def shown(scheduled: Scheduled) -> list[str]:
    """One line per group: its kind, the operators of its nodes, and how many values leave it."""
    return [f"{g.kind}: {' '.join(_operator(n.target) for n in g.nodes)} -> {len(g.outputs)}" for g in scheduled.groups]


def _operator(target: Any) -> str:
    return str(target).split(".")[1]


def check(scheduled: Scheduled, module: nn.Module, inputs: Tensors) -> None:
    """The interpreted schedule gives what the module gives, to float32's precision."""
    expected = module(*inputs)
    expected = expected if isinstance(expected, tuple | list) else (expected,)
    names = [t.name for t in scheduled.inputs]
    found = run_schedule(scheduled, scheduled.specs, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})
    for info, wanted in zip(scheduled.outputs, expected, strict=True):
        ours = found[info.name].view(np.dtype(info.dtype)).reshape(tuple(wanted.shape))
        torch.testing.assert_close(torch.from_numpy(ours.copy()), wanted, rtol=1e-4, atol=1e-5)
