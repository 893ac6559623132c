"""Scope: C++ text for expressions inside nested blocks, each sub-expression once and as far out as it may go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ullage.codegen.cpp import ops
from ullage.codegen.loops.ir import Apply, Cast, Const, Dim, Expr, Load, Ref, Var
from ullage.codegen.loops.poly import Poly, atom_key, linear_in, to_expr, to_poly, unique

_COMPARE_TO_ZERO = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_QUOTIENTS = {"floordiv": "/", "truncdiv": "/", "mod": "%"}
_INDEX_OPS = frozenset({"add", "sub", "mul", "neg", *_QUOTIENTS})
_MAX_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class Lane:
    """The vectorised variable: lane l of `lanes` has the value `base + l`; only the first `valid` lanes count."""

    var: str
    base: str
    lanes: int
    valid: str | None = None


@dataclass(slots=True)
class Binding:
    """What a name stands for: C++ text, the block where it is known, and its lanes (1 for a scalar)."""

    text: str
    depth: int
    lanes: int = 1


@dataclass(slots=True)
class Block:
    """One C++ block: its opening line, lines so far, values already named, and whether it may not run at all."""

    header: str | None
    lines: list[str] = field(default_factory=list)
    memo: dict[tuple[object, ...], str] = field(default_factory=dict)
    names: list[tuple[str, Binding | None]] = field(default_factory=list)
    skippable: bool = False
    lane: Lane | None = None


class Numbering:
    """Equal expressions get equal numbers, in time linear in the shared structure."""

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[Expr, int]] = {}
        self._by_key: dict[tuple[object, ...], int] = {}
        self.names: list[frozenset[str]] = []
        self.loads: list[frozenset[str]] = []

    def __call__(self, expr: Expr) -> int:
        """The number of an expression."""
        if id(expr) not in self._by_id:
            for e in reversed(unique(expr)):
                self._visit(e)
        return self._visit(expr)

    def _visit(self, expr: Expr) -> int:
        known = self._by_id.get(id(expr))
        if known is not None:
            return known[1]
        parts = tuple(self._visit(c) for c in _parts(expr))
        number = self._by_key.setdefault((_shape(expr), *parts), len(self._by_key))
        self._by_id[id(expr)] = (expr, number)
        if number == len(self.names):
            own = frozenset((expr.name,)) if isinstance(expr, Var | Dim | Ref) else frozenset[str]()
            loads = frozenset((expr.buffer,)) if isinstance(expr, Load) else frozenset[str]()
            self.names.append(own.union(*(self.names[p] for p in parts)))
            self.loads.append(loads.union(*(self.loads[p] for p in parts)))
        return number


def _parts(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Load(_, index, _, mask, _):
            return (index,) if mask is None else (index, mask)
        case Apply(_, args, _):
            return args
        case Cast(arg, _):
            return (arg,)
        case _:
            return ()


def _shape(expr: Expr) -> tuple[object, ...]:
    match expr:
        case Const(value, dtype):
            return ("const", repr(value), dtype)
        case Load(buffer, _, dtype, mask, other):
            return ("load", buffer, dtype, mask is None, repr(other))
        case Apply(op, _, dtype):
            return ("apply", op, dtype)
        case Cast(_, dtype):
            return ("cast", dtype)
        case Var(name) | Dim(name):
            return ("name", name)
        case Ref(name, dtype):
            return ("ref", name, dtype)


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


class Scope:
    """Emits expressions into a stack of open blocks.

    `buffers` maps buffer names to C++ pointers (to the storage type of the buffer), `changing` names the buffers
    that the kernel writes: their loads stay where they are. `value(expr)` gives N lanes inside a vector block, else a
    scalar.
    """

    def __init__(self, buffers: Mapping[str, str], changing: frozenset[str] = frozenset(), prefix: str = "t") -> None:
        self.buffers = dict(buffers)
        self.changing = changing
        self.numbering = Numbering()
        self.blocks: list[Block] = []
        self._bindings: dict[str, Binding] = {}
        self._prefix = prefix
        self._counter = 0

    # ---- blocks -----------------------------------------------------------------------------------------------
    @property
    def depth(self) -> int:
        """Number of the innermost open block."""
        return len(self.blocks) - 1

    @property
    def lane(self) -> Lane | None:
        """The vectorised variable here, if any."""
        return self.blocks[-1].lane if self.blocks else None

    @property
    def lanes(self) -> int:
        """Lanes of a value here."""
        return self.lane.lanes if self.lane else 1

    def open(self, header: str | None, skippable: bool = False, lane: Lane | None = None) -> None:
        """Open a nested block; a lane given here, or by an enclosing block, makes values vectors.

        With no header the lines are only handed back by `close`.
        """
        self.blocks.append(Block(header, skippable=skippable, lane=lane or self.lane))
        if lane is not None:
            self.bind(lane.var, lane.base)

    def close(self) -> list[str]:
        """Close the innermost block: its lines go into the enclosing one and are returned without header."""
        block = self.blocks.pop()
        for name, previous in reversed(block.names):
            if previous is None:
                del self._bindings[name]
            else:
                self._bindings[name] = previous
        if self.blocks and block.header is not None:
            self.blocks[-1].lines += [f"{block.header} {{".lstrip(), *("    " + line for line in block.lines), "}"]
        return block.lines

    def line(self, text: str) -> None:
        """Append a statement to the innermost block."""
        self.blocks[-1].lines.append(text)

    def bind(self, name: str, text: str, lanes: int = 1) -> None:
        """Let a variable, dimension or reference stand for C++ text until the innermost block closes."""
        self.blocks[-1].names.append((name, self._bindings.get(name)))
        self._bindings[name] = Binding(text, self.depth, lanes)

    def fresh(self) -> str:
        """A new C++ name."""
        self._counter += 1
        return f"{self._prefix}{self._counter}"

    def name(self, type_text: str, text: str, depth: int | None = None) -> str:
        """Declare a constant in a block (the innermost by default), once per block and text."""
        block = self.blocks[self.depth if depth is None else depth]
        key = (type_text, text)
        if key not in block.memo:
            block.memo[key] = self.fresh()
            block.lines.append(f"const {type_text} {block.memo[key]} = {text};")
        return block.memo[key]

    def forget(self, buffer: str) -> None:
        """Drop what was loaded from a buffer that has just been stored to."""
        for block in self.blocks:
            for key in [k for k in block.memo if isinstance(k[0], int) and buffer in self.numbering.loads[k[0]]]:
                del block.memo[key]

    # ---- where things may live --------------------------------------------------------------------------------
    def depth_of(self, expr: Expr) -> int:
        """The outermost block in which the expression may be computed."""
        number = self.numbering(expr)
        loads = self.numbering.loads[number]
        if loads & self.changing:
            return self.depth
        depth = max((self._bindings[n].depth for n in self.numbering.names[number]), default=0)
        return max(depth, self._load_floor()) if loads else depth

    def _load_floor(self) -> int:
        return max((i for i, b in enumerate(self.blocks) if b.skippable), default=0)

    def varies(self, expr: Expr) -> bool:
        """Whether lanes hold different values of the expression."""
        if self.lane is None:
            return False
        names = self.numbering.names[self.numbering(expr)]
        return self.lane.var in names or any(self._bindings[n].lanes > 1 for n in names)

    # ---- expressions ------------------------------------------------------------------------------------------
    def value(self, expr: Expr) -> str:
        """C++ text of the expression: all lanes inside a vector block, else a scalar."""
        return self._emit(expr, self.lanes)

    def scalar(self, expr: Expr) -> str:
        """C++ text of the expression as a scalar (of lane 0 if it varies)."""
        return self._emit(expr, 1)

    def _emit(self, expr: Expr, n: int) -> str:
        if isinstance(expr, Const):
            return ops.constant_text(expr, n)
        if n > 1 and not self.varies(expr):
            return self._splat(expr, n)
        if isinstance(expr, Ref) or (n == 1 and isinstance(expr, Var | Dim)):
            return self._bindings[expr.name].text
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
        return self.name(ops.register_type(expr.dtype, n), ops.splat_text(self._emit(expr, 1), expr.dtype, n), depth)

    def _text(self, expr: Expr, n: int) -> str:
        match expr:
            case Load():
                return self._load(expr, n)
            case Cast(arg, dtype):
                return ops.cast_text(self._emit(arg, n), arg.dtype, dtype, n)
            case Apply(op, args, dtype):
                compared = self._compare_index(expr, n) if n > 1 else None
                if compared is not None:
                    return compared
                if n == 1 and dtype == "int64" and op in _INDEX_OPS:
                    return self._scalar_index(expr)
                return ops.apply_text(op, dtype, args[-1].dtype, [self._emit(a, n) for a in args], n)
            case Var():
                return f"ull_to_i64<{n}>(ull_iota<{n}>()) + ull_splat<{n}>((ull_i64)({self._emit(expr, 1)}))"
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
        parts = [self._emit(a, 1) for a in monomial]
        if factor != 1 or not parts:
            parts.append(str(factor))
        return " * ".join(parts)

    def _scalar_index(self, expr: Apply) -> str:
        if any(isinstance(e, Load | Ref) for e in unique(expr)):
            return ops.apply_text(expr.op, expr.dtype, expr.dtype, [self._emit(a, 1) for a in expr.args], 1)
        if expr.op in _QUOTIENTS:
            args = [self._emit(a, 1) for a in expr.args]
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

    # ---- memory -----------------------------------------------------------------------------------------------
    def _load(self, load: Load, n: int) -> str:
        if n == 1:
            return self._load_scalar(load)
        if load.mask is None:
            return ops.loaded_text(self._load_lanes(load, n, None), load.dtype, n)
        other = ops.splat_text(ops.literal(load.other, load.dtype), load.dtype, n)
        if not self.varies(load.mask):
            loaded = ops.loaded_text(self._load_lanes(load, n, None, lazy=True), load.dtype, n)
            return f"{self._emit(load.mask, 1)} ? {loaded} : {other}"
        mask = self._emit(load.mask, n)
        bits = self.name("unsigned", self._and_valid(f"ull_mask_bits<{n}>({mask})", n))
        loaded = ops.loaded_text(self._load_lanes(load, n, bits), load.dtype, n)
        return f"ull_select<{n}>({mask}, {loaded}, {other})"

    def _load_scalar(self, load: Load) -> str:
        index = self.index(to_poly(load.index))
        text = ops.loaded_text(f"{self.buffers[load.buffer]}[{index}]", load.dtype, 1)
        if load.mask is None:
            return text
        return f"{self._emit(load.mask, 1)} ? {text} : {ops.literal(load.other, load.dtype)}"

    def _and_valid(self, bits: str, n: int) -> str:
        assert self.lane is not None
        return bits if self.lane.valid is None else f"{bits} & ull_low_bits({self.lane.valid})"

    def _load_lanes(self, load: Load, n: int, bits: str | None, lazy: bool = False) -> str:
        assert self.lane is not None
        kind, valid = f"{ops.STORAGE[load.dtype]}, {n}", self.lane.valid
        split = linear_in(to_poly(load.index), self.lane.var)
        if split is None or split[0].value != 1 or self._refs_vary(load.index):
            return self._gather(load, kind, bits)
        at = f"{self.pointer(load.buffer, split[1])} + {self.lane.base}"
        if bits is not None:
            return f"ull_load_bits<{kind}>({at}, {bits})"
        return f"ull_load<{kind}>({at})" if valid is None else f"ull_load_n<{kind}>({at}, {valid})"

    def _refs_vary(self, expr: Expr) -> bool:
        return any(isinstance(e, Ref) and self._bindings[e.name].lanes > 1 for e in unique(expr))

    def _gather(self, load: Load, kind: str, bits: str | None) -> str:
        assert self.lane is not None
        at = self._index_of_lane(load.index)
        base = self.buffers[load.buffer]
        if bits is None and self.lane.valid is not None:
            bits = f"ull_low_bits({self.lane.valid})"
        return f"ull_gather_all<{kind}>({base}, {at})" if bits is None else f"ull_gather<{kind}>({base}, {bits}, {at})"

    def _index_of_lane(self, index: Expr) -> str:
        """A C++ lambda from the lane number to the index of that lane."""
        assert self.lane is not None
        split = linear_in(to_poly(index), self.lane.var)
        if split is not None and not self._refs_vary(index):
            base, step = self.index(split[1]), self.index(split[0])
            return f"[&](ull_i64 l) {{ return {base} + ({self.lane.base} + l) * ({step}); }}"
        lane = self.lane
        self.blocks.append(Block(None))
        self.bind(lane.var, f"({lane.base} + l)")
        for ref in {e.name: e for e in unique(index) if isinstance(e, Ref)}.values():
            if (bound := self._bindings[ref.name]).lanes > 1:
                self.bind(ref.name, f"{bound.text}[l]")
        result = self._emit(to_expr(to_poly(index)), 1)
        lines = self.close()
        return f"[&](ull_i64 l) {{ {' '.join(lines)} return {result}; }}"

    def store(self, buffer: str, index: Expr, value: Expr) -> str:
        """The C++ statement that stores a value; the value is computed into the open blocks."""
        dtype, n = value.dtype, self.lanes
        kind = f"{ops.STORAGE[dtype]}, {n}"
        if isinstance(value, Cast) and dtype in ops.HALVES and ops.register_class(value.arg.dtype) == "f32":
            value = value.arg
        stored = self.name(f"ull_v<{kind}>", ops.stored_text(self.value(value), dtype, n))
        if self.lane is None or n == 1:
            return f"{self.buffers[buffer]}[{self.index(to_poly(index))}] = {stored};"
        valid = self.lane.valid
        split = linear_in(to_poly(index), self.lane.var)
        if split is None or split[0].value != 1 or self._refs_vary(index):
            at = self._index_of_lane(index)
            if valid is None:
                return f"ull_scatter_all<{kind}>({self.buffers[buffer]}, {stored}, {at});"
            return f"ull_scatter<{kind}>({self.buffers[buffer]}, {stored}, ull_low_bits({valid}), {at});"
        to = f"{self.pointer(buffer, split[1])} + {self.lane.base}"
        return f"ull_store<{kind}>({to}, {stored});" if valid is None else f"ull_store_n<{kind}>({to}, {stored}, {valid});"
