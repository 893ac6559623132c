"""More recipes: elementwise operators on constants, slices with a step, and small literals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ullage.graph.constants import Box, ConstantRef

Argument = Any
"""A ConstantRef, a number, a dtype, None, or a tuple of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """A small tensor that was computed at compile time; its key is a digest of its bytes."""

    tensor: torch.Tensor

    def read(self, box: Box) -> torch.Tensor:
        """A new contiguous copy of the box."""
        return self.tensor[box].clone(memory_format=torch.contiguous_format)

    @property
    def key(self) -> str:
        """Dtype, shape and digest."""
        flat = self.tensor.contiguous().reshape(-1)
        content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        return f"literal[{self.tensor.dtype},{tuple(self.tensor.shape)}]({hashlib.sha256(content).hexdigest()})"


@dataclass(frozen=True, slots=True)
class Stepped:
    """Every `step`-th index of `base` along `dim`."""

    base: ConstantRef
    dim: int
    step: int

    def read(self, box: Box) -> torch.Tensor:
        """The box, thinned out of the span of the base that holds it."""
        part = box[self.dim]
        count = max(0, part.stop - part.start)
        first = part.start * self.step
        span = slice(first, first + (count - 1) * self.step + 1) if count else slice(0, 0)
        read = self.base.read((*box[: self.dim], span, *box[self.dim + 1 :]))
        return read[(*(slice(None),) * self.dim, slice(None, None, self.step))].contiguous()

    @property
    def key(self) -> str:
        """Dimension, step and base."""
        return f"step[{self.dim},{self.step}]({self.base.source.key})"


@dataclass(frozen=True, slots=True)
class Elementwise:
    """An elementwise ATen operator on constants that broadcast to its result."""

    target: Callable[..., torch.Tensor]
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...] = ()

    def read(self, box: Box) -> torch.Tensor:
        """The operator on what each operand holds for the box."""
        args = [_read(argument, box) for argument in self.args]
        kwargs = {name: _read(argument, box) for name, argument in self.kwargs}
        with torch.no_grad():
            return self.target(*args, **kwargs).expand([s.stop - s.start for s in box]).contiguous()

    @property
    def key(self) -> str:
        """Operator and arguments."""
        options = "".join(f",{name}={_text(value)}" for name, value in self.kwargs)
        return f"{self.target}({','.join(map(_text, self.args))}{options})"


def _read(argument: Argument, box: Box) -> Any:
    if not isinstance(argument, ConstantRef):
        return argument
    own = box[len(box) - len(argument.shape) :]
    return argument.read(tuple(slice(0, 1) if n == 1 else part for n, part in zip(argument.shape, own, strict=True)))


def _text(argument: Argument) -> str:
    return f"{argument.source.key}{argument.shape}" if isinstance(argument, ConstantRef) else repr(argument)


def literal(name: str, tensor: torch.Tensor) -> ConstantRef:
    """A constant that holds a copy of a small tensor."""
    own = tensor.detach().clone(memory_format=torch.contiguous_format)
    return ConstantRef(name, own.dtype, tuple(own.shape), Literal(own))


def stepped(base: ConstantRef, dim: int, step: int) -> ConstantRef:
    """Every `step`-th index along `dim`."""
    shape = (*base.shape[:dim], -(-base.shape[dim] // step), *base.shape[dim + 1 :])
    return base if step == 1 else ConstantRef(base.name, base.dtype, shape, Stepped(base, dim, step))
