"""Expressions as Triton statements inside nested blocks, each value named once and as far out as it may go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import ullage.codegen.triton.ops as ops
from ullage.codegen.loops.ir import Apply, Cast, Const, Dim, Expr, Load, Ref, Var, children

Axes = frozenset[str]
"""The block axes along which a value differs: `x` (outer points) and `r` (points of the stage)."""


@dataclass(frozen=True, slots=True)
class Value:
    """Triton text, the axes it varies along, and the block in which it is known."""

    text: str
    axes: Axes
    depth: int


@dataclass(slots=True)
class Block:
    """Lines at one indentation, and the values named there."""

    header: str
    lines: list[str] = field(default_factory=list)
    memo: dict[object, Value] = field(default_factory=dict)
    bindings: dict[str, Value] = field(default_factory=dict)


class Printer:
    """Builds the body of one kernel.

    `buffers` maps buffer names to pointer text, `changing` names the buffers that the kernel writes (their loads are
    never moved or shared across statements). `pointer_axes` gives the axes along which a buffer's own pointer varies,
    `masks` maps an axis to the name of its lane mask.
    """

    def __init__(self, buffers: Mapping[str, str], changing: Axes) -> None:
        self.buffers = dict(buffers)
        self.changing = changing
        self.pointer_axes: dict[str, Axes] = {}
        self.masks: dict[str, str] = {}
        self.blocks: list[Block] = []
        self._count = 0

    @property
    def depth(self) -> int:
        """Number of the innermost block."""
        return len(self.blocks) - 1

    def open(self, header: str) -> None:
        """Start a nested block (an empty header nests without indentation)."""
        self.blocks.append(Block(header))

    def close(self) -> list[str]:
        """End the innermost block: its lines go into the enclosing one and are returned."""
        block = self.blocks.pop()
        if self.blocks:
            lines = [block.header, *("    " + line for line in block.lines)] if block.header else block.lines
            self.blocks[-1].lines += lines
        return block.lines

    def line(self, text: str) -> None:
        """Add a statement to the innermost block."""
        self.blocks[-1].lines.append(text)

    def bind(self, name: str, text: str, axes: Axes = frozenset()) -> None:
        """Let a variable, dimension or reference stand for a text until the innermost block closes."""
        self.blocks[-1].bindings[name] = Value(text, axes, self.depth)

    def forget_loads(self) -> None:
        """Called after a store: values that read written buffers are computed anew."""
        for block in self.blocks:
            block.memo = {k: v for k, v in block.memo.items() if not (isinstance(k, tuple) and k[0] == "changing")}

    def fresh(self, stem: str) -> str:
        """A new name."""
        self._count += 1
        return f"{stem}{self._count}"

    def name(self, text: str, axes: Axes, depth: int, key: object) -> Value:
        """Declare a value in the block `depth` and remember it under `key`."""
        value = Value(self.fresh("t"), axes, depth)
        self.blocks[depth].lines.append(f"{value.text} = {text}")
        self.blocks[depth].memo[key] = value
        return value

    # ---- expressions ------------------------------------------------------------------------------------------
    def value(self, expr: Expr) -> Value:
        """The value of an expression, with whatever it needs declared before."""
        for e in _post_order(expr):
            self._visit(e)
        return self._visit(expr)

    def _visit(self, expr: Expr) -> Value:
        if isinstance(expr, Var | Dim | Ref):
            return next(b.bindings[expr.name] for b in reversed(self.blocks) if expr.name in b.bindings)
        keys = (id(expr), ("changing", id(expr)))
        known = next((b.memo[k] for b in self.blocks for k in keys if k in b.memo), None)
        return known or self._declare(expr)

    def _declare(self, expr: Expr) -> Value:
        if isinstance(expr, Const):
            key = ("const", repr(expr.value), expr.dtype)
            known = self.blocks[0].memo.get(key)
            return known or self.name(ops.literal(expr.value, expr.dtype), frozenset(), 0, key)
        parts = [self._visit(c) for c in children(expr)]
        own = self.pointer_axes.get(expr.buffer, frozenset()) if isinstance(expr, Load) else frozenset[str]()
        axes = own.union(*(p.axes for p in parts))
        depth = max((p.depth for p in parts), default=0)
        if self._reads_changing(expr):
            return self.name(self._text(expr, parts, axes), axes, self.depth, ("changing", id(expr)))
        return self.name(self._text(expr, parts, axes), axes, depth, id(expr))

    def _reads_changing(self, expr: Expr) -> bool:
        if isinstance(expr, Load) and expr.buffer in self.changing:
            return True
        return any(("changing", id(c)) in b.memo for c in children(expr) for b in self.blocks)

    def _text(self, expr: Expr, parts: list[Value], axes: Axes) -> str:
        match expr:
            case Load():
                return self._load(expr, parts, axes)
            case Cast(arg, dtype):
                return ops.cast(parts[0].text, arg.dtype, dtype)
            case Apply(op, args, dtype):
                texts = [p.text for p in parts]
                if op in ("floordiv", "mod") and all(_never_negative(a) for a in args):
                    return f"({texts[0]} {'//' if op == 'floordiv' else '%'} {texts[1]})"
                return ops.apply(op, args[-1].dtype, dtype, texts)
            case _:
                raise AssertionError(f"no text for {expr}")

    def _load(self, load: Load, parts: list[Value], axes: Axes) -> str:
        pointer = f"{self.buffers[load.buffer]} + {parts[0].text}"
        masks = [self.masks[a] for a in sorted(axes) if a in self.masks]
        if load.mask is not None:
            masks.append(parts[1].text)
        if not masks:
            return ops.loaded(f"tl.load({pointer})", load.dtype)
        if axes and not parts[0].axes and load.buffer not in self.pointer_axes:
            pointer = f"{pointer} + tl.zeros_like({parts[1].text}.to(tl.int64))"
        other = _other_text(load)
        return ops.loaded(f"tl.load({pointer}, mask={' & '.join(masks)}, other={other})", load.dtype)


def _other_text(load: Load) -> str:
    number = repr(float(load.other)) if load.dtype.startswith(("float", "bfloat")) else repr(int(load.other))
    return number if number[-1].isdigit() else f'float("{number}")'


def _post_order(expr: Expr) -> Iterator[Expr]:
    """Sub-expressions, children first, each once."""
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(expr, False)]
    while stack:
        e, ready = stack.pop()
        if ready:
            yield e
        elif id(e) not in seen:
            seen.add(id(e))
            stack.append((e, True))
            stack.extend((c, False) for c in children(e))


def _never_negative(expr: Expr) -> bool:
    """Whether an index expression is made of non-negative parts only."""
    match expr:
        case Const(value, "int64"):
            return value >= 0
        case Var() | Dim():
            return True
        case Apply("add" | "mul" | "floordiv" | "mod" | "max" | "min", args, "int64"):
            return all(_never_negative(a) for a in args)
        case _:
            return False
