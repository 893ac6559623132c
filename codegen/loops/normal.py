"""Normal form of a kernel's loops: the fewest loops that describe the same work.

Steps: drop loops of one iteration, split loops whose variable is only used through a quotient and a remainder, make
independent stage loops outer loops, and merge neighbours that all accesses walk as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from ullage.codegen.loops.ir import (
    Apply,
    Const,
    Expr,
    Load,
    Loop,
    LoopKernel,
    Reduce,
    Ref,
    Scan,
    Sort,
    Stage,
    Statement,
    Store,
    Var,
)
from ullage.codegen.loops.poly import Poly, free_vars, linear_in, rewrite, to_expr, to_poly, unique
from ullage.codegen.loops.simplify import divide, simplify
from ullage.codegen.loops.traverse import expressions, guard_nested, map_stage, map_statement, statement_roots

_ZERO = Const(0)


def normalise(kernel: LoopKernel) -> LoopKernel:
    """The same kernel in normal form; loop variables keep their names or get new ones."""
    kernel = _drop_single(rename_stage_loops(guard_nested(kernel)))
    kernel = _simplify(_split_all(kernel))
    kernel = _promote(kernel)
    return _simplify(_merge_stages(_merge_outer(kernel)))


def rename_stage_loops(kernel: LoopKernel) -> LoopKernel:
    """Give every loop of the kernel a name of its own (`o0`, `o1`, ..., `s0`, ...)."""
    outer = {loop.var: f"o{i}" for i, loop in enumerate(kernel.outer)}
    stages: list[Stage] = []
    count = 0
    for stage in kernel.stages:
        inner = {loop.var: f"s{count + i}" for i, loop in enumerate(stage.loops)}
        count += len(inner)
        substitution = {name: Var(new) for name, new in {**outer, **inner}.items()}
        renamed = map_stage(stage, _substitution(substitution))
        stages.append(replace(renamed, loops=tuple(Loop(inner[x.var], x.extent) for x in stage.loops)))
    return replace(kernel, outer=tuple(Loop(outer[x.var], x.extent) for x in kernel.outer), stages=tuple(stages))


def extents_of(loops: Iterable[Loop]) -> dict[str, Poly]:
    """Extents by variable."""
    return {loop.var: to_poly(loop.extent) for loop in loops}


def _substitution(values: Mapping[str, Expr]) -> Callable[[Expr], Expr]:
    def leaf(e: Expr) -> Expr:
        return values.get(e.name, e) if isinstance(e, Var) else e

    return lambda expr: rewrite(expr, leaf)


def _simplify(kernel: LoopKernel) -> LoopKernel:
    outer = extents_of(kernel.outer)
    stages = []
    for stage in kernel.stages:
        extents = {**outer, **extents_of(stage.loops)}
        stages.append(map_stage(stage, lambda e, known=extents: simplify(e, known)))  # type: ignore[misc]
    return replace(kernel, stages=tuple(stages))


# ---- loops of one iteration -----------------------------------------------------------------------------------
def _is_single(loop: Loop) -> bool:
    return to_poly(loop.extent).value == 1


def _drop_single(kernel: LoopKernel) -> LoopKernel:
    gone = _substitution({x.var: _ZERO for x in kernel.outer if _is_single(x)})
    stages = [_drop_single_stage(map_stage(s, gone)) for s in kernel.stages]
    return replace(kernel, outer=tuple(x for x in kernel.outer if not _is_single(x)), stages=tuple(stages))


def _drop_single_stage(stage: Stage) -> Stage:
    scanned = stage.loops[-1:] if has_scan(stage) else ()
    gone = [x for x in stage.loops if _is_single(x) and x not in scanned]
    mapped = map_stage(stage, _substitution({x.var: _ZERO for x in gone}))
    return replace(mapped, loops=tuple(x for x in stage.loops if x not in gone))


def has_scan(stage: Stage) -> bool:
    """Whether the stage holds a scan or a sort (its last loop is then walked as it is)."""
    return any(isinstance(s, Scan | Sort) for s in stage.body)


def scatters(stage: Stage) -> bool:
    """Whether the stage stores at places that are data: its iterations may meet, and their order counts."""
    return any(isinstance(s, Store) and any(isinstance(e, Load | Ref) for e in unique(s.index)) for s in stage.body)


def sorts(stage: Stage) -> bool:
    """Whether the stage holds a sort."""
    return any(isinstance(s, Sort) for s in stage.body)


# ---- splitting ------------------------------------------------------------------------------------------------
def _split_all(kernel: LoopKernel) -> LoopKernel:
    for _ in range(8):
        kernel = _simplify(kernel)
        split = _split_once(kernel)
        if split is None:
            return kernel
        kernel = split
    return kernel


def _split_once(kernel: LoopKernel) -> LoopKernel | None:
    for i, loop in enumerate(kernel.outer):
        step = _split_step(loop, [s for stage in kernel.stages for s in stage.body])
        if step is not None:
            loops, value = _split_loop(loop, step)
            f = _substitution({loop.var: value})
            outer = (*kernel.outer[:i], *loops, *kernel.outer[i + 1 :])
            return replace(kernel, outer=outer, stages=tuple(map_stage(s, f) for s in kernel.stages))
    for k, stage in enumerate(kernel.stages):
        split = _split_stage(stage)
        if split is not None:
            return replace(kernel, stages=(*kernel.stages[:k], split, *kernel.stages[k + 1 :]))
    return None


def _split_stage(stage: Stage) -> Stage | None:
    for i, loop in enumerate(stage.loops):
        if has_scan(stage) and i == len(stage.loops) - 1:
            continue
        step = _split_step(loop, stage.body)
        if step is not None:
            loops, value = _split_loop(loop, step)
            mapped = map_stage(stage, _substitution({loop.var: value}))
            return replace(mapped, loops=(*stage.loops[:i], *loops, *stage.loops[i + 1 :]))
    return None


def _split_step(loop: Loop, body: Sequence[Statement]) -> Expr | None:
    """A divisor of the extent by which the variable is divided somewhere in the body."""
    extent = to_poly(loop.extent)
    for expr in (e for s in body for root in expressions(s) for e in unique(root)):
        if not (isinstance(expr, Apply) and expr.op in ("floordiv", "mod") and expr.args[0] == Var(loop.var)):
            continue
        parts = divide(extent, to_poly(expr.args[1]))
        if parts is not None and not parts[1].terms and parts[0].value != 1 and not free_vars(expr.args[1]):
            return expr.args[1]
    return None


def _split_loop(loop: Loop, step: Expr) -> tuple[tuple[Loop, Loop], Expr]:
    parts = divide(to_poly(loop.extent), to_poly(step))
    assert parts is not None
    high, low = Loop(f"{loop.var}h", to_expr(parts[0])), Loop(f"{loop.var}l", step)
    product = Apply("mul", (Var(high.var), step), "int64")
    return (high, low), Apply("add", (product, Var(low.var)), "int64")


# ---- stage loops that may be outer loops ----------------------------------------------------------------------
def _promote(kernel: LoopKernel) -> LoopKernel:
    """A single stage of stores whose iterations never meet becomes part of the outer space."""
    if len(kernel.stages) != 1 or any(b.access == "local" for b in kernel.buffers):
        return kernel
    stage = kernel.stages[0]
    names = [x.var for x in stage.loops]
    if not all(isinstance(s, Store) and _injective(s, names) for s in stage.body) or _reads_own_stores(stage):
        return kernel
    return replace(kernel, outer=(*kernel.outer, *stage.loops), stages=(Stage((), stage.body),))


def _injective(store: Store, names: Sequence[str]) -> bool:
    """Whether the index moves with every variable, by a fixed step (writes of a legal kernel then never meet)."""
    splits = [linear_in(to_poly(store.index), name) for name in names]
    return all(split is not None and split[0].terms for split in splits)


def _reads_own_stores(stage: Stage) -> bool:
    stored = {s.buffer: s.index for s in stage.body if isinstance(s, Store)}
    loads = (e for s in stage.body for root in expressions(s) for e in unique(root) if isinstance(e, Load))
    return any(e.buffer in stored and e.index != stored[e.buffer] for e in loads)


# ---- merging --------------------------------------------------------------------------------------------------
def _merge_outer(kernel: LoopKernel) -> LoopKernel:
    roots = [p for stage in kernel.stages for s in stage.body for p in statement_roots(s)]
    for i in range(len(kernel.outer) - 2, -1, -1):
        a, b = kernel.outer[i], kernel.outer[i + 1]
        if all(_walks_as_one(p, a.var, b.var, to_poly(b.extent)) for p in roots):
            merged = Loop(b.var, to_expr(to_poly(a.extent) * to_poly(b.extent)))
            gone = _substitution({a.var: _ZERO})
            outer = (*kernel.outer[:i], merged, *kernel.outer[i + 2 :])
            return _merge_outer(replace(kernel, outer=outer, stages=tuple(map_stage(s, gone) for s in kernel.stages)))
    return kernel


def _merge_stages(kernel: LoopKernel) -> LoopKernel:
    return replace(kernel, stages=tuple(_merge_stage(s) for s in kernel.stages))


def _merge_stage(stage: Stage) -> Stage:
    roots = [p for s in stage.body for p in statement_roots(s)]
    last = len(stage.loops) - (2 if has_scan(stage) else 1)
    for i in range(last - 1, -1, -1):
        a, b = stage.loops[i], stage.loops[i + 1]
        if all(_walks_as_one(p, a.var, b.var, to_poly(b.extent)) for p in roots):
            merged = Loop(b.var, to_expr(to_poly(a.extent) * to_poly(b.extent)))
            loops = (*stage.loops[:i], merged, *stage.loops[i + 2 :])
            gone = _substitution({a.var: _ZERO})
            return _merge_stage(Stage(loops, tuple(map_statement(s, gone) for s in stage.body)))
    return stage


def _walks_as_one(poly: Poly, a: str, b: str, extent: Poly) -> bool:
    """Whether step(a) = extent(b) · step(b), looking at the terms where they stand alone."""
    steps = [_own_step(poly, name) for name in (a, b)]
    if steps[0] is None or steps[1] is None:
        return False
    if any({a, b} & free_vars(atom) for step in steps if step for atom in step.atoms()):
        return False
    return steps[0] == steps[1] * extent


def _own_step(poly: Poly, name: str) -> Poly | None:
    """The factor of a variable over the terms that hold it directly; None if it occurs squared."""
    step = Poly({})
    for monomial, factor in poly.terms.items():
        inside = [x for x in monomial if isinstance(x, Var) and x.name == name]
        if len(inside) > 1:
            return None
        if inside:
            rest = list(monomial)
            rest.remove(inside[0])
            step = step + Poly({tuple(rest): factor})
    return step


def reduces(stage: Stage) -> tuple[Reduce, ...]:
    """The reductions of a stage."""
    return tuple(s for s in stage.body if isinstance(s, Reduce))
