"""What joining a loop kernel to the product before it takes: a place among the steps, and names for its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ullage.codegen.loops.ir import Const, Expr, Load, LoopKernel, Store, walk
from ullage.codegen.loops.traverse import expressions
from ullage.codegen.lower.builder import Operand
from ullage.codegen.lower.index import ONE, ZERO, IndexMath
from ullage.codegen.lower.shapes import numel
from ullage.codegen.schedule.lowered import Lowered, Pending, depends
from ullage.codegen.templates import Conv2d, Gemm


def place_of(steps: Sequence[Pending], start: int, end: int) -> int | None:
    """Which of two steps' places the joined one can take; None if what lies between needs both orders."""
    product, later = steps[start], steps[end]
    between = steps[start + 1 : end]
    if not any(depends(later, step) for step in between):
        return start
    return None if any(depends(step, product) for step in between) else end


def names_for(product: Lowered, later: Lowered) -> dict[str, str] | None:
    """Names for the later kernel's buffers, the product's for equal memory; None if memory overlaps otherwise."""
    known: dict[Operand, str] = {operand: name for name, operand in product.operands.items()}
    touched = product.reads() | product.writes()
    if not later.writes().isdisjoint(touched):
        return None
    if any(o.storage in product.writes() and o not in known for o in later.operands.values()):
        return None
    return {name: known.get(operand, f"then_{name}") for name, operand in later.operands.items()}


def rows_of(spec: Gemm | Conv2d) -> tuple[Expr, Expr]:
    """Rows of a product, and outputs of a row."""
    if isinstance(spec, Gemm):
        return spec.m, spec.n
    return numel((spec.batch, spec.out_h, spec.out_w)), Const(spec.out_c)


def stored_densely(spec: Gemm | Conv2d, store: Store, dim_max: Mapping[str, int]) -> bool:
    """Whether output n of row m is stored at m · outputs + n."""
    math = IndexMath({}, dim_max)
    count, width = rows_of(spec)
    m: Expr = ZERO if count == ONE else math.declare("m", count)
    n: Expr = ZERO if width == ONE else math.declare("n", width)
    return math.sub(store.index, math.add(math.mul(m, width), n)) == ZERO


def loads_of_stores(spec: Gemm | Conv2d, later: LoopKernel) -> list[Load]:
    """The later kernel's loads of what the product stores."""
    stored = {store.buffer for store in spec.epilogue}
    roots = [e for stage in later.stages for statement in stage.body for e in expressions(statement)]
    return [e for root in roots for e in walk(root) if isinstance(e, Load) and e.buffer in stored]
