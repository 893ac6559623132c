"""Models through the whole flow: compiled, written, loaded and run at several budgets."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.codegen.schedule.scheduling import TARGET, Tensors
from ullage.driver import Options, Prepared, prepare
from ullage.frontends.load import load_model
from ullage.runtime.load import load
from ullage.runtime.runner import Runner


def prepared(module: nn.Module, inputs: Tensors, dynamic_shapes: Any = None) -> Prepared:
    """A copy of the module in eval mode, ready to be planned."""
    module.eval().requires_grad_(False)
    captured = load_model(copy.deepcopy(module), inputs, dynamic_shapes=dynamic_shapes)
    return prepare(captured, Options(TARGET))


def budgets(model: Prepared) -> tuple[int, int, int]:
    """The least budget, the one that keeps everything in memory, and their middle."""
    least, most = model.minimum_bytes, model.plan(None).peak_bytes
    return least, (least + most) // 2, max(least, most)


@contextmanager
def artifact(model: Prepared) -> Iterator[Path]:
    """A file with the model's plans, from the least budget to everything in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ullage"
        model.write(model.plan(budgets(model)[1]), path)
        yield path


@contextmanager
def running(model: Prepared) -> Iterator[Runner]:
    """The model loaded from a file, at its least budget."""
    with artifact(model) as path, load(path, model.minimum_bytes) as runner:
        yield runner


def results(runner: Runner, inputs: Tensors) -> Tensors:
    """The outputs of one run as torch tensors."""
    found = runner(*inputs)
    return tuple(_tensor(x) for x in (found if isinstance(found, tuple | list) else (found,)))


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    array = np.array(value)
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def tensors(value: Any) -> Tensors:
    """A result as a tuple of tensors."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """‖found − truth‖ / ‖truth‖ in float64."""
    return float((found.double() - truth).norm() / truth.norm().clamp_min(1e-30))
