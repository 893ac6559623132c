"""From a group of nodes to one loop kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.fx import Node

from ullage.codegen.loops.ir import (
    Buffer,
    Dim,
    Expr,
    Load,
    Loop,
    LoopKernel,
    Reduce,
    Stage,
    Store,
    Var,
    children,
    walk,
)
from ullage.codegen.loops.normal import scatters
from ullage.codegen.loops.poly import unique
from ullage.codegen.loops.traverse import expressions, values
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.index import ONE, IndexMath, to_poly
from ullage.codegen.lower.scans import lower_scan, scan_node
from ullage.codegen.lower.scattering import lower_write, write_node
from ullage.codegen.lower.shapes import Index, reshape_index, view_groups
from ullage.codegen.lower.sorting import lower_sort, sort_node
from ullage.codegen.lower.values import Lazy, NotFusable, View

Output = tuple[Node, View]
Walk = Callable[[Builder, Sequence[Node], Sequence[Output]], None]
_WALKS: tuple[tuple[Callable[[Node], bool], Walk], ...] = (
    (scan_node, lower_scan), (sort_node, lower_sort), (write_node, lower_write),
)  # fmt: skip
"""Nodes that rows are walked for in an order of their own, and the lowerings of groups around them."""


def walking(node: Node) -> bool:
    """Whether a group can only grow from this node: it decides how the rows are walked."""
    return any(is_one(node) for is_one, _ in _WALKS)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an output is stored from: its index, and the loops of the stage."""

    index: Index
    loops: tuple[Loop, ...]


def lower_loops(builder: Builder, nodes: Sequence[Node], outputs: Sequence[Output]) -> LoopKernel:
    """Lower nodes (in order) with the given outputs; raises NotFusable if they do not make one kernel."""
    walk = next((walk for is_one, walk in _WALKS if any(map(is_one, nodes))), None)
    if walk is not None:
        walk(builder, nodes, outputs)
    else:
        for node in nodes:
            builder.value(node)
        for node, view in outputs:
            _store(builder, builder.value(node), view)
    return _assemble(builder, outputs)


def _store(builder: Builder, value: Lazy, view: View) -> None:
    place = _place(builder, value)
    store = builder.store(view, place.index, value.at(place.index))
    builder.append(place.loops, (store,))


def _place(builder: Builder, value: Lazy) -> Place:
    if builder.space is not None:
        shape, index = builder.space
        if view_groups(value.shape, shape) is not None:
            return Place(reshape_index(builder.math, index, value.shape, shape), builder.space_loops)
        return Place(builder.set_rows(value.shape), ())
    if builder.row_shape is None:
        return Place(builder.set_rows(value.shape), ())
    if view_groups(value.shape, builder.row_shape) is None:
        raise NotFusable(f"outputs of different sizes: {value.shape} and {builder.row_shape}")
    return Place(reshape_index(builder.math, builder.row_index, value.shape, builder.row_shape), ())


def _assemble(builder: Builder, outputs: Sequence[Output]) -> LoopKernel:
    assert builder.row_shape is not None
    outer = tuple(
        Loop(index.name, size)
        for index, size in zip(builder.row_index, builder.row_shape, strict=True)
        if isinstance(index, Var)
    )
    stages = tuple(_order_stage(builder.math, stage) for stage in builder.stages)
    stores = [s for stage in stages for s in stage.body if isinstance(s, Store) and s.buffer.startswith("b")]
    outer = _ordered(builder.math, outer, [s.index for s in stores])
    buffers = tuple(builder.buffers)
    return LoopKernel(buffers, dims_used(outer, stages, buffers), outer, stages)


def _order_stage(math: IndexMath, stage: Stage) -> Stage:
    fixed = any(
        not isinstance(s, Store) and not (isinstance(s, Reduce) and not s.op.startswith("arg")) for s in stage.body
    ) or scatters(stage)
    if len(stage.loops) < 2 or fixed:
        return stage
    stores = [s.index for s in stage.body if isinstance(s, Store)]
    loads = [e.index for s in stage.body for e in walk(s.value) if isinstance(e, Load)]
    return Stage(_ordered(math, stage.loops, stores + loads), stage.body)


def _ordered(math: IndexMath, loops: tuple[Loop, ...], indices: Sequence[Expr]) -> tuple[Loop, ...]:
    """Loops with the smallest stride innermost, judged by the first index that knows them all."""
    for index in indices:
        strides = [_stride(math, index, loop.var) for loop in loops]
        if all(s is not None for s in strides):
            order = sorted(range(len(loops)), key=lambda i: -(strides[i] or 0))
            return tuple(loops[i] for i in order)
    return loops


def _stride(math: IndexMath, index: Expr, var: str) -> int | None:
    """The (largest possible) stride of a variable in an index; None if it is not linear in it."""
    total = 0
    for monomial, coefficient in to_poly(index).items():
        if Var(var) in monomial:
            rest = [atom for atom in monomial if atom != Var(var)]
            high = math.bounds(math.mul(ONE, *rest))[1]
            total += coefficient * (high if high is not None else 1)
        elif any(isinstance(e, Var) and e.name == var for atom in monomial for e in walk(atom)):
            return None
    return total


def dims_used(outer: Sequence[Loop], stages: Sequence[Stage], buffers: Sequence[Buffer] = ()) -> tuple[str, ...]:
    """The run-time dimensions that loops and statements read, sorted."""
    exprs: list[Expr] = [loop.extent for loop in outer]
    for stage in stages:
        exprs += [loop.extent for loop in stage.loops]
        for statement in stage.body:
            exprs += expressions(statement)
    exprs += [b.elements for b in buffers if b.elements is not None]
    return dims_in(exprs)


def dims_in(exprs: Sequence[Expr]) -> tuple[str, ...]:
    """The run-time dimensions that expressions read, sorted."""
    names: set[str] = set()
    seen: set[int] = set()
    stack = list(exprs)
    while stack:
        expr = stack.pop()
        if id(expr) in seen:
            continue
        seen.add(id(expr))
        if isinstance(expr, Dim):
            names.add(expr.name)
        stack.extend(children(expr))
    return tuple(sorted(names))


def inplace_pairs(kernel: LoopKernel) -> tuple[tuple[str, str], ...]:
    """Pairs (buffer read, buffer written) that may be the same memory: every read is at the index that is written.

    There is one store, in the last stage, so that nothing of the same outer point is read after it was overwritten.
    What is stored to at places that are data was copied before, and is not read from where it was copied from later.
    """
    last = kernel.stages[-1]
    if scatters(last):
        return _copied_before(kernel)
    if any(isinstance(s, Store) and not s.buffer.startswith("row") for stage in kernel.stages[:-1] for s in stage.body):
        return ()
    loads: dict[str, set[Expr]] = {}
    for stage in kernel.stages:
        for statement in stage.body:
            for expr in (e for value in values(statement) for e in walk(value)):
                if isinstance(expr, Load):
                    loads.setdefault(expr.buffer, set()).add(expr.index)
    dtypes = {b.name: b.dtype for b in kernel.buffers}
    stores = [s for s in last.body if isinstance(s, Store)]
    if len(stores) != 1:
        return ()
    return tuple(
        (name, s.buffer)
        for s in stores
        for name, indices in loads.items()
        if name != s.buffer and indices == {s.index} and dtypes[name] == dtypes[s.buffer] and not name.startswith("row")
    )


def _copied_before(kernel: LoopKernel) -> tuple[tuple[str, str], ...]:
    if len(kernel.stages) != 2:
        return ()
    copy, write = kernel.stages
    read = {e.buffer for s in write.body for root in expressions(s) for e in unique(root) if isinstance(e, Load)}
    alone = LoopKernel(kernel.buffers, kernel.dims, kernel.outer, (copy,))
    return tuple(pair for pair in inplace_pairs(alone) if pair[0] not in read)
