"""The Dynamo backend: `torch.compile(model, backend="ullage", options={"budget": "24MiB"})`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from ullage.errors import CaptureError
from ullage.frontends.export import capture


def ullage_backend(
    gm: GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Compile one Dynamo graph with the options of `ullage.compile`; raises CaptureError for dynamic sizes.

    Dynamo passes the parameters as inputs or keeps them in `gm`; both work.
    """
    _refuse_dynamic(example_inputs)
    from ullage.api import compile_captured

    captured = capture(gm, tuple(example_inputs))
    return _FlatCall(compile_captured(captured, **(options or {})))


class _FlatCall:
    """A compiled graph under Dynamo's convention: positional inputs, outputs as the graph returns them."""

    def __init__(self, compiled: Callable[..., Any]) -> None:
        self._compiled = compiled

    def __call__(self, *args: Any) -> Any:
        """Run it; gradients are not recorded."""
        with torch.no_grad():
            result = self._compiled(*(a.detach() if isinstance(a, torch.Tensor) else a for a in args))
        return tuple(result) if isinstance(result, list) else result


def _refuse_dynamic(example_inputs: Sequence[Any]) -> None:
    symbolic = [x for x in example_inputs if isinstance(x, torch.SymInt)]
    shapes = [n for x in example_inputs if isinstance(x, torch.Tensor) for n in x.shape if not isinstance(n, int)]
    if symbolic or shapes:
        raise CaptureError(
            "torch.compile asked for dynamic sizes, which have no bounds here; use torch.compile(..., dynamic=False), "
            "or ullage.compile with dynamic_shapes."
        )
