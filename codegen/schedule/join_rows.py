"""Row epilogues: a loop kernel over the rows of a product becomes part of the product's kernel.

Layer norms, RMS norms, softmaxes and other reductions along a row, with all that was fused into them, follow the
product or convolution that makes the rows. That saves a launch, and the rows are still in the cache. What only the
row kernel reads is not kept: it is computed where the row kernel's result goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeGuard

from ullage.codegen.emit import Spec, walks_points
from ullage.codegen.loops.ir import Const, Expr, LoopKernel
from ullage.codegen.loops.normal import normalise
from ullage.codegen.loops.traverse import with_buffers
from ullage.codegen.lower.builder import Operand
from ullage.codegen.lower.index import ZERO, IndexMath
from ullage.codegen.lower.region import inplace_pairs
from ullage.codegen.lower.shapes import numel
from ullage.codegen.schedule.joining import (
    is_private,
    loads_of_stores,
    names_for,
    producers,
    put,
    reducing,
    rows_of,
    stored_densely,
)
from ullage.codegen.schedule.lowered import Lowered, Pending
from ullage.codegen.templates import Conv2d, Gemm, PackedPanels
from ullage.plan.steps import Storage
from ullage.target import Target

_WIDEST_ROW = 8192
"""Elements of the longest row that is joined: blocks of longer rows would leave the cache, and threads idle."""
_ROWS_OF_A_THREAD = range(48, 65)
_FEW_ROWS = 8
_TILE_ROWS = 8
_UNEVEN = 1.15
"""Rows of all threads if each had as many as the one with most, to rows in all."""
_WEIGHTS_BYTES = 4 << 20
"""Weights that every thread may walk by itself, block of rows by block of rows (see `pays`)."""

Names = tuple[tuple[str, str], ...]
"""Pairs of a row kernel's own name of a buffer, and its name in the product's kernel."""


@dataclass
class RowJoiner:
    """Joins row kernels to products over a list of steps; `storages` loses what is no longer needed."""

    steps: list[Pending]
    storages: list[Storage]
    target: Target
    dim_max: dict[str, int]
    known: dict[tuple[Gemm | Conv2d, LoopKernel, Names], Gemm | Conv2d | None] = field(default_factory=dict)
    """What was joined already, since equal layers join equal kernels."""

    def run(self) -> None:
        """Join what can be joined."""
        for rows, kernel in reducing(self.steps):
            self._join(rows, kernel)

    def _join(self, rows: Lowered, kernel: LoopKernel) -> None:
        for product in producers(self.steps, rows):
            joined = self._joined(product, rows, kernel)
            if joined is not None:
                put(self.steps, product, rows, self._in_place(joined, product, rows))
                return

    def _joined(self, product: Lowered, rows: Lowered, kernel: LoopKernel) -> Lowered | None:
        """One kernel of both; None if there is none or it does not pay."""
        spec, names = product.spec, names_for(product, rows)
        if names is None or not _may_join(spec) or not pays(spec, self.target, self.dim_max):
            return None
        key = (spec, kernel, tuple(names.items()))
        if key not in self.known:
            self.known[key] = join(*key, self.target, self.dim_max)
        joined = self.known[key]
        if joined is None:
            return None
        operands = {**product.operands, **{names[name]: operand for name, operand in rows.operands.items()}}
        return Lowered(f"{product.name}+{rows.name}", joined, operands)

    def _in_place(self, joined: Lowered, product: Lowered, rows: Lowered) -> Lowered:
        """Computes the product where the row kernel's result goes, if nobody else wants to see it."""
        assert isinstance(rows.spec, LoopKernel)
        for read, written in inplace_pairs(rows.spec):
            storage = rows.operands[read].storage
            if storage in product.writes() and is_private(self.steps, self.storages, storage, product, rows):
                self.storages[:] = [s for s in self.storages if s.name != storage]
                return _merged(joined, rows.operands[read], rows.operands[written])
        return joined


def _merged(joined: Lowered, read: Operand, written: Operand) -> Lowered:
    """The kernel with what is at `read` in the memory of `written`."""
    spec = joined.spec
    assert isinstance(spec, Gemm | Conv2d) and spec.rows is not None
    gone, kept = (next(name for name, o in joined.operands.items() if o == operand) for operand in (read, written))
    renamed = with_buffers(spec.rows, {gone: kept})
    buffers = [b if b.name != kept else replace(b, access="rw") for b in renamed.buffers]
    rows = replace(renamed, buffers=tuple(dict.fromkeys(buffers)))
    epilogue = tuple(replace(s, buffer=kept) if s.buffer == gone else s for s in spec.epilogue)
    rest = tuple(b for b in spec.buffers if b.name != gone)
    operands = {name: operand for name, operand in joined.operands.items() if name != gone}
    return Lowered(joined.name, replace(spec, buffers=rest, epilogue=epilogue, rows=rows), operands)


def _may_join(spec: Spec) -> TypeGuard[Gemm | Conv2d]:
    if not isinstance(spec, Gemm | Conv2d) or spec.later or not isinstance(spec.weight, PackedPanels):
        return False
    return not (isinstance(spec, Conv2d) and spec.transposed)


def join(
    product: Gemm | Conv2d, rows: LoopKernel, names: Names, target: Target, dim_max: dict[str, int]
) -> Gemm | Conv2d | None:
    """One kernel of a product and a loop kernel over its rows; None if the loop kernel does not go row by row."""
    plain = with_buffers(normalise(rows), dict(names))
    if not (walks_points(plain, target) and _row_by_row(product, plain, dim_max)):
        return None
    own = {b.name for b in product.buffers}
    more = [b for b in plain.buffers if b.access != "local" and b.name not in own]
    return replace(
        product,
        buffers=(*product.buffers, *more),
        dims=tuple(sorted({*product.dims, *plain.dims})),
        rows=plain,
    )


def pays(spec: Gemm | Conv2d, target: Target, dim_max: dict[str, int]) -> bool:
    """Whether a row epilogue is at least as fast as a launch of its own.

    That asks for one block of rows per thread, all about equally long: the rows stay in that thread's cache while all
    weights pass through it. With more blocks the weights would pass more often than they do for the product alone, and
    with shorter ones they would pass for too little work. A few rows are one thread's work in either case. (Measured:
    `python -m benchmarks.row_epilogues`.)
    """
    assert isinstance(spec.weight, PackedPanels)
    rows = IndexMath({}, dim_max).bounds(rows_of(spec)[0])[1]
    if rows is None or rows <= _FEW_ROWS:
        return rows is not None
    block = -(-rows // (target.threads * _TILE_ROWS)) * _TILE_ROWS
    even = block in _ROWS_OF_A_THREAD and block * target.threads <= rows * _UNEVEN
    return even and spec.weight.tiles * spec.weight.tile_bytes <= _WEIGHTS_BYTES


def _row_by_row(spec: Gemm | Conv2d, rows: LoopKernel, dim_max: dict[str, int]) -> bool:
    """Whether point m of the row kernel reads of the product's stores only those of row m, at [m · n, (m + 1) · n)."""
    math = IndexMath({}, dim_max)
    count, width = rows_of(spec)
    if not isinstance(width, Const) or width.value > _WIDEST_ROW:
        return False
    if not all(stored_densely(spec, store, dim_max) for store in spec.epilogue):
        return False
    if math.sub(numel(tuple(loop.extent for loop in rows.outer)), count) != ZERO:
        return False
    number: Expr = ZERO
    for loop in rows.outer:
        number = math.add(math.mul(number, loop.extent), math.declare(loop.var, loop.extent))
    for stage in rows.stages:
        for loop in stage.loops:
            math.declare(loop.var, loop.extent)
    start = math.mul(number, width)
    return all(_within(math, math.sub(load.index, start), int(width.value)) for load in loads_of_stores(spec, rows))


def _within(math: IndexMath, offset: Expr, width: int) -> bool:
    low, high = math.bounds(offset)
    return low is not None and high is not None and low >= 0 and high < width
