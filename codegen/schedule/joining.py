"""What joining a loop kernel to the product before it takes: a place among the steps, and names for its memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ullage.codegen.loops.ir import Const, Expr, Load, LoopKernel, Store, walk
from ullage.codegen.loops.normal import reduces
from ullage.codegen.loops.traverse import expressions
from ullage.codegen.lower.builder import Operand
from ullage.codegen.lower.index import ONE, ZERO, IndexMath
from ullage.codegen.lower.shapes import numel
from ullage.codegen.schedule.lowered import Lowered, Pending, depends, reads, writes
from ullage.codegen.templates import Conv2d, Gemm
from ullage.plan.steps import Storage


def reducing(steps: Sequence[Pending]) -> Iterator[tuple[Lowered, LoopKernel]]:
    """The steps that are loop kernels with reductions; the list may change on the way."""
    for step in list(steps):
        kernel = step.spec if isinstance(step, Lowered) else None
        if isinstance(step, Lowered) and isinstance(kernel, LoopKernel) and any(map(reduces, kernel.stages)):
            yield step, kernel


def producers(steps: Sequence[Pending], later: Lowered) -> Iterator[Lowered]:
    """Steps that compute what a later one reads and that may be one step with it, the latest first."""
    end = steps.index(later)
    for start in reversed(range(end)):
        step = steps[start]
        if not isinstance(step, Lowered) or step.writes().isdisjoint(later.reads()):
            continue
        if _place_of(steps, start, end) is not None:
            yield step


def put(steps: list[Pending], product: Lowered, later: Lowered, joined: Lowered) -> None:
    """Replace a producer and the later step by the joined one, at a place that suits all between them."""
    start, end = steps.index(product), steps.index(later)
    place = _place_of(steps, start, end)
    assert place is not None
    steps[place] = joined
    del steps[end if place == start else start]


def _place_of(steps: Sequence[Pending], start: int, end: int) -> int | None:
    """Which of two steps' places the joined one can take; None if what lies between needs both orders."""
    product, later = steps[start], steps[end]
    between = steps[start + 1 : end]
    if not any(depends(later, step) for step in between):
        return start
    return None if any(depends(step, product) for step in between) else end


def is_private(steps: Sequence[Pending], storages: Sequence[Storage], storage: str, *own: Lowered) -> bool:
    """Whether a storage is a temporary one that no steps but some own ones touch."""
    others = [step for step in steps if not any(step is one for one in own)]
    return any(s.name == storage and s.kind == "temp" for s in storages) and not any(
        storage in reads(step) | writes(step) for step in others
    )


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
