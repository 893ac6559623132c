"""What a legal kernel is: a table of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ullage.codegen.loops.ir import (
    DTYPE_BYTES,
    FLOATS,
    OPS,
    Apply,
    Cast,
    Const,
    Dim,
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
from ullage.codegen.loops.poly import free_vars, unique
from ullage.codegen.loops.show import show_expr, show_statement
from ullage.codegen.loops.sorting import order_elements
from ullage.codegen.loops.traverse import expressions, values
from ullage.errors import InputError

_EXTENT_OPS = frozenset({"add", "sub", "mul", "neg", "floordiv", "truncdiv", "mod", "max", "min"})
_INTEGER_ONLY = frozenset({"floordiv", "mod", "truncdiv", "shl", "shr", "xor", "and", "or", "not"})
_FLOAT_ONLY = frozenset(
    {
        "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "asin",
        "acos", "atan", "atan2", "sinh", "cosh", "tanh", "sigmoid", "erf",
    }
)  # fmt: skip
_BOOL_OPS = frozenset({"and", "or", "xor", "not", "eq", "ne", "where", "add", "mul", "max", "min"})
_ROUNDED = frozenset({"sum", "prod", "linear"})


def verify(kernel: LoopKernel) -> None:
    """Raise InputError that lists every broken rule."""
    found = list(problems(kernel))
    if found:
        raise InputError("illegal kernel: " + "; ".join(dict.fromkeys(found)) + ".")


def problems(kernel: LoopKernel) -> Iterator[str]:
    """Every broken rule, in words."""
    for rule in KERNEL_RULES:
        yield from rule(kernel)
    for place in _places(kernel):
        for statement_rule in STATEMENT_RULES:
            yield from statement_rule(place)
        for root in expressions(place.statement):
            for expr in unique(root):
                for expr_rule in EXPR_RULES:
                    yield from expr_rule(place, expr)


@dataclass(frozen=True, slots=True)
class Place:
    """A statement and what it may refer to."""

    kernel: LoopKernel
    stage: Stage
    statement: Statement
    variables: frozenset[str]
    refs: dict[str, str]

    def dtype_of(self, buffer: str) -> str | None:
        """The dtype of a declared buffer."""
        return next((b.dtype for b in self.kernel.buffers if b.name == buffer), None)


def _places(kernel: LoopKernel) -> Iterator[Place]:
    refs: dict[str, str] = {}
    for stage in kernel.stages:
        variables = frozenset(x.var for x in (*kernel.outer, *stage.loops))
        inside = dict(refs)
        for s in stage.body:
            yield Place(kernel, stage, s, variables, dict(inside))
            if isinstance(s, Scan):
                inside[s.name] = s.value.dtype
        refs.update({s.name: _result(s) for s in stage.body if isinstance(s, Reduce)})
        if len(stage.loops) == 1:
            refs.update({s.name: s.value.dtype for s in stage.body if isinstance(s, Scan)})


def _result(s: Reduce) -> str:
    return "int64" if s.op in ("argmax", "argmin") else "bool" if s.op in ("any", "all") else s.value.dtype


# ---- the kernel as a whole ------------------------------------------------------------------------------------
def _buffers_once(kernel: LoopKernel) -> Iterator[str]:
    names = [b.name for b in kernel.buffers]
    yield from (f"buffer {n} is declared {names.count(n)} times" for n in dict.fromkeys(names) if names.count(n) > 1)
    yield from (f"buffer {b.name} has unknown dtype {b.dtype}" for b in kernel.buffers if b.dtype not in DTYPE_BYTES)


def _locals_sized(kernel: LoopKernel) -> Iterator[str]:
    for b in kernel.buffers:
        if b.access == "local" and b.elements is None:
            yield f"local buffer {b.name} needs its number of elements"
        if b.elements is not None and not _is_extent(b.elements, kernel):
            yield f"elements of buffer {b.name} may use constants and dimensions only: {show_expr(b.elements)}"


def _loops_legal(kernel: LoopKernel) -> Iterator[str]:
    for loops in [kernel.outer, *((*kernel.outer, *s.loops) for s in kernel.stages)]:
        names = [x.var for x in loops]
        yield from (f"variable {n} has two loops" for n in dict.fromkeys(names) if names.count(n) > 1)
        yield from (_extent_problem(x) for x in loops if not _is_extent(x.extent, kernel))


def _extent_problem(loop: Loop) -> str:
    return f"extent of {loop.var} may use constants and dimensions only: {show_expr(loop.extent)}"


def _is_extent(expr: Expr, kernel: LoopKernel) -> bool:
    def legal(e: Expr) -> bool:
        if isinstance(e, Const):
            return e.dtype == "int64"
        return (isinstance(e, Dim) and e.name in kernel.dims) or (isinstance(e, Apply) and e.op in _EXTENT_OPS)

    return all(legal(e) for e in unique(expr)) and not (isinstance(expr, Const) and expr.value < 0)


def _names_once(kernel: LoopKernel) -> Iterator[str]:
    names = [s.name for stage in kernel.stages for s in stage.body if isinstance(s, Reduce | Scan)]
    yield from (f"${n} is defined {names.count(n)} times" for n in dict.fromkeys(names) if names.count(n) > 1)


KERNEL_RULES: tuple[Callable[[LoopKernel], Iterator[str]], ...] = (
    _buffers_once, _locals_sized, _loops_legal, _names_once,
)  # fmt: skip


# ---- statements -----------------------------------------------------------------------------------------------
def _store_matches(place: Place) -> Iterator[str]:
    s = place.statement
    if not isinstance(s, Store):
        return
    buffer = next((b for b in place.kernel.buffers if b.name == s.buffer), None)
    if buffer is None:
        yield f"store to undeclared buffer {s.buffer}"
    elif buffer.access == "r":
        yield f"store to read-only buffer {s.buffer}"
    elif buffer.dtype != s.value.dtype:
        yield f"{s.value.dtype} stored to {s.buffer}, which holds {buffer.dtype}"
    if s.index.dtype != "int64":
        yield f"index of a store to {s.buffer} is {s.index.dtype}, not int64"
    if s.mask is not None and s.mask.dtype != "bool":
        yield f"mask of a store to {s.buffer} is {s.mask.dtype}, not bool"


def _sort_legal(place: Place) -> Iterator[str]:
    s = place.statement
    if not isinstance(s, Sort):
        return
    if len(place.stage.loops) != 1 or len(place.stage.body) != 1:
        yield f"a sort is alone in a stage of one loop: {show_statement(s)}"
        return
    if not _is_extent(s.count, place.kernel):
        yield f"what a sort keeps may use constants and dimensions only: {show_statement(s)}"
    order = next((b for b in place.kernel.buffers if b.name == s.order), None)
    if order is None or (order.dtype, order.access) != ("int64", "local") or order.elements is None:
        yield f"positions go to a local buffer of int64: {show_statement(s)}"
        return
    if order.elements != order_elements(s.value.dtype, place.stage.loops[0].extent, s.count):
        yield f"{order.name} has {show_expr(order.elements)} elements, not as many as a sort needs: {show_statement(s)}"


def _reduce_legal(place: Place) -> Iterator[str]:
    s = place.statement
    if not isinstance(s, Reduce | Scan):
        return
    if s.op in ("any", "all") and s.value.dtype != "bool":
        yield f"{s.op} of {s.value.dtype} values: {show_statement(s)}"
    if s.op in _ROUNDED and s.value.dtype in ("bool", "float16", "bfloat16"):
        yield f"{s.op} of {s.value.dtype} values needs a cast first: {show_statement(s)}"
    if isinstance(s, Scan) and not place.stage.loops:
        yield f"a scan needs a loop: {show_statement(s)}"


def _recurrence_legal(place: Place) -> Iterator[str]:
    s = place.statement
    if not isinstance(s, Scan):
        return
    if (s.op == "linear") != (s.factor is not None) or (s.initial is not None and s.factor is None):
        yield f"a factor belongs to a linear scan, and an initial value to its factor: {show_statement(s)}"
    if any(e.dtype != s.value.dtype for e in values(s)):
        yield f"parts of a scan differ in dtype ({', '.join(e.dtype for e in values(s))}): {show_statement(s)}"
    if s.initial is not None and place.stage.loops and place.stage.loops[-1].var in free_vars(s.initial):
        yield f"the initial value changes along the scan: {show_statement(s)}"


STATEMENT_RULES: tuple[Callable[[Place], Iterator[str]], ...] = (
    _store_matches, _sort_legal, _reduce_legal, _recurrence_legal,
)  # fmt: skip


# ---- expressions ----------------------------------------------------------------------------------------------
def _names_known(place: Place, e: Expr) -> Iterator[str]:
    match e:
        case Var(name) if name not in place.variables:
            yield f"variable {name} has no loop: {show_statement(place.statement)}"
        case Dim(name) if name not in place.kernel.dims:
            yield f"dimension {name} is not declared"
        case Ref(name) if name not in place.refs:
            yield f"${name} is used before it is defined: {show_statement(place.statement)}"
        case Ref(name, dtype) if place.refs[name] != dtype:
            yield f"${name} is {place.refs[name]}, used as {dtype}"
        case _:
            return


def _load_legal(place: Place, e: Expr) -> Iterator[str]:
    if not isinstance(e, Load):
        return
    declared = place.dtype_of(e.buffer)
    if declared is None:
        yield f"load from undeclared buffer {e.buffer}"
    elif declared != e.dtype:
        yield f"load of {e.dtype} from {e.buffer}, which holds {declared}"
    if e.index.dtype != "int64":
        yield f"index of a load from {e.buffer} is {e.index.dtype}, not int64"
    if e.mask is not None and e.mask.dtype != "bool":
        yield f"mask of a load from {e.buffer} is {e.mask.dtype}, not bool"


def _apply_legal(_: Place, e: Expr) -> Iterator[str]:
    if not isinstance(e, Apply):
        return
    if e.op not in OPS:
        yield f"unknown operator {e.op}"
        return
    arity, rule = OPS[e.op]
    if len(e.args) != arity:
        yield f"{e.op} takes {arity} arguments, found {len(e.args)}: {show_expr(e)}"
        return
    yield from _dtypes_agree(e, rule)
    yield from _op_suits(e.op, e.args[-1].dtype, e)


def _dtypes_agree(e: Apply, rule: str) -> Iterator[str]:
    values = e.args[1:] if e.op == "where" else e.args
    if e.op == "where" and e.args[0].dtype != "bool":
        yield f"condition is {e.args[0].dtype}, not bool: {show_expr(e)}"
    if len({a.dtype for a in values}) > 1:
        yield f"arguments differ in dtype ({', '.join(a.dtype for a in values)}): {show_expr(e)}"
    if rule == "own":
        if DTYPE_BYTES.get(e.dtype) != DTYPE_BYTES[values[-1].dtype] or "bool" in (e.dtype, values[-1].dtype):
            yield f"{values[-1].dtype} has no bits of a {e.dtype}: {show_expr(e)}"
        return
    wanted = "bool" if rule == "bool" else values[-1].dtype
    if e.dtype != wanted:
        yield f"{e.op} gives {wanted}, declared {e.dtype}: {show_expr(e)}"


def _op_suits(op: str, dtype: str, e: Apply) -> Iterator[str]:
    floats, boolean = dtype in FLOATS, dtype == "bool"
    if (floats and op in _INTEGER_ONLY) or (not floats and op in _FLOAT_ONLY) or (boolean and op not in _BOOL_OPS):
        yield f"{op} is not defined for {dtype}: {show_expr(e)}"


def _cast_legal(_: Place, e: Expr) -> Iterator[str]:
    if isinstance(e, Cast | Const) and e.dtype not in DTYPE_BYTES:
        yield f"unknown dtype {e.dtype}: {show_expr(e)}"


EXPR_RULES: tuple[Callable[[Place, Expr], Iterator[str]], ...] = (_names_known, _load_legal, _apply_legal, _cast_legal)
