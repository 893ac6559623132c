"""The table of ONNX operators, and the call that an operator's translation gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ullage.errors import CaptureError
from ullage.frontends.onnx.values import Known, Value

Result = Value | None | Sequence[Any]
Translation = Callable[["Call"], Result]
Host = Callable[..., Any]
STANDARD = ""
"""The domain of the standard's own operators (`ai.onnx` is the same)."""


@dataclass(frozen=True, slots=True)
class Operator:
    """How an operator is translated from an opset version on; `host` computes it on numpy arrays, of objects too."""

    since: int
    translate: Translation
    host: Host | None = None


OPERATORS: dict[tuple[str, str], list[Operator]] = {}


def operator(
    *names: str, since: int = 1, domain: str = STANDARD, host: Host | None = None
) -> Callable[[Translation], Translation]:
    """Register the translation of operators of a domain, from an opset version on."""

    def register(translate: Translation) -> Translation:
        for name in names:
            versions = OPERATORS.setdefault((domain, name), [])
            versions.append(Operator(since, translate, host))
            versions.sort(key=lambda found: found.since)
        return translate

    return register


def find(domain: str, name: str, version: int) -> Operator | None:
    """The newest translation that is not newer than an opset version."""
    found = [op for op in OPERATORS.get((domain, name), ()) if op.since <= version]
    return found[-1] if found else None


_MISSING: Any = object()
_SILENT = frozenset({
    "accuracy_level", "activation_alpha", "activation_beta", "activations", "axes", "axis", "body", "broadcast",
    "consumed_inputs", "direction", "dtype", "else_branch", "hidden_size", "input_forget", "is_test", "keepdims",
    "kernel_shape", "layout", "linear_before_reset", "mode", "momentum", "noop_with_empty_axes", "output_padding",
    "ratio", "round_mode", "saturate", "seed", "sorted", "spatial", "stash_type", "storage_order", "then_branch",
    "training_mode", "value",
})  # fmt: skip
"""Attributes that change nothing in inference, or that translations look at only where they matter."""


@dataclass(frozen=True)
class Call:
    """One node with the values of its inputs; `run` walks a subgraph of its attributes."""

    node: ir.Node
    version: int
    inputs: tuple[Any, ...]
    run: Callable[[ir.Graph, Sequence[Any]], list[Any]]
    asked: set[str] = field(default_factory=set)
    """Attributes that the translation has looked at."""

    def place(self) -> str:
        """How messages name the node."""
        return f"{self.node.domain or 'ai.onnx'}::{self.node.op_type} (node {self.node.name!r})"

    def error(self, what: str) -> CaptureError:
        """An error about this node."""
        return CaptureError(f"{self.place()}: {what}")

    def has(self, position: int) -> bool:
        """Whether an input is there."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def tensor(self, position: int = 0) -> torch.Tensor:
        """An input as a tensor."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if isinstance(value, Known):
            return value.as_tensor()
        if not isinstance(value, torch.Tensor):
            raise self.error(f"input {position} is missing" if value is None else f"input {position} is no tensor")
        return value

    def optional(self, position: int) -> torch.Tensor | None:
        """An input as a tensor, None if it is left out."""
        return self.tensor(position) if self.has(position) else None

    def known(self, position: int) -> Known:
        """An input whose values are known; raises CaptureError if they are computed from data."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if isinstance(value, Known):
            return value
        raise self.error(
            f"input {position} must be a constant or follow from shapes, but it is computed from data; "
            "a plan needs sizes that follow from the inputs' shapes."
        )

    def numbers(self, position: int) -> list[Any]:
        """The known values of an input, as Python numbers or symbolic integers."""
        return self.known(position).numbers()

    def scalar(self, position: int, default: Any = _MISSING) -> Any:
        """The one known value of an input; `default` if the input is left out."""
        if not self.has(position) and default is not _MISSING:
            return default
        (value,) = self.numbers(position)
        return value

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute as a Python value, numpy array (tensors) or graph."""
        self.asked.add(name)
        found = self.node.attributes.get(name)
        if found is None:
            return default
        if found.is_ref():
            raise self.error(f"attribute {name!r} refers to an attribute of a function that is not given")
        value = found.value
        if found.type == ir.AttributeType.TENSOR:
            return value
        return list(value) if isinstance(value, tuple | list) else value

    def check_attributes(self) -> None:
        """Raise CaptureError for attributes that the translation has not looked at, and that may say something."""
        unknown = sorted(set(self.node.attributes) - self.asked - _SILENT)
        if unknown:
            raise self.error(f"the attribute {', '.join(unknown)} is not supported in opset {self.version}")

    def numbers_or_attribute(self, position: int, name: str, default: Any = None) -> Any:
        """What newer versions take as an input and older ones as an attribute: a list of integers."""
        if self.has(position):
            return self.numbers(position)
        return self.attribute(name, default)


def as_object(array: np.ndarray) -> np.ndarray:
    """A copy that may hold symbolic integers."""
    return array.astype(object)
