"""The table of operators that can be written, and the call that an operator's form is made from."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from ullage.errors import UnsupportedOperator
from ullage.frontends.onnx.write.block import Block, Value
from ullage.frontends.onnx.write.types import arithmetic, form

if TYPE_CHECKING:
    from ullage.frontends.onnx.write.model import Writer

aten = torch.ops.aten
Form = Callable[["Call"], Any]
FORMS: dict[Any, Form] = {}


def writes(*targets: Any) -> Callable[[Form], Form]:
    """Enter the ONNX form of operators (packets enter all their overloads)."""

    def enter(written: Form) -> Form:
        for target in targets:
            for overload in overloads(target):
                FORMS[overload] = written
        return written

    return enter


def overloads(target: Any) -> list[Any]:
    """All overloads of a packet, or the one that is given."""
    if isinstance(target, torch._ops.OpOverloadPacket):
        return [getattr(target, name) for name in target.overloads()]  # type: ignore[no-untyped-call]
    return [target]


@dataclass(frozen=True)
class Call:
    """One node of the graph, its arguments by the names of its schema, and where its ONNX form is written."""

    node: Node
    writer: Writer

    @property
    def block(self) -> Block:
        """Where operators are appended."""
        return self.writer.block

    def op(self, name: str, *inputs: Value | None, domain: str = "", **attributes: Any) -> Value:
        """Append an operator with one result."""
        return self.block.op(name, *inputs, domain=domain, **attributes)

    def __getitem__(self, name: str) -> Any:
        """An argument by its schema's name, its default if it is left out, None if the operator has none."""
        for position, argument in enumerate(self.node.target._schema.arguments):  # type: ignore[union-attr]
            if argument.name == name:
                if position < len(self.node.args) and not argument.kwarg_only:
                    return self.node.args[position]
                default = argument.default_value if argument.has_default_value() else None
                return self.node.kwargs.get(name, default)
        return None

    def first(self, count: int) -> tuple[Any, ...]:
        """The first arguments, whatever their names."""
        names = [a.name for a in self.node.target._schema.arguments]  # type: ignore[union-attr]
        return tuple(self[name] for name in names[:count])

    def refuse(self, what: str) -> UnsupportedOperator:
        """An error about this node."""
        return UnsupportedOperator({f"{self.node.target} {what}": [self.node.name]}, "It has no ONNX form.")

    @property
    def result(self) -> torch.Tensor:
        """The fake tensor of the (first) result."""
        value = self.node.meta["val"]
        return value[0] if isinstance(value, tuple | list) else value  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the result has between operators."""
        return form(self.result.dtype)

    def fake(self, value: Any = None) -> torch.Tensor:
        """The fake tensor of an argument (the first without one)."""
        argument: Any = self.node.args[0] if value is None else value
        found = argument.meta["val"]
        assert isinstance(found, torch.Tensor)
        return found

    def value(self, value: Any, dtype: torch.dtype | None = None) -> Value:
        """A tensor argument or a number in a dtype; tensors without one in their own."""
        fake = value.meta["val"] if isinstance(value, Node) else value
        if isinstance(fake, torch.Tensor):
            found = self.writer.values[value]
            own = form(fake.dtype)
            return found if dtype is None or own == form(dtype) else self.block.cast(found, form(dtype))
        wanted = form(dtype or (torch.float32 if isinstance(fake, float) else torch.int64))
        if isinstance(fake, torch.SymInt):
            size = self.writer.sizes.scalar(fake)
            return size if wanted == torch.int64 else self.block.cast(size, wanted)
        if not isinstance(fake, bool | int | float):
            raise self.refuse(f"with the argument {value!r}")
        return self.block.number(fake, wanted)

    def optional(self, value: Any, dtype: torch.dtype | None = None) -> Value | None:
        """The same, None for None."""
        return None if value is None else self.value(value, dtype)

    def elementwise(
        self, values: Sequence[Any], written: Callable[..., Value], dtype: torch.dtype | None = None
    ) -> Value:
        """`written` of arguments converted to what the result (or `dtype`) is computed in; the result as it is used."""
        own = self.dtype if dtype is None else form(dtype)
        wide = arithmetic(own)
        found = written(*(self.value(value, wide) for value in values))
        return found if wide == own else self.block.cast(found, own)

    def promoted(self, *values: Any) -> torch.dtype:
        """The dtype that torch computes a comparison of arguments in."""
        plain = [v.meta["val"] if isinstance(v, Node) else v for v in values]
        numbers = [1 if isinstance(v, torch.SymInt) else v for v in plain]
        dtype = torch.result_type(numbers[0], numbers[-1])
        return arithmetic(dtype)

    def known_int(self, value: Any) -> int:
        """An integer that is known; UnsupportedOperator for one that depends on a dynamic dimension."""
        if isinstance(value, bool | int):
            return int(value)
        raise self.refuse(f"with the computed number {value}")

    def known_ints(self, value: Any) -> list[int]:
        """Integers that are known (one becomes a list)."""
        return [self.known_int(v) for v in value] if isinstance(value, list | tuple) else [self.known_int(value)]


def size_of(value: Any) -> Any:
    """A size argument as an int or SymInt."""
    return value.meta["val"] if isinstance(value, Node) else value


def dims_of(value: Any, rank: int) -> list[int]:
    """Dimensions counted from the front; None and none are all; a single value has none."""
    if value is None or value == [] or rank == 0:
        return list(range(rank))
    return [int(d) % rank for d in (value if isinstance(value, list | tuple) else [value])]


@writes(operator.getitem)
def _getitem(call: Call) -> Any:
    source, position = call.node.args
    found = call.writer.values[source][position]  # type: ignore[index]
    if found is None:
        raise UnsupportedOperator({f"result {position} of {source.target}": [call.node.name]})  # type: ignore[union-attr]
    return found
