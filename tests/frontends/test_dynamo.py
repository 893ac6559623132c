"""The Dynamo backend: weights become constants again, inputs stay inputs, new sizes are compiled when they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import ullage
from ullage.frontends.export import capture
from ullage.graph.captured import CapturedModel
from ullage.graph.reference import run_captured


class Recorder:
    """Stands for `ullage.compile`: captures, and runs the captured graph in eager."""

    def __init__(self) -> None:
        self.models: list[CapturedModel] = []
        self.options: list[dict[str, Any]] = []

    def compile(
        self, module: nn.Module, example_inputs: tuple[Any, ...] | None = None, **options: Any
    ) -> Callable[..., Any]:
        self.options.append(options)
        known = None if example_inputs is None else self._capture(module, example_inputs)

        def run(*args: Any) -> tuple[torch.Tensor, ...]:
            model = known if known is not None else self._capture(module, args)
            return run_captured(model, [a for a in args if isinstance(a, torch.Tensor)])

        return run

    def _capture(self, module: nn.Module, args: tuple[Any, ...]) -> CapturedModel:
        self.models.append(capture(module, args))
        return self.models[-1]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    torch._dynamo.reset()
    made = Recorder()
    monkeypatch.setattr(ullage, "compile", made.compile, raising=False)
    return made


def test_parameters_and_buffers_are_constants(recorder: Recorder) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    compiled = torch.compile(module, backend="ullage", options={"budget": "1MiB"}, dynamic=False)
    x = torch.randn(3, 4)
    torch.testing.assert_close(compiled(x), module(x))
    (model,) = recorder.models
    assert len(model.constants) == 6
    assert [tuple(spec.shape) for spec in model.inputs] == [(3, 4)]
    assert recorder.options == [{"budget": "1MiB"}]


def test_new_sizes_are_compiled_when_they_come(recorder: Recorder) -> None:
    module = nn.Linear(4, 4).eval()
    compiled = torch.compile(module, backend="ullage")
    for batch in (3, 5, 7):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(compiled(x), module(x))
    assert [model.inputs[-1].shape[0] for model in recorder.models] == [3, 5, 7]
