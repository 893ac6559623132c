"""Scope: C++ text for expressions inside nested blocks, each sub-expression once and as far out as it may go."""

from __future__ import annotations

from collections.abc import Mapping

from ullage.codegen.cpp import ops
from ullage.codegen.cpp.access import load_text, masked_store_text, store_text
from ullage.codegen.cpp.blocks import Blocks
from ullage.codegen.loops.ir import FLOATS, Apply, Cast, Const, Dim, Expr, Load, Ref, Var, children
from ullage.codegen.loops.poly import Poly, atom_key, linear_in, postorder, to_poly, unique

_COMPARE_TO_ZERO = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_QUOTIENTS = {"floordiv": "/", "truncdiv": "/", "mod": "%"}
_INDEX_OPS = frozenset({"add", "sub", "mul", "neg", *_QUOTIENTS})
_MAX_STEP = 1 << 20
_LEVELS = 64


def _number(args: tuple[Expr, ...]) -> int | None:
    """The position of a constant argument that is not NaN."""
    return next((i for i, a in enumerate(args) if isinstance(a, Const) and a.value == a.value), None)


def _not_negative(expr: Expr) -> bool:
    """Whether the expression is ≥ 0 by its form, variables and dimensions being ≥ 0."""
    match expr:
        case Const(value):
            return value >= 0
        case Var() | Dim():
            return True
        case Apply("add" | "mul" | "max" | "min" | "floordiv" | "truncdiv" | "mod", args):
            return all(_not_negative(a) for a in args)
        case _:
            return False


def _positive(expr: Expr) -> bool:
    match expr:
        case Const(value):
            return value > 0
        case Apply("mul" | "min", args):
            return all(_positive(a) for a in args)
        case Apply("max", args):
            return any(_positive(a) for a in args)
        case _:
            return isinstance(expr, Dim)


class Scope(Blocks):
    """Emits expressions into a stack of open blocks, each sub-expression once and as far out as it may go.

    `buffers` maps buffer names to C++ pointers (to the storage type of the buffer). `value(expr)` gives N lanes inside
    a vector block, else a scalar.
    """

    def __init__(self, buffers: Mapping[str, str], changing: frozenset[str] = frozenset(), prefix: str = "t") -> None:
        super().__init__(changing, prefix)
        self.buffers = dict(buffers)

    # ---- expressions ------------------------------------------------------------------------------------------
    def value(self, expr: Expr) -> str:
        """C++ text of the expression: all lanes inside a vector block, else a scalar."""
        for part in self._deep_parts(expr):
            self.emit(part, self.lanes if self.varies(part) else 1)
        return self.emit(expr, self.lanes)

    def _deep_parts(self, expr: Expr) -> list[Expr]:
        """Values some levels apart inside a deep expression, children first: in this order recursion stays shallow."""
        height: dict[int, int] = {}
        parts = []
        for e in postorder(expr):
            height[id(e)] = 1 + max((height[id(c)] for c in children(e)), default=0)
            if height[id(e)] % _LEVELS == 0 and (e.dtype != "int64" or self.numbering.loads[self.numbering(e)]):
                parts.append(e)
        return parts

    def scalar(self, expr: Expr) -> str:
        """C++ text of the expression as a scalar (of lane 0 if it varies)."""
        return self.emit(expr, 1)

    def emit(self, expr: Expr, n: int) -> str:
        if isinstance(expr, Const):
            return ops.constant_text(expr, n)
        if n > 1 and not self.varies(expr):
            return self._splat(expr, n)
        if isinstance(expr, Ref) or (n == 1 and isinstance(expr, Var | Dim)):
            return self.bindings[expr.name].text
        depth = self.depth_of(expr)
        block = self.blocks[depth]
        key = (self.numbering(expr), n)
        if key not in block.memo:
            text = self._text(expr, n)
            name = block.memo[key] = self.fresh()
            block.lines.append(f"const {ops.register_type(expr.dtype, n)} {name} = {text};")
        return block.memo[key]

    def _splat(self, expr: Expr, n: int) -> str:
        depth = self.depth_of(expr)
        return self.name(ops.register_type(expr.dtype, n), ops.splat_text(self.emit(expr, 1), expr.dtype, n), depth)

    def _text(self, expr: Expr, n: int) -> str:
        match expr:
            case Load():
                return load_text(self, expr, n)
            case Cast(Apply("round", (arg,), source), dtype) if ops.rounds_to_integers(source, dtype):
                return ops.nearest_text(self.emit(arg, n), dtype, n)
            case Cast(arg, dtype):
                return ops.cast_text(self.emit(arg, n), arg.dtype, dtype, n)
            case Apply(op, args, dtype):
                compared = self._compare_index(expr, n) if n > 1 else None
                if compared is not None:
                    return compared
                if n == 1 and dtype == "int64" and op in _INDEX_OPS:
                    return self._scalar_index(expr)
                texts = [self.emit(a, n) for a in args]
                if op in ("max", "min") and dtype in FLOATS and (bound := _number(args)) is not None:
                    return ops.bounded_text(op, texts[1 - bound], texts[bound], n)
                return ops.apply_text(op, dtype, args[-1].dtype, texts, n)
            case Var():
                return f"ull_to_i64<{n}>(ull_iota<{n}>()) + ull_splat<{n}>((ull_i64)({self.emit(expr, 1)}))"
            case _:
                raise AssertionError(f"no text for {expr}")

    def _compare_index(self, expr: Apply, n: int) -> str | None:
        """A comparison of two index expressions that differ by base + step·lane, in 32 bits per lane."""
        if expr.op not in _COMPARE_TO_ZERO or expr.args[0].dtype != "int64" or self.lane is None:
            return None
        if self.numbering.loads[self.numbering(expr)] or any(isinstance(e, Ref) for e in unique(expr)):
            return None
        split = linear_in(to_poly(expr.args[0]) - to_poly(expr.args[1]), self.lane.var)
        if split is None or (step := split[0].value) is None or abs(step) > _MAX_STEP:
            return None
        base = self.index(split[1] + split[0] * Poly.atom(Var(self.lane.var)))
        return f"ull_index_sign<{n}>({base}, {step}) {_COMPARE_TO_ZERO[expr.op]} 0"

    # ---- indices ----------------------------------------------------------------------------------------------
    def index(self, poly: Poly) -> str:
        """C++ text of an index (of lane 0), partial sums named in the outermost blocks that know their terms."""
        groups: dict[int, list[str]] = {}
        for monomial, factor in sorted(poly.terms.items(), key=lambda t: [atom_key(a) for a in t[0]]):
            depth = max((self.depth_of(a) for a in monomial), default=0)
            groups.setdefault(depth, []).append(self._product(monomial, factor))
        text = ""
        for depth in sorted(groups):
            total = " + ".join(([text] if text else []) + groups[depth])
            text = total if len(groups) == 1 and len(groups[depth]) == 1 else self.name("ull_i64", total, depth)
        return text or "0"

    def _product(self, monomial: tuple[Expr, ...], factor: int) -> str:
        parts = [self.emit(a, 1) for a in monomial]
        if factor != 1 or not parts:
            parts.append(str(factor))
        return " * ".join(parts)

    def _scalar_index(self, expr: Apply) -> str:
        if any(isinstance(e, Load | Ref) for e in unique(expr)):
            return ops.apply_text(expr.op, expr.dtype, expr.dtype, [self.emit(a, 1) for a in expr.args], 1)
        if expr.op in _QUOTIENTS:
            args = [self.emit(a, 1) for a in expr.args]
            plain = _not_negative(expr.args[0]) and _positive(expr.args[1])
            if plain:
                return f"{args[0]} {_QUOTIENTS[expr.op]} {args[1]}"
            return ops.apply_text(expr.op, "int64", "int64", args, 1)
        return self.index(to_poly(expr))

    def position(self, expr: Expr) -> str:
        """32-bit lanes of an index that moves by a fixed step with the lane."""
        poly, n = to_poly(expr), self.lanes
        if self.lane is None:
            return f"(int)({self.index(poly)})"
        split = linear_in(poly, self.lane.var)
        assert split is not None and split[0].value is not None
        return f"ull_iota<{n}>() * {split[0].value} + ull_splat<{n}>((int)({self.index(poly)}))"

    def pointer(self, buffer: str, poly: Poly) -> str:
        """A C++ pointer to the element at an index, named in the outermost block that knows the index."""
        index = self.index(poly)
        depth = max((self.depth_of(a) for m in poly.terms for a in m), default=0)
        base = self.buffers[buffer]
        return base if index == "0" else self.name("auto", f"{base} + {index}", depth)

    def store(self, buffer: str, index: Expr, value: Expr, mask: Expr | None = None) -> str:
        """The C++ statement that stores a value where the mask holds; the value is computed into the open blocks."""
        if mask is None:
            return store_text(self, buffer, index, value)
        if self.varies(mask):
            return masked_store_text(self, buffer, index, value, mask)
        return f"if ({self.scalar(mask)}) {store_text(self, buffer, index, value)}"
