"""C++ loops over vector lanes and over plain variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ullage.codegen.cpp.blocks import Lane
from ullage.codegen.cpp.reductions import Accumulator
from ullage.codegen.cpp.scope import Scope
from ullage.codegen.loops.ir import Dim, Loop
from ullage.codegen.loops.poly import to_poly


def known_extent(loop: Loop) -> int | None:
    """The extent if it is a constant."""
    return to_poly(loop.extent).value


def always_runs(loop: Loop) -> bool:
    """Whether the extent is at least 1 by its form."""
    poly = to_poly(loop.extent)
    return bool(poly.terms) and all(c > 0 and all(isinstance(a, Dim) for a in m) for m, c in poly.terms.items())


def open_loop(scope: Scope, loop: Loop, first: str = "0", last: str | None = None) -> None:
    """Open a plain loop over a variable."""
    end, name = last or scope.scalar(loop.extent), scope.fresh()
    scope.open(f"for (ull_i64 {name} = {first}; {name} < {end}; ++{name})", skippable=not always_runs(loop))
    scope.bind(loop.var, name)


def open_blocks(scope: Scope, loop: Loop, length: int) -> tuple[str, str]:
    """Open a loop over blocks of a loop's range; gives the range of one block."""
    end, first = scope.scalar(loop.extent), scope.fresh()
    scope.open(f"for (ull_i64 {first} = 0; {first} < {end}; {first} += {length})", skippable=not always_runs(loop))
    return first, scope.name("ull_i64", f"{first} + {length} < {end} ? {first} + {length} : {end}")


def lane_loop(
    scope: Scope,
    loop: Loop,
    span: tuple[str, str, int | None],
    lanes: int,
    unroll: int,
    body: Callable[[Sequence[Lane]], None],
) -> None:
    """Independent lanes over `span` (begin, end, extent if known): groups of vectors, whole vectors, and the rest."""
    (begin, end, count), at, group = span, scope.fresh(), lanes * unroll
    scope.line(f"ull_i64 {at} = {begin};")
    if unroll > 1 and (count is None or count >= group):
        scope.open(f"for (; {at} + {group} <= {end}; {at} += {group})")
        body(_neighbours(loop.var, at, lanes, unroll))
        scope.close()
    if count is None or count % group >= lanes or (unroll == 1 and count >= lanes):
        scope.open(f"for (; {at} + {lanes} <= {end}; {at} += {lanes})")
        body([Lane(loop.var, at, lanes)])
        scope.close()
    if count is None or count % lanes:
        scope.open(f"if ({at} < {end})")
        body([Lane(loop.var, at, lanes, scope.name("ull_i64", f"{end} - {at}"))])
        scope.close()


def _neighbours(var: str, at: str, lanes: int, count: int) -> list[Lane]:
    return [Lane(var, f"({at} + {i * lanes})" if i else at, lanes, None, i * lanes) for i in range(count)]


Step = Callable[[Lane, Sequence[Accumulator], int], None]
"""Emits one vector of a reduction: the lane, the accumulators, and which of their vectors to use."""


def folded_loop(
    scope: Scope, loop: Loop, span: tuple[str, str, int | None], lanes: int, accs: Sequence[Accumulator], step: Step
) -> None:
    """A reduction over `span`: element i goes to lane i % lanes of vector (i // lanes) % copies.

    Groups of `copies` vectors are unrolled; what is left goes through an array if it may be any number of them.
    """
    (begin, end, count), at, copies = span, scope.fresh(), accs[0].copies
    group = lanes * copies
    scope.line(f"ull_i64 {at} = {begin};")
    if count is None or count >= group:
        scope.open(f"for (; {at} + {group} <= {end}; {at} += {group})")
        for copy, lane in enumerate(_neighbours(loop.var, at, lanes, copies)):
            step(lane, accs, copy)
        scope.close()
    if count is None:
        _rest_loop(scope, loop, (at, end), lanes, accs, step)
        return
    left = count % group
    for copy, lane in enumerate(_neighbours(loop.var, at, lanes, -(-left // lanes))):
        here = left - copy * lanes
        step(lane if here >= lanes else replace(lane, valid=str(here)), accs, copy)


def _rest_loop(
    scope: Scope, loop: Loop, span: tuple[str, str], lanes: int, accs: Sequence[Accumulator], step: Step
) -> None:
    """Fewer vectors than accumulators have, the last one perhaps not whole."""
    (at, end), slot = span, scope.fresh()
    arrays = [acc.as_array(scope) for acc in accs]
    scope.open(f"for (ull_i64 {slot} = 0; {at} < {end}; {at} += {lanes}, ++{slot})")
    valid = scope.name("ull_i64", f"{end} - {at} < {lanes} ? {end} - {at} : {lanes}")
    step(Lane(loop.var, at, lanes, valid), [a.at(slot) for a in arrays], 0)
    scope.close()
    for acc, array in zip(accs, arrays, strict=True):
        acc.assign(scope, array)


def rotating_loop(
    scope: Scope, loop: Loop, span: tuple[str, str, int | None], lanes: int, accs: Sequence[Accumulator], step: Step
) -> None:
    """As `folded_loop` with the body emitted once: for long bodies, where an accumulator in memory costs nothing."""
    (begin, end, count), at, slot, copies = span, scope.fresh(), scope.fresh(), accs[0].copies
    scope.line(f"ull_i64 {at} = {begin};")
    scope.line(f"ull_i64 {slot} = 0;")
    arrays = [acc.as_array(scope) for acc in accs]
    chosen = [a.at(slot) for a in arrays]
    if count is None or count >= lanes:
        scope.open(f"for (; {at} + {lanes} <= {end}; {at} += {lanes}, {slot} = ({slot} + 1) & {copies - 1})")
        step(Lane(loop.var, at, lanes), chosen, 0)
        scope.close()
    if count is None or count % lanes:
        scope.open(f"if ({at} < {end})")
        step(Lane(loop.var, at, lanes, scope.name("ull_i64", f"{end} - {at}")), chosen, 0)
        scope.close()
    for acc, array in zip(accs, arrays, strict=True):
        acc.assign(scope, array)
