"""Lowering of sorting along a dimension, with what gathers by the positions that it gives.

One outer point sorts one row into a local buffer of positions. What reads them at the same row, such as the values in
their new order, is stored by the same kernel, so positions that nobody else reads are never in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from ullage.codegen.loops.ir import Expr, Load, Loop, Sort, Stage
from ullage.codegen.loops.sorting import order_elements
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.index import ONE, ZERO
from ullage.codegen.lower.shapes import Index, reshape_index, shape_of, view_groups
from ullage.codegen.lower.table import TABLE, argument, fake, int_of, operand
from ullage.codegen.lower.values import Lazy, NotFusable, View
from ullage.graph.operators import ARGSORT

LONGEST_ROW = 2**31
"""Positions are kept in 32 bits beside their keys."""


@TABLE.register("reduce", ARGSORT)
def _argsort(builder: Builder, node: Node) -> Lazy:
    raise NotFusable(f"{node.target} is lowered together with what reads its positions")


def sort_node(node: Node) -> bool:
    """Whether a node sorts; a kernel sorts at most once."""
    return node.target is ARGSORT


def lower_sort(builder: Builder, nodes: Sequence[Node], outputs: Sequence[tuple[Node, View]]) -> None:
    """Append the stages of a sort and of what reads its positions; raises NotFusable if these are of other rows."""
    sort, *more = [node for node in nodes if TABLE.kind(node) == "reduce"]
    if more:
        raise NotFusable("a kernel that sorts reduces nothing, and sorts once")
    dim = int_of(sort.args[1]) % fake(sort).dim()
    shape = shape_of(fake(sort))
    row = builder.set_rows(shape[:dim] + shape[dim + 1 :])
    order = _sorted(builder, sort, dim, row)

    def at(index: Index) -> Expr:
        if (*index[:dim], *index[dim + 1 :]) != row:
            raise NotFusable("positions are read at another row")
        return Load(order, index[dim], "int64")

    builder.define(sort, Lazy(shape, "int64", at))
    alone = shape[dim] == ONE
    loops = () if alone else (Loop("k", shape[dim]),)
    place = (*row[:dim], ZERO if alone else builder.math.declare("k", shape[dim]), *row[dim:])
    for node, view in outputs:
        value = builder.value(node)
        if view_groups(value.shape, shape) is None:
            raise NotFusable(f"a sort and its fellow differ in size: {shape} and {value.shape}")
        index = reshape_index(builder.math, place, value.shape, shape)
        builder.append(loops, (builder.store(view, index, value.at(index)),))


def _sorted(builder: Builder, sort: Node, dim: int, row: Index) -> str:
    """Append the stage that sorts; gives the local buffer of the positions."""
    source = operand(builder, sort.args[0])
    length, count = source.shape[dim], shape_of(fake(sort))[dim]
    longest = builder.math.bounds(length)[1]
    if longest is None or longest >= LONGEST_ROW:
        raise NotFusable(f"rows of {LONGEST_ROW} elements or more are sorted")
    step = builder.math.declare("s", length)
    value = source.at((*row[:dim], step, *row[dim:]))
    order, _ = builder.local("int64", (order_elements(value.dtype, length, count),))
    descending = bool(argument(sort, 2, "descending", False))
    builder.stages.append(Stage((Loop("s", length),), (Sort(order, value, count, descending),)))
    return order
