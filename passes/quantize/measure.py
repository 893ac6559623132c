"""The error of a rewritten graph: run op by op on samples, with products as the kernels form them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Interpreter, Node
from torch.fx.node import Argument, map_aggregate

from ullage.graph.captured import CapturedModel
from ullage.graph.constants import ConstantRef

Sample = Mapping[str, torch.Tensor]
"""Input tensors by public name."""
Results = tuple[torch.Tensor, ...]
_PRODUCTS = frozenset({torch.ops.aten.linear.default, torch.ops.aten.convolution.default})


class _Kernels(Interpreter):
    """Reads a constant when something needs it, and forms products of narrow operands in float32.

    Nodes named in `rounded` first round their floating operands to bfloat16 (the first two: biases stay).
    """

    def __init__(self, model: CapturedModel, rounded: frozenset[str]) -> None:
        super().__init__(model.module)
        self._rounded = rounded

    def run_node(self, n: Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = map_aggregate(self.fetch_args_kwargs_from_env(n), _read)
        if n.name in self._rounded:
            args = (*map(_rounded, args[:2]), *args[2:])
        if n.target in _PRODUCTS:
            args = tuple(map(_widened, args))
        return n.target(*args, **kwargs)  # type: ignore[operator]


def _read(value: Argument) -> Any:
    return value.read() if isinstance(value, ConstantRef) else value


def _rounded(value: Any) -> Any:
    wide = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.bfloat16().float() if wide else value


def _widened(value: Any) -> Any:
    narrow = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if narrow else value


def run_as_kernels(model: CapturedModel, sample: Sample, rounded: Iterable[str] = ()) -> Results:
    """The outputs for one sample; memory holds the activations and the weights of one operator.

    `rounded` names nodes whose operands are rounded to bfloat16, which is what the rewrite of these nodes does.
    """
    inputs = [sample[spec.name] for spec in model.inputs]
    with torch.no_grad():
        found = _Kernels(model, frozenset(rounded)).run(*model.constants.values(), *inputs)
    return tuple(_read(value) for value in found)


def relative_error(found: Iterable[Results], wanted: Sequence[Results]) -> float:
    """max over outputs of ‖found − wanted‖₂ / ‖wanted‖₂, each norm over all samples; infinite for NaN."""
    outputs = len(wanted[0])
    difference, size = [0.0] * outputs, [0.0] * outputs
    for ours, theirs in zip(found, wanted, strict=True):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            difference[i] += (a.double() - b.double()).square().sum().item()
            size[i] += b.double().square().sum().item()
    return max((_ratio(d, s) for d, s in zip(difference, size, strict=True)), default=0.0)


def _ratio(difference: float, size: float) -> float:
    if difference == 0.0:
        return 0.0
    return (difference / size) ** 0.5 if size > 0.0 and difference == difference else float("inf")
