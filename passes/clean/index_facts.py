"""What integer tensors say about positions: values that are affine in the index, and comparisons of them.

Position ids, segment ids and masks are built from `arange` by shifts, differences, look-ups and comparisons. Following
these symbolically recognises a causal mask for every length, without computing one.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.canonical_arithmetic import is_number
from ullage.passes.edit import args_of, is_one, same_size, shape_of, value_of

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Affine:
    """The integer at index (i₀, i₁, …) is `offset + Σ slopes[d] · i_d`."""

    offset: int
    slopes: tuple[int, ...]

    @property
    def is_uniform(self) -> bool:
        """Whether it is the same everywhere."""
        return not any(self.slopes)

    @property
    def is_from_front(self) -> bool:
        """Whether it is nowhere negative."""
        return self.offset >= 0 and min(self.slopes, default=0) >= 0

    def varies_along(self) -> int | None:
        """The dimension whose index it is, if it is that."""
        found = [d for d, slope in enumerate(self.slopes) if slope]
        return found[0] if self.offset == 0 and len(found) == 1 and self.slopes[found[0]] == 1 else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The boolean at an index is whether `value` there is at most 0."""

    value: Affine

    def is_causal(self, rank: int) -> bool:
        """Whether it is true exactly where the last index is at most the one before it."""
        slopes = (*(0,) * (rank - len(self.value.slopes)), *self.value.slopes)
        return self.value.offset == 0 and rank >= 2 and slopes == (*(0,) * (rank - 2), -1, 1)


Fact = Affine | Comparison | bool | None


class IndexFacts:
    """Facts about the nodes of one graph, each worked out once."""

    def __init__(self) -> None:
        self._known: dict[Node, Fact] = {}

    def of(self, node: object) -> Fact:
        """What is known about a node's values (a bool: all of them are that); None if nothing."""
        if is_number(node):
            return _of_number(node)
        if not isinstance(node, Node) or node.op != "call_function":
            return None
        if node not in self._known:
            rule = _RULES.get(node.target)
            self._known[node] = rule(self, node) if rule is not None else None
        return self._known[node]

    def affine(self, node: object) -> Affine | None:
        """The fact if it is an affine integer (booleans count as 0 and 1)."""
        fact = self.of(node)
        if isinstance(fact, bool):
            return Affine(int(fact), ())
        return fact if isinstance(fact, Affine) else None


Rule = Callable[[IndexFacts, Node], Fact]


def _of_number(number: Any) -> Fact:
    if isinstance(number, bool):
        return number
    return Affine(int(number), ()) if number == int(number) else None


def _arange(facts: IndexFacts, node: Node) -> Fact:
    start, _, step = (*args_of(node), 1)[:3]
    plain = isinstance(start, int) and isinstance(step, int) and not value_of(node).dtype.is_floating_point
    return Affine(start, (step,)) if plain else None


def _full(facts: IndexFacts, node: Node) -> Fact:
    value = args_of(node)[1]
    if value_of(node).dtype == torch.bool:
        return bool(value) if is_number(value) else None
    return _of_number(value) if is_number(value) and math.isfinite(value) else None


def _reshape(facts: IndexFacts, node: Node) -> Fact:
    """A view that inserts or drops dimensions of size 1."""
    source = args_of(node)[0]
    return _viewed(facts.of(source), lambda slopes: _moved_slopes(shape_of(source), shape_of(node), slopes))


def _expand(facts: IndexFacts, node: Node) -> Fact:
    inner, rank = shape_of(args_of(node)[0]), len(shape_of(node))

    def repeated(slopes: tuple[int, ...]) -> tuple[int, ...]:
        own = _aligned(slopes, len(inner))
        return _aligned(tuple(0 if is_one(n) else s for n, s in zip(inner, own, strict=True)), rank)

    return _viewed(facts.of(args_of(node)[0]), repeated)


def _viewed(fact: Fact, move: Callable[[tuple[int, ...]], tuple[int, ...] | None]) -> Fact:
    if isinstance(fact, bool) or fact is None:
        return fact
    value = fact.value if isinstance(fact, Comparison) else fact
    slopes = move(value.slopes)
    if slopes is None:
        return None
    moved = Affine(value.offset, slopes)
    return Comparison(moved) if isinstance(fact, Comparison) else moved


def _moved_slopes(inner: tuple[Any, ...], outer: tuple[Any, ...], slopes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Slopes per outer dimension when both shapes agree but for ones."""
    own = [(n, s) for n, s in zip(inner, _aligned(slopes, len(inner)), strict=True) if not is_one(n)]
    result: list[int] = []
    for n in outer:
        if is_one(n):
            result.append(0)
        elif own and same_size(own[0][0], n):
            result.append(own.pop(0)[1])
        else:
            return None
    return tuple(result) if not own else None


def _aligned(slopes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (*(0,) * (rank - len(slopes)), *slopes)


def _slice(facts: IndexFacts, node: Node) -> Fact:
    if len(args_of(node)) != 5:
        return None
    source, dim, start, _stop, step = args_of(node)
    value = facts.affine(source)
    if value is None or not isinstance(start, int) or start < 0 or not isinstance(step, int):
        return None
    slopes = list(_aligned(value.slopes, len(shape_of(node))))
    offset = value.offset + slopes[dim] * start
    slopes[dim] *= step
    return Affine(offset, tuple(slopes))


def _cat(facts: IndexFacts, node: Node) -> Fact:
    """Parts that continue each other along the dimension."""
    parts, dim = args_of(node)[0], args_of(node)[1] if len(args_of(node)) > 1 else 0
    values = [facts.affine(part) for part in parts]
    if any(value is None for value in values) or not all(isinstance(shape_of(p)[dim], int) for p in parts[:-1]):
        return None
    rank = len(shape_of(node))
    whole, position = Affine(values[-1].offset, _aligned(values[-1].slopes, rank)), 0  # type: ignore[union-attr]
    lengths = [int(shape_of(part)[dim]) for part in parts[:-1]]
    first = whole.offset - whole.slopes[dim] * sum(lengths)
    for value, length in zip(values, [*lengths, 2], strict=True):
        if value is None or not _continues(value, first + whole.slopes[dim] * position, whole.slopes, length, dim):
            return None
        position += length
    return Affine(first, whole.slopes)


def _continues(value: Affine, offset: int, slopes: tuple[int, ...], length: int, dim: int) -> bool:
    own = _aligned(value.slopes, len(slopes))
    others = all(a == b for d, (a, b) in enumerate(zip(own, slopes, strict=True)) if d != dim)
    return others and value.offset == offset and (length == 1 or own[dim] == slopes[dim])


def _sum(sign: int) -> Rule:
    def rule(facts: IndexFacts, node: Node) -> Fact:
        left, right = (facts.affine(arg) for arg in args_of(node)[:2])
        return _combined(left, right, sign, len(shape_of(node))) if not node.kwargs else None

    return rule


def _combined(left: Affine | None, right: Affine | None, sign: int, rank: int) -> Affine | None:
    if left is None or right is None:
        return None
    pairs = zip(_aligned(left.slopes, rank), _aligned(right.slopes, rank), strict=True)
    return Affine(left.offset + sign * right.offset, tuple(a + sign * b for a, b in pairs))


def _index(facts: IndexFacts, node: Node) -> Fact:
    """A table that is affine, looked up at affine positions (not negative) wherever it depends on them."""
    source, places = args_of(node)
    table, rank = facts.affine(source), len(shape_of(source))
    if table is None or table.is_uniform:
        return table
    if len(places) != rank or any(place is None for place in places):
        return None
    result: Affine | None = Affine(table.offset, (0,) * len(shape_of(node)))
    for place, slope in zip(places, _aligned(table.slopes, rank), strict=True):
        if slope:
            result = _combined(result, _scaled(facts.affine(place), slope), 1, len(shape_of(node)))
    return result


def _scaled(position: Affine | None, factor: int) -> Affine | None:
    if position is None or not position.is_from_front:
        return None
    return Affine(position.offset * factor, tuple(s * factor for s in position.slopes))


def _compare(order: Callable[[int, int], bool], sign: int, slack: int) -> Rule:
    """`a op b` as `sign·(a - b) + slack <= 0`, decided where the difference is the same everywhere."""

    def rule(facts: IndexFacts, node: Node) -> Fact:
        left, right = (facts.affine(arg) for arg in args_of(node)[:2])
        difference = _combined(left, right, -1, len(shape_of(node)))
        if difference is None:
            return None
        if difference.is_uniform:
            return order(difference.offset, 0)
        if sign == 0:
            return None
        return Comparison(Affine(sign * difference.offset + slack, tuple(sign * s for s in difference.slopes)))

    return rule


def _and(facts: IndexFacts, node: Node) -> Fact:
    left, right = (facts.of(arg) for arg in args_of(node)[:2])
    if left is False or right is False:
        return False
    if left is True:
        return _widened(right, node)
    return _widened(left, node) if right is True or left == right else None


def _widened(fact: Fact, node: Node) -> Fact:
    if not isinstance(fact, Comparison):
        return fact
    return Comparison(Affine(fact.value.offset, _aligned(fact.value.slopes, len(shape_of(node)))))


def _cumsum(facts: IndexFacts, node: Node) -> Fact:
    """A running sum of nothing."""
    value = facts.affine(args_of(node)[0])
    return value if value is not None and value.is_uniform and value.offset == 0 else None


def _cast(facts: IndexFacts, node: Node) -> Fact:
    fact = facts.of(args_of(node)[0])
    return fact if value_of(node).dtype in (torch.int64, torch.int32, torch.bool) or fact is None else None


_RULES: dict[Any, Rule] = {
    aten.arange.start_step: _arange, aten.full.default: _full, aten.reshape.default: _reshape,
    aten.expand.default: _expand, aten.slice.Tensor: _slice, aten.cat.default: _cat,
    aten.add.Tensor: _sum(1), aten.sub.Tensor: _sum(-1), aten.index.Tensor: _index, aten.cumsum.default: _cumsum,
    aten._to_copy.default: _cast, aten.bitwise_and.Tensor: _and, aten.logical_and.default: _and,
    **{op: _compare(operator.le, 1, 0) for op in (aten.le.Tensor, aten.le.Scalar)},
    **{op: _compare(operator.lt, 1, 1) for op in (aten.lt.Tensor, aten.lt.Scalar)},
    **{op: _compare(operator.ge, -1, 0) for op in (aten.ge.Tensor, aten.ge.Scalar)},
    **{op: _compare(operator.gt, -1, 1) for op in (aten.gt.Tensor, aten.gt.Scalar)},
    **{op: _compare(operator.eq, 0, 0) for op in (aten.eq.Tensor, aten.eq.Scalar)},
    **{op: _compare(operator.ne, 0, 0) for op in (aten.ne.Tensor, aten.ne.Scalar)},
}  # fmt: skip
