"""Walking and rebuilding whole kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from ullage.codegen.loops.ir import (
    Apply,
    Expr,
    Load,
    LoopKernel,
    Reduce,
    Ref,
    Scan,
    Sort,
    Stage,
    Statement,
    Store,
    Var,
    children,
)
from ullage.codegen.loops.poly import Poly, rewrite, to_poly, unique

_SUMS = frozenset({"add", "sub", "mul", "neg"})


def expressions(statement: Statement) -> tuple[Expr, ...]:
    """The expressions of a statement."""
    match statement:
        case Store():
            return (statement.index, *values(statement))
        case Sort():
            return (*values(statement), statement.count)
        case _:
            return values(statement)


def values(statement: Statement) -> tuple[Expr, ...]:
    """The expressions of a statement that are no indices."""
    match statement:
        case Scan(_, _, value, factor, initial):
            parts = (value, factor, initial)
        case Store(_, _, value, mask):
            parts = (value, mask, None)
        case Reduce(_, _, value) | Sort(_, value):
            parts = (value, None, None)
    return tuple(e for e in parts if e is not None)


def written(statement: Statement) -> tuple[str, ...]:
    """The buffers that a statement writes."""
    match statement:
        case Store(buffer):
            return (buffer,)
        case Sort(order):
            return (order,)
        case _:
            return ()


def map_statement(statement: Statement, f: Callable[[Expr], Expr]) -> Statement:
    """The statement with its expressions replaced."""
    match statement:
        case Store(buffer, index, value, mask):
            return Store(buffer, f(index), f(value), None if mask is None else f(mask))
        case Sort(order, value, count, descending):
            return Sort(order, f(value), f(count), descending)
        case Reduce(name, op, value):
            return Reduce(name, op, f(value))
        case Scan(name, op, value, factor, initial):
            return Scan(
                name, op, f(value), None if factor is None else f(factor), None if initial is None else f(initial)
            )


def map_stage(stage: Stage, f: Callable[[Expr], Expr]) -> Stage:
    """The stage with all expressions of its body replaced."""
    return Stage(stage.loops, tuple(map_statement(s, f) for s in stage.body))


def map_kernel(kernel: LoopKernel, f: Callable[[Expr], Expr]) -> LoopKernel:
    """The kernel with all expressions of all bodies replaced (extents stay)."""
    return replace(kernel, stages=tuple(map_stage(s, f) for s in kernel.stages))


def with_buffers(kernel: LoopKernel, names: Mapping[str, str]) -> LoopKernel:
    """The kernel with its buffers renamed (those that `names` leaves out keep their names)."""

    def load(e: Expr) -> Expr:
        return replace(e, buffer=names.get(e.buffer, e.buffer)) if isinstance(e, Load) else e

    def store(s: Statement) -> Statement:
        if isinstance(s, Sort):
            return replace(s, order=names.get(s.order, s.order))
        return replace(s, buffer=names.get(s.buffer, s.buffer)) if isinstance(s, Store) else s

    named = map_kernel(kernel, lambda root: rewrite(root, load))
    buffers = tuple(replace(b, name=names.get(b.name, b.name)) for b in kernel.buffers)
    stages = tuple(Stage(stage.loops, tuple(store(s) for s in stage.body)) for stage in named.stages)
    return replace(named, buffers=buffers, stages=stages)


def guard_nested(kernel: LoopKernel) -> LoopKernel:
    """The kernel with the mask of each load pushed onto the loads inside its index: they are not touched either."""

    def guard(e: Expr) -> Expr:
        if not isinstance(e, Load) or e.mask is None:
            return e
        return replace(e, index=_masked(e.index, e.mask))

    return map_kernel(kernel, lambda root: rewrite(root, guard))


def _masked(index: Expr, mask: Expr) -> Expr:
    def add(e: Expr) -> Expr:
        if not isinstance(e, Load) or e.mask == mask:
            return e
        return replace(e, mask=mask if e.mask is None else Apply("and", (mask, e.mask), "bool"))

    return rewrite(index, add)


def index_roots(*exprs: tuple[Expr, bool]) -> Iterator[Poly]:
    """Every index inside expressions, each given with whether it is an index as a whole.

    Indices are those of loads, and integer arithmetic over loop variables used as a value. Opaque parts of an index
    (quotients, loads) are searched in turn.
    """
    seen: set[tuple[int, bool]] = set()
    stack = list(exprs)
    while stack:
        expr, as_index = stack.pop()
        if (id(expr), as_index) in seen:
            continue
        seen.add((id(expr), as_index))
        if as_index or isinstance(expr, Var) or _is_sum(expr):
            poly = to_poly(expr)
            yield poly
            stack += [part for a in poly.atoms() if not isinstance(a, Var) for part in _inner(a)]
        else:
            stack += _inner(expr)


def _is_sum(expr: Expr) -> bool:
    """Whether the expression is index arithmetic (of variables and dimensions, not of tensors)."""
    if not (isinstance(expr, Apply) and expr.dtype == "int64" and expr.op in _SUMS):
        return False
    return not any(isinstance(e, Load | Ref) for e in unique(expr))


def _inner(expr: Expr) -> list[tuple[Expr, bool]]:
    if not isinstance(expr, Load):
        return [(c, False) for c in children(expr)]
    mask: list[tuple[Expr, bool]] = [] if expr.mask is None else [(expr.mask, False)]
    return [(expr.index, True), *mask]


def statement_roots(statement: Statement) -> Iterator[Poly]:
    """Every index inside a statement."""
    index: list[tuple[Expr, bool]] = [(statement.index, True)] if isinstance(statement, Store) else []
    yield from index_roots(*index, *((value, False) for value in values(statement)))
