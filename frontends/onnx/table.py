"""The table of ONNX operators, and the call that an operator's translation gets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch

from ullage.errors import CaptureError
from ullage.frontends.onnx.narrow import Narrow
from ullage.frontends.onnx.values import Known, Value

Result = Value | None | Sequence[Any]
Translation = Callable[["Call"], Result]
Host = Callable[..., Any]
STANDARD = ""
"""The domain of the standard's own operators (`ai.onnx` is the same)."""


@dataclass(frozen=True, slots=True)
class Operator:
    """How an operator is translated from an opset version on; `host` computes it on numpy arrays, of objects too.

    `host` may give NotImplemented for values that only tracing can compute with.
    """

    since: int
    translate: Translation
    host: Host | None = None
    ignores: frozenset[str] = frozenset()
    """Attributes that change no result in inference."""


OPERATORS: dict[tuple[str, str], list[Operator]] = {}


def operator(
    *names: str, since: int = 1, domain: str = STANDARD, host: Host | None = None, ignores: Collection[str] = ()
) -> Callable[[Translation], Translation]:
    """Register the translation of operators of a domain, from an opset version on."""

    def register(translate: Translation) -> Translation:
        for name in names:
            versions = OPERATORS.setdefault((domain, name), [])
            versions.append(Operator(since, translate, host, frozenset(ignores)))
            versions.sort(key=lambda found: found.since)
        return translate

    return register


def find(domain: str, name: str, version: int) -> Operator | None:
    """The newest translation that is not newer than an opset version."""
    found = [op for op in OPERATORS.get((domain, name), ()) if op.since <= version]
    return found[-1] if found else None


_MISSING: Any = object()
MOST_LENGTH = 1 << 24
"""The longest dimension of places or weights that are computed while the graph is walked."""
_LEGACY = frozenset({"consumed_inputs"})
"""Attributes of old operator sets that were hints to memory planners."""


class ComputedValue(CaptureError):
    """A value of the graph would have to be known, but it is computed from data."""

    def __init__(self, message: str, value: ir.Value | None) -> None:
        super().__init__(message)
        self.value = value


@dataclass(frozen=True)
class Call:
    """One node with the values of its inputs; `run` walks a subgraph of its attributes."""

    node: ir.Node
    version: int
    given: tuple[Any, ...]
    run: Callable[[ir.Graph, Sequence[Any]], list[Any]]
    asked: set[str] = field(default_factory=set)
    """Attributes that the translation has looked at."""
    seen: set[int] = field(default_factory=set)
    """Inputs that it has looked at."""

    def place(self) -> str:
        """How messages name the node."""
        return f"{self.node.domain or 'ai.onnx'}::{self.node.op_type} (node {self.node.name!r})"

    def error(self, what: str) -> CaptureError:
        """An error about this node."""
        return CaptureError(f"{self.place()}: {what}")

    @property
    def count(self) -> int:
        """How many inputs the node has; translations that ask look at all of them."""
        return len(self.given)

    @property
    def inputs(self) -> tuple[Any, ...]:
        """All inputs."""
        self.seen.update(range(len(self.given)))
        return self.given

    def value(self, position: int) -> Any:
        """An input as it is: a tensor, known values, a sequence, or None if it is left out."""
        self.seen.add(position)
        return self.given[position] if position < len(self.given) else None

    def has(self, position: int) -> bool:
        """Whether an input is there."""
        return position < len(self.given) and self.given[position] is not None

    def tensor(self, position: int = 0) -> torch.Tensor:
        """An input as a tensor."""
        value = self.value(position)
        if isinstance(value, Known):
            return value.as_tensor()
        if isinstance(value, Narrow):
            raise self.error(f"input {position} is of type {value.kind.name.lower()}, which is not supported here")
        if not isinstance(value, torch.Tensor):
            raise self.error(f"input {position} is missing" if value is None else f"input {position} is no tensor")
        return value

    def optional(self, position: int) -> torch.Tensor | None:
        """An input as a tensor, None if it is left out."""
        return self.tensor(position) if self.has(position) else None

    def known(self, position: int) -> Known:
        """An input whose values are known; raises ComputedValue if they are computed from data."""
        value = self.value(position)
        if isinstance(value, Known):
            return value
        raise self.computed(
            position,
            f"input {position} must be a constant or follow from shapes, but it is computed from data; "
            "a plan needs sizes that follow from the inputs' shapes.",
        )

    def computed(self, position: int, what: str) -> ComputedValue:
        """An error about an input whose values would have to be known."""
        return ComputedValue(f"{self.place()}: {what}", self.node.inputs[position])

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

    def check(self, ignored: frozenset[str]) -> None:
        """Raise CaptureError for attributes and inputs that the translation has not looked at."""
        unread = sorted(set(self.node.attributes) - self.asked - ignored - _LEGACY)
        if unread:
            raise self.error(f"the attribute {', '.join(unread)} is not supported in opset {self.version}")
        more = [i for i, value in enumerate(self.given) if value is not None and i not in self.seen]
        if more:
            raise self.error(f"input {more[0]} is not supported in opset {self.version}")

    def length(self, value: Any) -> int:
        """A size along which something is laid out while the graph is walked; raises CaptureError if it is absurd."""
        if not 0 <= value <= MOST_LENGTH:
            raise self.error(f"a dimension of {value} is not supported here")
        return int(value)

    def numbers_or_attribute(self, position: int, name: str, default: Any = None) -> Any:
        """What newer versions take as an input and older ones as an attribute: a list of integers."""
        if self.has(position):
            return self.numbers(position)
        return self.attribute(name, default)
