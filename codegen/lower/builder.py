"""The builder of one kernel: evaluates the nodes of a group lazily and collects buffers, stages and local rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch.fx import Node

from ullage.codegen.loops.ir import (
    Buffer,
    Expr,
    Load,
    Loop,
    Reduce,
    ReduceOp,
    Ref,
    Scan,
    Stage,
    Statement,
    Store,
    walk,
)
from ullage.codegen.lower.index import ONE, ZERO, IndexMath
from ullage.codegen.lower.shapes import Index, Shape, contiguous_strides, numel
from ullage.codegen.lower.values import Lazy, NotFusable, View, cast, compute_dtype

Lowering = Callable[["Builder", Node], Lazy]
Resolver = Callable[[Node], View | None]


@dataclass(frozen=True, slots=True)
class Operand:
    """What a kernel buffer is bound to: a storage or constant, at an element offset."""

    storage: str
    dtype: str
    offset: Expr


class Builder:
    """Lowers the members of one group.

    `resolve` gives the memory of a node outside the group (None for a view that must be read through its index map);
    `table` gives the lowering of an operator. `row_index` holds the outer loop variables by row dimension.
    """

    def __init__(
        self, members: Sequence[Node], resolve: Resolver, table: Callable[[Node], Lowering], dim_max: Mapping[str, int]
    ) -> None:
        self.math = IndexMath({}, dim_max)
        self.members = frozenset(members)
        self.resolve = resolve
        self.table = table
        self.buffers: list[Buffer] = []
        self.operands: list[Operand] = []
        self.stages: list[Stage] = []
        self.row_shape: Shape | None = None
        self.row_index: Index = ()
        self.space: tuple[Shape, Index] | None = None
        self.space_loops: tuple[Loop, ...] = ()
        self._values: dict[Node, Lazy] = {}
        self._names = 0

    def value(self, node: Node) -> Lazy:
        """The node's value as a function of its index."""
        if node not in self._values:
            self._values[node] = self._lower(node)
        return self._values[node]

    def _lower(self, node: Node) -> Lazy:
        if node not in self.members:
            view = self.resolve(node)
            if view is not None:
                return self.read(view)
        return self.table(node)(self, node)

    def read(self, view: View) -> Lazy:
        """Loads from a view."""
        name = self.bind(view, "r")

        def at(index: Index) -> Expr:
            return cast(Load(name, self.math.dot(index, view.strides), view.dtype), compute_dtype(view.dtype))

        return Lazy(view.shape, view.dtype, at)

    def bind(self, view: View, access: str) -> str:
        """The buffer name for a view's storage and offset (one buffer for equal ones; reading and writing may meet)."""
        operand = Operand(view.storage, view.dtype, view.offset)
        if operand in self.operands:
            position = self.operands.index(operand)
            old = self.buffers[position]
            if old.access != access:
                self.buffers[position] = Buffer(old.name, old.dtype, "rw")
            return old.name
        self.operands.append(operand)
        self.buffers.append(Buffer(f"b{len(self.buffers)}", view.dtype, "w" if access == "w" else "r"))
        return self.buffers[-1].name

    def bind_constant(self, name: str, storage: str, dtype: str) -> None:
        """A read-only buffer with a given name, bound to a packed constant."""
        self.operands.append(Operand(storage, dtype, ZERO))
        self.buffers.append(Buffer(name, dtype, "r"))

    def define(self, node: Node, value: Lazy) -> None:
        """Give a member's value directly (the result of a template)."""
        self._values[node] = value

    def store(self, view: View, index: Index, value: Expr) -> Store:
        """A store of a computed value to a view."""
        name = self.bind(view, "w")
        return Store(name, self.math.dot(index, view.strides), cast(value, view.dtype))

    def fresh(self, prefix: str) -> str:
        """A name not used before in this kernel."""
        self._names += 1
        return f"{prefix}{self._names}"

    def set_rows(self, shape: Shape) -> Index:
        """Declare the outer space (or check that it is this one); returns the outer variables as an index."""
        if self.row_shape is None:
            self.row_shape = shape
            self.row_index = tuple(ZERO if n == ONE else self.math.declare(f"i{d}", n) for d, n in enumerate(shape))
            return self.row_index
        if self._squeeze(shape) != self._squeeze(self.row_shape):
            raise NotFusable(f"rows differ: {shape} and {self.row_shape}")
        variables = iter(i for i, n in zip(self.row_index, self.row_shape, strict=True) if n != ONE)
        return tuple(ZERO if n == ONE else next(variables) for n in shape)

    @staticmethod
    def _squeeze(shape: Shape) -> Shape:
        return tuple(n for n in shape if n != ONE)

    def reduce_space(self, shape: Shape, dims: Sequence[int]) -> tuple[Index, tuple[Loop, ...]]:
        """Make `shape` the iteration space with `dims` reduced: the index of a point, and the loops of a stage."""
        inner = [d for d in range(len(shape)) if d in dims and shape[d] != ONE]
        rows = self.set_rows(tuple(n for d, n in enumerate(shape) if d not in dims))
        loops = tuple(Loop(f"r{d}", shape[d]) for d in inner)
        for loop in loops:
            known = self.math.extents.get(loop.var)
            if known is not None and known != loop.extent:
                raise NotFusable("reductions run over different extents")
            self.math.declare(loop.var, loop.extent)
        outer = iter(rows)
        index = tuple(
            (self.math.declare(f"r{d}", shape[d]) if d in inner else ZERO) if d in dims else next(outer)
            for d in range(len(shape))
        )
        if self.space is None:
            self.space, self.space_loops = (shape, index), loops
        elif self.space != (shape, index):
            raise NotFusable("reductions run over different spaces")
        return index, loops

    def reduce(
        self, op: ReduceOp, value: Expr, loops: tuple[Loop, ...], dtype: str, extra: Sequence[Store] = ()
    ) -> Ref:
        """Append a reduction over `loops` (merged with the stage before where that is legal); `dtype` of the result."""
        name = self.fresh("t")
        self.append(loops, (Reduce(name, op, value), *extra))
        return Ref(name, dtype)

    def append(self, loops: tuple[Loop, ...], body: tuple[Statement, ...]) -> None:
        """Append statements; they join the stage before if it has the same loops and they read none of its results."""
        if self.stages and self.stages[-1].loops == loops and not self._depends(body, self.stages[-1].body):
            self.stages[-1] = Stage(loops, self.stages[-1].body + body)
        else:
            self.stages.append(Stage(loops, body))

    @staticmethod
    def _depends(body: tuple[Statement, ...], earlier: tuple[Statement, ...]) -> bool:
        names = {s.name for s in earlier if isinstance(s, Reduce | Scan)}
        stored = {s.buffer for s in earlier if isinstance(s, Store)}
        parts = [e for s in body for e in walk(s.value)]
        return any(
            (isinstance(e, Ref) and e.name in names) or (isinstance(e, Load) and e.buffer in stored) for e in parts
        ) or any(isinstance(s, Scan) for s in earlier)

    def local(self, dtype: str, shape: Shape) -> tuple[str, Shape]:
        """A scratch row of one outer point: its buffer name and strides."""
        name = self.fresh("row")
        self.buffers.append(Buffer(name, dtype, "local", numel(shape)))
        self.operands.append(Operand("", dtype, ZERO))
        return name, contiguous_strides(shape)

    def at_row(self, shape: Shape, ref: Ref) -> Lazy:
        """A reduced value as a tensor of the row shape; reading another row's value is not fusable."""
        expected = self.set_rows(shape)

        def at(index: Index) -> Expr:
            if tuple(index) != expected:
                raise NotFusable("a reduced value is read at another row")
            return ref

        return Lazy(shape, ref.dtype, at)
