"""Copies of a loop's body, compared side by side: what they have in common, as one body over all steps.

Tracing a Python loop leaves a copy of its body per step. Nodes of one place in the body are compared from the results
up, as superword-level parallelism is found (Larsen and Amarasinghe 2000): they are one node, elements of one tensor at
successive places, the same call on such operands, or the states of a recurrence h = a · h + b.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.edit import args_of, argument, is_call, is_one, is_tensor, same_shape, shape_of, target_of, value_of
from ullage.passes.fuse.batched import can_batch

aten = torch.ops.aten
_DEEPEST = 48
"""Calls between the results of a body and what it starts from, at most."""

Nodes = tuple[Node, ...]
"""One node per step."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same node in every step."""

    node: Node


@dataclass(frozen=True, slots=True)
class Taken:
    """Step t takes element `start + t · stride` of a dimension; `keeps` says whether a dimension of size 1 remains."""

    base: Node
    dim: int
    start: int
    stride: int
    keeps: bool


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """The same call in every step; `operands` are its tensors in the order of `tensors_of`."""

    nodes: Nodes
    operands: tuple[Plan, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Recurrence:
    """h[t] = factor[t] · h[t − 1] + term[t]; h[−1] is `initial`. The products have no other use."""

    nodes: Nodes
    products: Nodes
    factor: Plan | float
    term: Plan
    initial: Node | float


Plan = Fixed | Taken | Call | Recurrence


@dataclass
class Steps:
    """Compares the steps of one unrolled loop; each tuple of nodes is looked at once."""

    known: dict[Nodes, Plan | None] = field(default_factory=dict)

    def plan(self, nodes: Nodes, depth: int = 0) -> Plan | None:
        """What the nodes are as one; None if they differ."""
        if nodes not in self.known:
            self.known[nodes] = self._plan(nodes, depth) if depth < _DEEPEST else None
        return self.known[nodes]

    def _plan(self, nodes: Nodes, depth: int) -> Plan | None:
        first = nodes[0]
        if all(node is first for node in nodes):
            return Fixed(first)
        if not all(is_tensor(node) and node.op == "call_function" for node in nodes):
            return None
        return _taken(nodes) or self._recurrence(nodes, depth) or self._call(nodes, depth)

    def _recurrence(self, nodes: Nodes, depth: int) -> Recurrence | None:
        steps = [step for before, node in pairwise(nodes) if (step := _linear(node, before)) is not None]
        start = _parts(nodes[0], steps[0].summand, steps[0].side) if len(steps) == len(nodes) - 1 else None
        if start is None or not is_tensor(start[2]) or not all(same_kind(nodes[0], node) for node in nodes[1:]):
            return None
        factor = self._factor((start[1], *(step.factor for step in steps)), depth + 1)
        term = self.plan((start[2], *(step.term for step in steps)), depth + 1)
        if factor is None or term is None:
            return None
        products = (
            args_of(nodes[0])[steps[0].summand],
            *(args_of(n)[s.summand] for n, s in zip(nodes[1:], steps, strict=True)),
        )
        return Recurrence(nodes, products, factor, term, 0.0 if _is_zeros(start[0]) else start[0])

    def _factor(self, factors: tuple[Any, ...], depth: int) -> Plan | float | None:
        if isinstance(factors[0], int | float):
            return factors[0] if all(_equal(factors[0], factor) for factor in factors) else None
        return self.plan(factors, depth) if all(map(is_tensor, factors)) else None

    def _call(self, nodes: Nodes, depth: int) -> Call | None:
        first = nodes[0]
        if not can_batch(first) or not all(_same_call(first, node) for node in nodes[1:]):
            return None
        columns = zip(*(tensors_of(node) for node in nodes), strict=True)
        operands = [self.plan(tuple(column), depth + 1) for column in columns]
        known = tuple(operand for operand in operands if operand is not None)
        return Call(nodes, known) if len(known) == len(operands) else None


def written(plan: Plan) -> list[Call | Recurrence]:
    """The parts of a plan that replace nodes of the steps."""
    seen: dict[int, Plan] = {}
    stack = [plan]
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, Call):
            stack += part.operands
        elif isinstance(part, Recurrence):
            stack += [part.term, *([] if isinstance(part.factor, int | float) else [part.factor])]
    return [part for part in seen.values() if isinstance(part, Call | Recurrence)]


def tensors_of(node: Node) -> list[Node]:
    """The tensor arguments of a call, those of lists too."""
    return [leaf for leaf in _leaves((node.args, node.kwargs)) if is_tensor(leaf)]


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        tree = tuple(tree.items())
    if isinstance(tree, tuple | list):
        for part in tree:
            yield from _leaves(part)
    else:
        yield tree


def _same_call(a: Node, b: Node) -> bool:
    """Whether two calls differ in tensors only."""
    if target_of(a) != target_of(b) or not same_kind(a, b):
        return False
    left, right = (list(_leaves((node.args, node.kwargs))) for node in (a, b))
    if len(left) != len(right):
        return False
    return all(map(_agree, left, right))


def _agree(x: Any, y: Any) -> bool:
    return same_kind(x, y) if is_tensor(x) and is_tensor(y) else x is y or _equal(x, y)


def same_kind(x: Node, y: Node) -> bool:
    """Whether two tensors have equal dtypes and shapes."""
    return bool(value_of(x).dtype == value_of(y).dtype) and same_shape(x, y)


def _equal(x: Any, y: Any) -> bool:
    return type(x) is type(y) and not isinstance(x, Node) and bool(x == y)


# ---- elements of one tensor -------------------------------------------------------------------------------------
def _taken(nodes: Nodes) -> Taken | None:
    places = [_place(node) for node in nodes]
    found = [place for place in places if place is not None]
    if len(found) < len(nodes) or len({place[:2] + place[3:] for place in found}) > 1:
        return None
    base, dim, start, keeps = found[0]
    strides = {b[2] - a[2] for a, b in pairwise(found)}
    stride = strides.pop()
    return None if strides or stride not in (1, -1) else Taken(base, dim, start, stride, keeps)


def _place(node: Node) -> tuple[Node, int, int, bool] | None:
    """(base, dimension, index, whether the dimension stays) of a node that is one element along one dimension."""
    if not is_call(node, aten.select.int, aten.slice.Tensor):
        return None
    base, dim = args_of(node)[0], argument(node, "dim", 0)
    shape = shape_of(base)
    dim = dim % len(shape)
    size = shape[dim]
    keeps = is_call(node, aten.slice.Tensor)
    index = argument(node, "start", 0) if keeps else argument(node, "index")
    if not isinstance(size, int) or not isinstance(index or 0, int) or (keeps and not is_one(shape_of(node)[dim])):
        return None
    return _whole(base), dim, (index or 0) % size, keeps


def _whole(node: Node) -> Node:
    """What a node shows all of."""
    while is_call(node, aten.slice.Tensor) and same_shape(node, args_of(node)[0]) and argument(node, "step", 1) == 1:
        node = args_of(node)[0]
    return node


# ---- recurrences ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Linear:
    """factor · state + term, and which operands of the sum and of the product hold the state."""

    factor: Any
    term: Node
    summand: int
    side: int


def _linear(node: Node, state: Node) -> _Linear | None:
    """The node as a linear function of a state; None if it is none."""
    for summand in (0, 1):
        for side in (0, 1):
            parts = _parts(node, summand, side)
            if parts is not None and parts[0] is state and is_tensor(parts[2]):
                return _Linear(parts[1], parts[2], summand, side)
    return None


def _parts(node: Node, summand: int, side: int) -> tuple[Any, Any, Any] | None:
    """(state, factor, term) of a sum with a product, for given places of the product and of the state in it."""
    if not is_call(node, aten.add.Tensor) or node.kwargs or len(node.args) != 2:
        return None
    product, term = node.args[summand], node.args[1 - summand]
    if not is_call(product, aten.mul.Tensor) or len(product.users) != 1:
        return None
    operands = args_of(product)
    return operands[side], operands[1 - side], term


def _is_zeros(value: Any) -> bool:
    if is_call(value, aten.zeros.default):
        return True
    if is_call(value, aten.full.default):
        return bool(args_of(value)[1] == 0)
    return isinstance(value, int | float) and value == 0


def results(parts: Sequence[Any]) -> Nodes | None:
    """The parts of a joined tensor as one node per step; None if they are not alike."""
    nodes = tuple(part for part in parts if is_tensor(part))
    alike = len(nodes) == len(parts) > 1 and all(same_kind(nodes[0], node) for node in nodes[1:])
    return nodes if alike else None
