"""Lowerings of operators that write at computed places: scatter and index_put.

A kernel first copies the tensor that is written to, then walks what is written, in order; where places meet, the last
one wins, or all of them are combined in that order. Dimensions that are not indexed are the outer space, so the bits do
not depend on threads. Negative indices count from the end; what lies outside of the tensor is not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import Node

from ullage.codegen.loops.ir import Const, Expr, Load, Loop, Stage, Store
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.formulas import maximum, minimum, op
from ullage.codegen.lower.index import ONE, ZERO
from ullage.codegen.lower.movement import int64, masked, wrapped
from ullage.codegen.lower.shapes import Index, Shape, broadcast_index, same
from ullage.codegen.lower.table import TABLE, argument, aten, fake, int_of, list_of, node_of, operand, result_dtype
from ullage.codegen.lower.values import Lazy, NotFusable, View, cast, compute_dtype

_SCATTERS = frozenset({aten.scatter.src, aten.scatter.value, aten.scatter_reduce.two})
_WRITES = _SCATTERS | {aten.index_put.default}


@TABLE.register("reduce", *_WRITES)
def _write(builder: Builder, node: Node) -> Lazy:
    raise NotFusable(f"{node.target} has no value but in memory")


def write_node(node: Node) -> bool:
    """Whether a node writes at computed places; a kernel has one such node, whose result it stores."""
    return node.target in _WRITES


@dataclass(frozen=True, slots=True)
class _Walk:
    """What is written: loops, and at a point of them the place, whether it is written to at all, and the value."""

    loops: tuple[Loop, ...]
    place: Index
    mask: Expr
    value: Expr
    combine: str | None


def lower_write(builder: Builder, nodes: Sequence[Node], outputs: Sequence[tuple[Node, View]]) -> None:
    """Append the stages of a write; raises NotFusable if anything is computed from its result."""
    writes = [node for node in nodes if TABLE.kind(node) == "reduce"]
    if len(writes) != 1 or [node for node, _ in outputs] != writes:
        raise NotFusable("a kernel that writes at computed places stores what it has written and nothing else")
    ((node, view),) = outputs
    base = operand(builder, node.args[0])
    dims = _dims(node)
    index, loops = builder.reduce_space(base.shape, dims)
    builder.stages.append(Stage(loops, (builder.store(view, index, base.at(index)),)))
    walk = (_scatter if node.target in _SCATTERS else _index_put)(builder, node, base, index)
    builder.stages.append(Stage(walk.loops, (_store(builder, view, walk),)))


def _store(builder: Builder, view: View, walk: _Walk) -> Store:
    plain = builder.store(view, walk.place, ZERO)
    value = masked(cast(walk.value, compute_dtype(view.dtype)), walk.mask)
    if walk.combine is not None:
        old = cast(Load(plain.buffer, plain.index, view.dtype, walk.mask), value.dtype)
        value = _combined(walk.combine, old, value)
    return Store(plain.buffer, plain.index, cast(value, view.dtype), walk.mask)


def _combined(name: str, old: Expr, new: Expr) -> Expr:
    if name in ("amax", "amin"):
        return maximum(old, new) if name == "amax" else minimum(old, new)
    if old.dtype == "bool":
        return op("or" if name == "sum" else "and", old, new)
    return op("add" if name == "sum" else "mul", old, new)


def _dims(node: Node) -> tuple[int, ...]:
    """Dimensions that are indexed."""
    if node.target in _SCATTERS:
        return (int_of(node.args[1]) % fake(node).dim(),)
    return tuple(d for d, given in enumerate(list_of(node.args[1])) if given is not None)


def _walked(builder: Builder, shape: Shape) -> tuple[Index, tuple[Loop, ...]]:
    """Variables and loops over all indices of a shape, in row-major order."""
    index = tuple(ZERO if n == ONE else builder.math.declare(f"w{d}", n) for d, n in enumerate(shape))
    return index, tuple(Loop(f"w{d}", n) for d, n in enumerate(shape) if n != ONE)


def _inside(place: Expr, size: Expr) -> Expr:
    return op("and", op("ge", place, ZERO), op("lt", place, size))


def _scatter(builder: Builder, node: Node, base: Lazy, index: Index) -> _Walk:
    (dim,), ids = _dims(node), operand(builder, node.args[2])
    (step,), loops = _walked(builder, (ids.shape[dim],))
    at = (*index[:dim], step, *index[dim + 1 :])
    short = [
        op("lt", i, n) for d, (i, n, whole) in enumerate(zip(index, ids.shape, base.shape, strict=True))
        if d != dim and not same(n, whole)
    ]  # fmt: skip
    found = int64(ids.at(at))
    for test in short:
        found = masked(found, test)
    place = wrapped(found, base.shape[dim])
    mask = _inside(place, base.shape[dim])
    for test in short:
        mask = op("and", test, mask)
    source = operand(builder, node.args[3])
    value = source.at(at) if source.shape else source.at(())
    return _Walk(loops, (*index[:dim], place, *index[dim + 1 :]), mask, value, _reduction(node))


def _reduction(node: Node) -> str | None:
    if node.target is not aten.scatter_reduce.two:
        return None
    name = str(argument(node, 4, "reduce"))
    if name not in ("sum", "prod", "amax", "amin") or not argument(node, 5, "include_self", True):
        raise NotFusable(f"{node.target} by {name} is decomposed")
    return name


def _index_put(builder: Builder, node: Node, base: Lazy, index: Index) -> _Walk:
    dims, given = _dims(node), list_of(node.args[1])
    if any(result_dtype(node_of(given[d])) == "bool" for d in dims):
        raise NotFusable("index_put by a bool mask of data-dependent many values")
    tensors = {d: operand(builder, given[d]) for d in dims}
    shape = _broadcast([t.shape for t in tensors.values()])
    steps, loops = _walked(builder, shape)
    place, mask = list(index), Const(True, "bool")
    tests: list[Expr] = []
    for d, t in tensors.items():
        place[d] = wrapped(int64(t.at(broadcast_index(steps, t.shape))), base.shape[d])
        tests.append(_inside(place[d], base.shape[d]))
    whole: Expr = tests[0] if tests else mask
    for test in tests[1:]:
        whole = op("and", whole, test)
    rest = [i for d, i in enumerate(index) if d not in dims]
    start = dims[0] if dims == tuple(range(dims[0], dims[-1] + 1)) else 0
    source = operand(builder, node.args[2])
    value = source.at(broadcast_index((*rest[:start], *steps, *rest[start:]), source.shape))
    return _Walk(loops, tuple(place), whole, value, "sum" if argument(node, 3, "accumulate", False) else None)


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape that several broadcast to (torch's rules)."""
    rank = max(map(len, shapes))
    padded = [(*[ONE] * (rank - len(shape)), *shape) for shape in shapes]
    return tuple(next((n for n in sizes if n != ONE), ONE) for sizes in zip(*padded, strict=True))
