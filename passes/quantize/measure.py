"""The error of a rewritten graph: run op by op on samples, with products as the kernels form them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Interpreter, Node
from torch.fx.node import Argument, map_aggregate

from ullage.graph.captured import CapturedModel
from ullage.graph.constants import ConstantRef
from ullage.passes.quantize.narrow_attention import attention

Sample = Mapping[str, torch.Tensor]
"""Input tensors by public name."""
Results = tuple[torch.Tensor, ...]
Arguments = tuple[Any, ...]
Rounding = Callable[[Arguments], Arguments]
"""Arguments of an operator as narrower types can hold them."""
Watch = Callable[[Node, Arguments], None]
"""Sees the arguments of every operator that runs."""
_PRODUCTS = frozenset({torch.ops.aten.linear.default, torch.ops.aten.convolution.default})
_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


class _Kernels(Interpreter):
    """Reads a constant when something needs it, and forms products of narrow operands in float32."""

    def __init__(self, model: CapturedModel, rounded: Mapping[str, Rounding], watch: Watch | None) -> None:
        super().__init__(model.module)
        self._rounded = rounded
        self._watch = watch

    def run_node(self, n: Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = map_aggregate(self.fetch_args_kwargs_from_env(n), _read)
        if self._watch is not None:
            self._watch(n, args)
        if n.name in self._rounded:
            args = self._rounded[n.name](args)
        if n.target is _ATTENTION:
            return attention(args, kwargs)
        if n.target in _PRODUCTS:
            args = tuple(map(_widened, args))
        return n.target(*args, **kwargs)  # type: ignore[operator]


def _read(value: Argument) -> Any:
    return value.read() if isinstance(value, ConstantRef) else value


def _widened(value: Any) -> Any:
    narrow = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if narrow else value


def run_as_kernels(
    model: CapturedModel, sample: Sample, rounded: Mapping[str, Rounding] | None = None, watch: Watch | None = None
) -> Results:
    """The outputs for one sample; memory holds the activations and the weights of one operator.

    `rounded` says how the arguments of some nodes are rounded, by name, as rewriting these nodes would.
    """
    inputs = [sample[spec.name] for spec in model.inputs]
    with torch.no_grad():
        found = _Kernels(model, rounded or {}, watch).run(*model.constants.values(), *inputs)
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
