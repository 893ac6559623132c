"""Operators on complex tensors, spelled for pairs of real ones.

Operators that move elements or add them act on both parts; products, quotients, magnitudes and angles are spelled in
real arithmetic. What has no such form, and complex inputs, outputs and constants, are refused with their name;
`torch.view_as_real` and `torch.view_as_complex` lead across.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from ullage.errors import CaptureError, UnsupportedOperator

aten: Any = torch.ops.aten
Part = Node | float
"""A real part or an imaginary one: a tensor, or a number."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A complex value."""

    re: Part
    im: Part


def is_complex(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return isinstance(value, torch.Tensor) and value.is_complex()


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the parts."""
    return torch.float64 if dtype is torch.complex128 else torch.float32


Rule = Callable[["Rewriter", Node], "Pair | Node"]


@dataclass
class Rewriter:
    """One graph being rewritten; new nodes come before `at`."""

    graph: Graph
    rules: Mapping[Any, Rule]
    pairs: dict[Node, Pair] = field(default_factory=dict)
    at: Node | None = None

    def run(self) -> None:
        """Every node that gives or takes complex numbers, in order; they are erased afterwards."""
        old = []
        for node in list(self.graph.nodes):
            if not (is_complex(node) and node.users) and not any(map(is_complex, node.all_input_nodes)):
                continue
            if node.op != "call_function":
                raise CaptureError(_boundary(node))
            self.at = node
            self._rewrite(node)
            old.append(node)
        for node in reversed(old):
            self.graph.erase_node(node)

    def _rewrite(self, node: Node) -> None:
        rule = self.rules.get(node.target) or (_each_part if node.target in EACH_PART else None)
        result = rule(self, node) if rule is not None else None
        if result is None:
            raise UnsupportedOperator({str(node.target): [node.name]}, "It has no form on complex numbers.")
        if isinstance(result, Pair):
            self.pairs[node] = result
        else:
            node.replace_all_uses_with(result)

    def call(self, op: Any, *args: Any, **kwargs: Any) -> Node:
        """A new node with its fake value."""
        assert self.at is not None
        with self.graph.inserting_before(self.at):
            node: Node = self.graph.call_function(op, args, kwargs)
        node.meta = {key: value for key, value in self.at.meta.items() if key != "val"}
        values: Any = map_arg((args, kwargs), _value)
        with torch.no_grad():
            node.meta["val"] = op(*values[0], **values[1])
        return node

    def pair(self, value: Any) -> Pair:
        """A complex or real operand as a pair."""
        if isinstance(value, complex):
            return Pair(value.real, value.imag)
        return self.pairs.get(value) or Pair(value, 0.0)

    def tensor(self, part: Part, like: Part) -> Node:
        """A part as a tensor."""
        if isinstance(part, Node):
            return part
        assert isinstance(like, Node)
        return self.call(aten.full_like.default, like, part)

    def add(self, a: Part, b: Part, sign: float = 1.0) -> Part:
        """`a ± b`."""
        if not isinstance(a, Node) and not isinstance(b, Node):
            return a + sign * b
        if b == 0.0:
            return a
        if not isinstance(a, Node):
            b = b if sign > 0 else self.mul(b, -1.0)
            return b if a == 0.0 else self.call(aten.add.Tensor, b, a)
        return self.call(aten.add.Tensor if sign > 0 else aten.sub.Tensor, a, b)

    def mul(self, a: Part, b: Part) -> Part:
        """`a · b`."""
        if not isinstance(a, Node) and not isinstance(b, Node):
            return a * b
        if a == 0.0 or b == 0.0:
            return 0.0
        return self.call(aten.mul.Tensor, *((a, b) if isinstance(a, Node) else (b, a)))

    def times(self, a: Pair, b: Pair) -> Pair:
        """The product of two pairs."""
        re = self.add(self.mul(a.re, b.re), self.mul(a.im, b.im), -1.0)
        return Pair(re, self.add(self.mul(a.re, b.im), self.mul(a.im, b.re)))


def _value(node: Node) -> Any:
    return node.meta["val"]


def _boundary(node: Node) -> str:
    if node.op == "output":
        return "an output of the model is complex; return torch.view_as_real of it."
    return (
        f"{node.name} is complex, and a model's inputs and constants are real; "
        "keep torch.view_as_real of it, and use torch.view_as_complex in the model."
    )


def _each_part(on: Rewriter, node: Node) -> Pair:
    """The same operator on both parts; what is real among its operands has no imaginary part."""
    sources = [n for n in node.all_input_nodes if n in on.pairs or _value(n).dtype.is_floating_point]
    pairs = {n: on.pairs.get(n) or Pair(n, 0.0) for n in sources}
    return Pair(_part(on, node, {n: on.tensor(p.re, p.im) for n, p in pairs.items()}, True),
                _part(on, node, {n: on.tensor(p.im, p.re) for n, p in pairs.items()}, False))  # fmt: skip


def _part(on: Rewriter, node: Node, chosen: Mapping[Node, Node], real: bool) -> Node:
    args: tuple[Any, ...] = map_arg(node.args, lambda n: chosen.get(n, n))
    if node.target is aten.constant_pad_nd.default and not real:
        args = args[:2]
    return on.call(node.target, *args, **_real_options(node))


def _real_options(node: Node) -> dict[str, Any]:
    given: Mapping[str, Any] = node.kwargs
    kept = {k: real_dtype(v) if v in (torch.complex64, torch.complex128) else v for k, v in given.items()}
    return {key: value for key, value in kept.items() if key not in ("memory_format", "pin_memory")}


def _converted(on: Rewriter, node: Node) -> Pair:
    pair, dtype = on.pair(node.args[0]), real_dtype(_value(node).dtype)

    def converted(part: Part) -> Part:
        same = not isinstance(part, Node) or _value(part).dtype == dtype
        return part if same else on.call(aten._to_copy.default, part, dtype=dtype)

    return Pair(converted(pair.re), converted(pair.im))


def _from_parts(on: Rewriter, node: Node) -> Pair:
    return Pair(node.args[0], node.args[1])  # type: ignore[arg-type]


def _from_last(on: Rewriter, node: Node) -> Pair:
    return Pair(*(on.call(aten.select.int, node.args[0], -1, which) for which in (0, 1)))


def _to_last(on: Rewriter, node: Node) -> Node:
    pair = on.pair(node.args[0])
    return on.call(aten.stack.default, [on.tensor(pair.re, pair.im), on.tensor(pair.im, pair.re)], -1)


def _conjugate(on: Rewriter, node: Node) -> Pair:
    pair = on.pair(node.args[0])
    return Pair(pair.re, on.mul(pair.im, -1.0))


def _sum(sign: float) -> Callable[[Rewriter, Node], Pair]:
    def rule(on: Rewriter, node: Node) -> Pair:
        a, b = (on.pair(value) for value in node.args[:2])
        alpha = float(node.kwargs.get("alpha", 1)) * sign  # type: ignore[arg-type]
        if abs(alpha) != 1:
            b = Pair(on.mul(b.re, abs(alpha)), on.mul(b.im, abs(alpha)))
        return _shaped(on, node, Pair(on.add(a.re, b.re, alpha), on.add(a.im, b.im, alpha)))

    return rule


def _shaped(on: Rewriter, node: Node, pair: Pair) -> Pair:
    """Parts that were not broadcast with the others."""
    shape = list(_value(node).shape)
    parts = [on.tensor(part, pair.im if part is pair.re else pair.re) for part in (pair.re, pair.im)]
    return Pair(*(p if list(_value(p).shape) == shape else on.call(aten.expand.default, p, shape) for p in parts))


def _product(on: Rewriter, node: Node) -> Pair:
    return _shaped(on, node, on.times(on.pair(node.args[0]), on.pair(node.args[1])))


def _quotient(on: Rewriter, node: Node) -> Pair:
    a, b = (on.pair(value) for value in node.args[:2])
    if b.im == 0.0:
        parts = (p if p == 0.0 else on.call(aten.div.Tensor, p, b.re) for p in (a.re, a.im))
        return _shaped(on, node, Pair(*parts))
    square = on.add(on.mul(b.re, b.re), on.mul(b.im, b.im))
    top = on.times(a, Pair(b.re, on.mul(b.im, -1.0)))
    return _shaped(on, node, Pair(*(p if p == 0.0 else on.call(aten.div.Tensor, p, square) for p in (top.re, top.im))))


def _magnitude(on: Rewriter, node: Node) -> Node:
    pair = on.pair(node.args[0])
    square = on.add(on.mul(pair.re, pair.re), on.mul(pair.im, pair.im))
    return on.call(aten.sqrt.default, square)


def _angle(on: Rewriter, node: Node) -> Node:
    pair = on.pair(node.args[0])
    return on.call(aten.atan2.default, on.tensor(pair.im, pair.re), on.tensor(pair.re, pair.im))


def _exponential(on: Rewriter, node: Node) -> Pair:
    pair = on.pair(node.args[0])
    size = on.call(aten.exp.default, on.tensor(pair.re, pair.im))
    im = on.tensor(pair.im, pair.re)
    return Pair(*(on.mul(size, on.call(op, im)) for op in (aten.cos.default, aten.sin.default)))


def _polar(on: Rewriter, node: Node) -> Pair:
    size, angle = node.args
    return Pair(*(on.mul(size, on.call(op, angle)) for op in (aten.cos.default, aten.sin.default)))  # type: ignore[arg-type]


def _real(on: Rewriter, node: Node) -> Node:
    pair = on.pair(node.args[0])
    return on.tensor(pair.re, pair.im)


def _imaginary(on: Rewriter, node: Node) -> Node:
    pair = on.pair(node.args[0])
    return on.tensor(pair.im, pair.re)


def _matrices(on: Rewriter, node: Node) -> Pair:
    """Four real products."""
    a, b = (on.pair(value) for value in node.args[:2])

    def product(x: Part, y: Part) -> Part:
        return on.call(node.target, x, y) if isinstance(x, Node) and isinstance(y, Node) else 0.0

    re = on.add(product(a.re, b.re), product(a.im, b.im), -1.0)
    return _shaped(on, node, Pair(re, on.add(product(a.re, b.im), product(a.im, b.re))))


def _full(on: Rewriter, node: Node) -> Pair:
    size, value = node.args[:2]
    number = complex(value)  # type: ignore[arg-type]
    dtype = real_dtype(_value(node).dtype)
    return Pair(*(on.call(aten.full.default, size, part, dtype=dtype) for part in (number.real, number.imag)))


def _targets(names: Sequence[str]) -> frozenset[Any]:
    return frozenset(getattr(getattr(aten, n.split(".")[0]), n.split(".")[1]) for n in names)


EACH_PART = _targets((
    "alias.default", "clone.default", "detach.default", "contiguous.default", "view.default", "reshape.default",
    "_unsafe_view.default", "permute.default", "transpose.int", "unsqueeze.default", "squeeze.default", "squeeze.dim",
    "squeeze.dims", "expand.default", "slice.Tensor", "select.int", "cat.default", "stack.default", "flip.default",
    "roll.default", "index.Tensor", "index_select.default", "gather.default", "repeat.default", "diagonal.default",
    "constant_pad_nd.default", "sum.dim_IntList", "sum.default", "mean.dim", "mean.default", "neg.default",
    "tril.default", "triu.default", "where.self", "cumsum.default", "resolve_conj.default", "lift_fresh_copy.default",
))  # fmt: skip
RULES: Mapping[Any, Rule] = {
    aten._to_copy.default: _converted,
    aten.complex.default: _from_parts,
    aten.polar.default: _polar,
    aten.view_as_complex.default: _from_last,
    aten.view_as_real.default: _to_last,
    aten._conj.default: _conjugate,
    aten._conj_physical.default: _conjugate,
    aten.conj_physical.default: _conjugate,
    aten.real.default: _real,
    aten.imag.default: _imaginary,
    aten.abs.default: _magnitude,
    aten.angle.default: _angle,
    aten.exp.default: _exponential,
    aten.add.Tensor: _sum(1.0),
    aten.add.Scalar: _sum(1.0),
    aten.sub.Tensor: _sum(-1.0),
    aten.sub.Scalar: _sum(-1.0),
    aten.mul.Tensor: _product,
    aten.mul.Scalar: _product,
    aten.div.Tensor: _quotient,
    aten.div.Scalar: _quotient,
    aten.mm.default: _matrices,
    aten.bmm.default: _matrices,
    aten.full.default: _full,
}
