"""Nested C++ blocks: their lines, what names stand for in them, and how far out a value may be computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from ullage.codegen.loops.ir import Apply, Cast, Const, Dim, Expr, Load, Ref, Var, children
from ullage.codegen.loops.poly import postorder


@dataclass(frozen=True, slots=True)
class Lane:
    """The vectorised variable: lane l of `lanes` has the value `base + l`; only the first `valid` lanes count.

    `slot` is the lane's place among vectors that are worked on together.
    """

    var: str
    base: str
    lanes: int
    valid: str | None = None
    slot: int = 0


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
            for e in postorder(expr):
                self._enter(e)
        return self._by_id[id(expr)][1]

    def _enter(self, expr: Expr) -> None:
        if id(expr) in self._by_id:
            return
        parts = tuple(self._by_id[id(c)][1] for c in children(expr))
        number = self._by_key.setdefault((_shape(expr), *parts), len(self._by_key))
        self._by_id[id(expr)] = (expr, number)
        if number == len(self.names):
            own = frozenset((expr.name,)) if isinstance(expr, Var | Dim | Ref) else frozenset[str]()
            loads = frozenset((expr.buffer,)) if isinstance(expr, Load) else frozenset[str]()
            self.names.append(own.union(*(self.names[p] for p in parts)))
            self.loads.append(loads.union(*(self.loads[p] for p in parts)))


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


class Blocks:
    """A stack of open blocks.

    `changing` names the buffers that the kernel writes: their loads stay where they are. `interleaved` maps local
    buffers that hold one element per lane at each index to the distance of indices. `tiles` maps loads (by number),
    and `stored_tiles` buffers with one store, to C++ pointers at which their lanes are contiguous.
    """

    def __init__(self, changing: frozenset[str], prefix: str) -> None:
        self.changing = changing
        self.interleaved: dict[str, int] = {}
        self.tiles: dict[int, str] = {}
        self.stored_tiles: dict[str, str] = {}
        self.numbering = Numbering()
        self.blocks: list[Block] = []
        self.bindings: dict[str, Binding] = {}
        self._prefix = prefix
        self._counter = 0

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

    def open_scalar(self) -> None:
        """Open a block without header whose values are scalars."""
        self.blocks.append(Block(None))

    def close(self) -> list[str]:
        """Close the innermost block: its lines go into the enclosing one and are returned without header."""
        block = self.blocks.pop()
        for name, previous in reversed(block.names):
            if previous is None:
                del self.bindings[name]
            else:
                self.bindings[name] = previous
        if self.blocks and block.header is not None:
            self.blocks[-1].lines += [f"{block.header} {{".lstrip(), *("    " + line for line in block.lines), "}"]
        return block.lines

    def line(self, text: str) -> None:
        """Append a statement to the innermost block."""
        self.blocks[-1].lines.append(text)

    def bind(self, name: str, text: str, lanes: int = 1) -> None:
        """Let a variable, dimension or reference stand for C++ text until the innermost block closes."""
        self.blocks[-1].names.append((name, self.bindings.get(name)))
        self.bindings[name] = Binding(text, self.depth, lanes)

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
        depth = max((self.bindings[n].depth for n in self.numbering.names[number]), default=0)
        return max(depth, self._load_floor()) if loads else depth

    def _load_floor(self) -> int:
        return max((i for i, b in enumerate(self.blocks) if b.skippable), default=0)

    def varies(self, expr: Expr) -> bool:
        """Whether lanes hold different values of the expression."""
        if self.lane is None:
            return False
        number = self.numbering(expr)
        names = self.numbering.names[number]
        if self.lane.var in names or any(self.bindings[n].lanes > 1 for n in names):
            return True
        return not self.interleaved.keys().isdisjoint(self.numbering.loads[number])
