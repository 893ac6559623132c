"""The Dynamo backend: `torch.compile(model, backend="ullage", options={"budget": "24MiB"})`.

Dynamo hands parameters and buffers over as inputs of its graph; here they become constants again, so that they are
packed into the artifact and counted in the budget. Later changes of their values are not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

import ullage


def ullage_backend(
    gm: GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Compile one Dynamo graph; `options` are those of `ullage.compile`.

    Where Dynamo wants dynamic sizes the graph is compiled at its first call, and again for each new size.
    """
    module = _WithState(gm, example_inputs)
    live = tuple(_plain(example_inputs[i]) for i in module.live)
    example = None if _is_dynamic(example_inputs) else live
    compiled = ullage.compile(module.eval(), example_inputs=example, **(options or {}))
    return _FlatCall(compiled, module.live)


class _WithState(nn.Module):
    """A Dynamo graph that holds the parameters and buffers among its inputs and takes the others."""

    def __init__(self, gm: GraphModule, example_inputs: Sequence[Any]) -> None:
        super().__init__()
        self.graph_module = gm
        self.live = tuple(i for i, value in enumerate(example_inputs) if not _is_state(value))
        self.names = tuple(node.name for node in gm.graph.find_nodes(op="placeholder"))
        for name, value in zip(self.names, example_inputs, strict=True):
            if _is_state(value):
                self.register_buffer(name, value.detach())

    def forward(self, *inputs: Any) -> Any:
        """The graph's results for its live inputs."""
        given = dict(zip(self.live, inputs, strict=True))
        return self.graph_module(*(given[i] if i in given else getattr(self, n) for i, n in enumerate(self.names)))


class _FlatCall:
    """A compiled graph under Dynamo's convention: all inputs by position, state among them."""

    def __init__(self, compiled: Callable[..., Any], live: tuple[int, ...]) -> None:
        self._compiled = compiled
        self._live = live

    def __call__(self, *args: Any) -> Any:
        """Run it; gradients are not recorded."""
        return self._compiled(*(_plain(args[i]) for i in self._live))


def _is_state(value: object) -> bool:
    return isinstance(value, nn.Parameter) or getattr(value, "_dynamo_static_input_type", None) is not None


def _is_dynamic(values: Sequence[Any]) -> bool:
    return any(isinstance(value, torch.SymInt) for value in values)


def _plain(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value
