"""The lowering table: ATen operator → function that lowers it, filled by the modules of this package."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from ullage.codegen.loops.ir import Expr
from ullage.codegen.lower.builder import Builder, Lowering
from ullage.codegen.lower.shapes import Index, broadcast_index, dtype_name, shape_of, size_expr
from ullage.codegen.lower.values import Lazy, cast, compute_dtype, literal
from ullage.errors import UnsupportedOperator

aten = torch.ops.aten
Register = Callable[[Lowering], Lowering]


class Table:
    """Operators and their lowerings, with the class that fusion needs to know (`pointwise`, `move`, `reduce`)."""

    def __init__(self) -> None:
        self.lowerings: dict[Any, Lowering] = {}
        self.kinds: dict[Any, str] = {}

    def register(self, kind: str, *targets: Any) -> Register:
        """A decorator that enters a lowering for operators (packets enter all their overloads)."""

        def enter(lowering: Lowering) -> Lowering:
            for target in targets:
                for overload in _overloads(target):
                    self.lowerings[overload] = lowering
                    self.kinds[overload] = kind
            return lowering

        return enter

    def find(self, node: Node) -> Lowering:
        """The lowering of a node; UnsupportedOperator if there is none."""
        if node.target not in self.lowerings:
            raise UnsupportedOperator({str(node.target): [node.name]})
        return self.lowerings[node.target]

    def kind(self, node: Node) -> str | None:
        """`pointwise`, `move` or `reduce`; None for an operator without a loop lowering."""
        return self.kinds.get(node.target)


def _overloads(target: Any) -> list[Any]:
    if isinstance(target, torch._ops.OpOverloadPacket):
        names: list[str] = target.overloads()  # type: ignore[no-untyped-call]
        return [getattr(target, name) for name in names]
    return [target]


def fake(node: Node) -> torch.Tensor:
    """The fake tensor of a node."""
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor), f"{node} is no tensor"
    return value


def int_of(value: object) -> int:
    """A static integer argument."""
    assert isinstance(value, int), f"no static integer: {value!r}"
    return int(value)


def float_of(value: object) -> float:
    """A static number argument."""
    assert isinstance(value, int | float), f"no static number: {value!r}"
    return float(value)


def ints_of(value: object) -> tuple[int, ...]:
    """A sequence of static integers (or one)."""
    return tuple(int_of(v) for v in value) if isinstance(value, Sequence) else (int_of(value),)


def list_of(value: object) -> list[object]:
    """A sequence argument."""
    assert isinstance(value, Sequence), f"no sequence: {value!r}"
    return list(value)


def node_of(value: object) -> Node:
    """A node argument."""
    assert isinstance(value, Node), f"no node: {value!r}"
    return value


def argument(node: Node, position: int, name: str, default: object = None) -> object:
    """An argument given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def result_dtype(node: Node) -> str:
    """The dtype name of a node's (first) result."""
    value = node.meta["val"]
    return dtype_name(value.dtype if isinstance(value, torch.Tensor) else value[0].dtype)


def scalar(value: object) -> Expr | None:
    """A Python number, SymInt or symbolic node as an expression, else None."""
    if isinstance(value, Node):
        value = value.meta["val"]
    if isinstance(value, bool):
        return literal(value, "bool")
    if isinstance(value, int):
        return literal(value, "int64")
    if isinstance(value, float):
        return literal(value, "float64")
    return size_expr(value) if isinstance(value, torch.SymInt) else None


def operand(builder: Builder, value: object) -> Lazy:
    """An operator argument (node or number) as a lazy tensor; numbers have no dimensions."""
    if isinstance(value, Node) and isinstance(value.meta["val"], torch.Tensor):
        return builder.value(value)
    number = scalar(value)
    assert number is not None, f"no tensor or number: {value!r}"
    return Lazy((), number.dtype, lambda _index: number)


def elementwise(builder: Builder, node: Node, args: tuple[object, ...], dtype: str, fn: Callable[..., Expr]) -> Lazy:
    """A pointwise operator: broadcast the arguments, convert them to the computing type of `dtype`, apply `fn`."""
    values = [operand(builder, a) for a in args]
    compute = compute_dtype(dtype)
    result = result_dtype(node)

    def at(index: Index) -> Expr:
        loads = [cast(v.at(broadcast_index(index, v.shape)), compute) for v in values]
        return cast(fn(*loads), compute_dtype(result))

    return Lazy(shape_of(fake(node)), result, at)


def promoted(*args: object) -> str:
    """The dtype that torch computes a mixed pointwise operator in (tensors and Python numbers)."""
    values = [a.meta["val"] if isinstance(a, Node) else a for a in args]
    plain = [1 if isinstance(v, torch.SymInt) else v for v in values]
    if len(plain) == 1:
        return dtype_name(plain[0].dtype) if isinstance(plain[0], torch.Tensor) else "float32"
    if not any(isinstance(v, torch.Tensor) for v in plain):
        return "int64"
    dtype = _pair(plain[0], plain[1])
    for value in plain[2:]:
        dtype = torch.promote_types(dtype, _pair(value, plain[0]))
    return dtype_name(dtype)


def _pair(left: Any, right: Any) -> torch.dtype:
    return torch.result_type(left, right)


TABLE = Table()
GETITEM = operator.getitem
