"""Tracing leaves out what nobody reads, and torch is as before afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx import GraphModule, config

from ullage.frontends.lean import lean
from ullage.frontends.load import load_model
from ullage.passes.edit import copy_model


def double(x: torch.Tensor) -> torch.Tensor:
    return (x + x).relu()


def test_no_python_code_is_written_for_graphs_that_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []
    write = torch.fx.Graph.python_code

    def noting(self: torch.fx.Graph, *args: Any, **kwargs: Any) -> Any:
        written.append(self)
        return write(self, *args, **kwargs)

    monkeypatch.setattr(torch.fx.Graph, "python_code", noting)
    captured = load_model(double, (torch.ones(2),))
    model = copy_model(captured)
    assert not any(graph in (captured.module.graph, model.module.graph) for graph in written)
    assert model.module(torch.tensor([-1.0, 2.0]))[0].tolist() == [0.0, 4.0]
    assert model.module.graph in written


def test_torch_is_as_before_afterwards() -> None:
    before = vars(config).get("do_not_emit_stack_traces")
    with pytest.raises(ZeroDivisionError), lean():
        raise ZeroDivisionError
    assert vars(config).get("do_not_emit_stack_traces") == before
    module = torch.export.export(torch.nn.ReLU(), (torch.ones(2),)).module()
    assert isinstance(module, GraphModule) and "relu" in module.code
