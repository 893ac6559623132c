"""A stable text form of loop kernels, for people and golden files."""

from __future__ import annotations

from ullage.codegen.loops.ir import (
    Apply,
    Buffer,
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

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "and": "&", "or": "|", "xor": "^",
    "shl": "<<", "shr": ">>", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip


def show(kernel: LoopKernel) -> str:
    """The kernel as indented text, one statement per line."""
    dims = f" dims {', '.join(kernel.dims)}" if kernel.dims else ""
    lines = [f"kernel{dims}", *(f"  {_buffer(b)}" for b in kernel.buffers)]
    lines.append(f"  for {_loops(kernel.outer)}" if kernel.outer else "  once")
    for stage in kernel.stages:
        lines += _stage(stage)
    return "\n".join(lines) + "\n"


def show_expr(expr: Expr) -> str:
    """An expression in infix form; literals carry their dtype unless they are int64 or float32."""
    match expr:
        case Const(value, dtype):
            return f"{value!r}" if dtype in ("int64", "float32", "bool") else f"{dtype}({value!r})"
        case Var(name) | Dim(name):
            return name
        case Ref(name):
            return f"${name}"
        case Load(buffer, index, _, mask, other):
            guard = "" if mask is None else f" if {show_expr(mask)} else {other!r}"
            return f"{buffer}[{show_expr(index)}{guard}]"
        case Cast(arg, dtype):
            return f"{dtype}({show_expr(arg)})"
        case Apply(op, (a, b)) if op in _INFIX:
            return f"({show_expr(a)} {_INFIX[op]} {show_expr(b)})"
        case Apply(op, args):
            return f"{op}({', '.join(show_expr(a) for a in args)})"


def show_statement(statement: Statement) -> str:
    """One statement."""
    match statement:
        case Store(buffer, index, value, mask):
            guard = "" if mask is None else f" if {show_expr(mask)}"
            return f"{buffer}[{show_expr(index)}] = {show_expr(value)}{guard}"
        case Sort(order, value, count, descending):
            return (
                f"{order} = first {show_expr(count)} {'descending' if descending else 'ascending'} {show_expr(value)}"
            )
        case Reduce(name, op, value):
            return f"${name} = reduce {op} {show_expr(value)}"
        case Scan(name, _, value, factor, initial) if factor is not None:
            start = "" if initial is None else f" from {show_expr(initial)}"
            return f"${name} = scan {show_expr(factor)} * ${name} + {show_expr(value)}{start}"
        case Scan(name, op, value):
            return f"${name} = scan {op} {show_expr(value)}"


def _buffer(buffer: Buffer) -> str:
    elements = "" if buffer.elements is None else f"[{show_expr(buffer.elements)}]"
    return f"{buffer.access} {buffer.name}: {buffer.dtype}{elements}"


def _loops(loops: tuple[Loop, ...]) -> str:
    return ", ".join(f"{loop.var} < {show_expr(loop.extent)}" for loop in loops)


def _stage(stage: Stage) -> list[str]:
    head = f"    for {_loops(stage.loops)}:" if stage.loops else "    do:"
    return [head, *(f"      {show_statement(s)}" for s in stage.body)]
