"""Run a captured graph op by op in eager PyTorch: the oracle for tests, in the graph's own types or in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Interpreter, Node

from ullage.graph.captured import CapturedModel


class _Eager(Interpreter):
    def __init__(self, captured: CapturedModel, dtype: torch.dtype | None) -> None:
        super().__init__(captured.module)
        self._dtype = dtype

    def run_node(self, n: Node) -> Any:
        if self._dtype is None or n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return n.target(*_promoted(args, self._dtype), **_promoted(kwargs, self._dtype))  # type: ignore[operator]


def _promoted(value: Any, dtype: torch.dtype) -> Any:
    """Floating dtypes among arguments become `dtype`, so that casts inside the graph lose nothing."""
    if isinstance(value, torch.dtype):
        return dtype if value.is_floating_point else value
    if isinstance(value, tuple):
        return tuple(_promoted(v, dtype) for v in value)
    if isinstance(value, dict):
        return {k: _promoted(v, dtype) for k, v in value.items()}
    return value


def run_captured(
    captured: CapturedModel, inputs: Sequence[torch.Tensor], dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, ...]:
    """The graph's flat tensor outputs for `inputs` in order; with `dtype` all floating arithmetic is done in it."""

    def prepared(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    values = [prepared(ref.read()) for ref in captured.constants.values()]
    with torch.no_grad():
        result = _Eager(captured, dtype).run(*values, *(prepared(x) for x in inputs))
    return tuple(result)
