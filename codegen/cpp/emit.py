"""C++ text of a loop kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from ullage.codegen.cpp import ops
from ullage.codegen.cpp.blocks import Lane
from ullage.codegen.cpp.schedule import TILE, Schedule, schedule
from ullage.codegen.cpp.scope import Scope
from ullage.codegen.cpp.sorting import SORT_HEADER
from ullage.codegen.cpp.stages import stage_inside, stages_along
from ullage.codegen.cpp.tasks import Tasks, tasks
from ullage.codegen.cpp.tiles import TILE_HEADER, walk_tile
from ullage.codegen.cpp.vector_loops import known_extent, lane_loop
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import (
    DTYPE_BYTES,
    Apply,
    Const,
    Dim,
    Expr,
    Loop,
    LoopKernel,
    Stage,
)
from ullage.codegen.loops.normal import normalise, sorts
from ullage.codegen.loops.poly import rewrite
from ullage.codegen.loops.sizes import to_size
from ullage.codegen.loops.traverse import map_kernel, written
from ullage.codegen.loops.verify import verify
from ullage.plan.sizes import Size
from ullage.target import Target

HEADERS = ("simd.h", "math.h")
_SYMBOL = "ULLAGE_KERNEL"
_LINE = 64


def emit(kernel: LoopKernel, target: Target) -> Kernel:
    """The C++ function of a kernel for a CPU target, with its task count and workspace; raises InputError."""
    verify(kernel)
    plain = normalise(_numbered(kernel))
    plan = schedule(plain, target)
    text, cut = _Emitter(plain, plan).text()
    symbol = "k_" + blake2b(text.encode(), digest_size=10).hexdigest()
    dims = {f"n{i}": name for i, name in enumerate(kernel.dims)}
    return Kernel(
        symbol=symbol,
        source=text.replace(_SYMBOL, symbol),
        headers=_headers(plan),
        buffers=tuple(b.name for b in kernel.buffers if b.access != "local"),
        dims=kernel.dims,
        tasks=_renamed(to_size(cut.count), dims),
        thread_bytes=_renamed(_local_bytes(plain, _points_together(plan)), dims),
    )


def _headers(plan: Schedule) -> tuple[str, ...]:
    """What the text includes; no header, no time to compile it."""
    tile = () if plan.tile is None else (TILE_HEADER,)
    return (*HEADERS, *tile, *((SORT_HEADER,) if any(sorts(p.stage) for p in plan.stages) else ()))


@dataclass(frozen=True, slots=True)
class RowFunction:
    """A loop kernel as the C++ function `name(const UllageArgs *args, ull_i64 first, ull_i64 last)` over outer points.

    If it walks channels, points are those of all outer loops but the last, and `ull_i64 low, ull_i64 high` follow: the
    range of the last. `args` holds the kernel's own buffers and dimensions, and `thread_bytes` of workspace.
    """

    text: str
    thread_bytes: Size


def walks_channels(kernel: LoopKernel, target: Target) -> bool:
    """Whether the last outer loop of a kernel in normal form becomes vectors, and the others are walked in order."""
    plan = schedule(kernel, target)
    return len(kernel.outer) > 1 and plan.lane is kernel.outer[-1] and plan.tile is None


def walks_points(kernel: LoopKernel, target: Target) -> bool:
    """Whether the outer points of a kernel in normal form are walked one by one, in order, by code for a target."""
    return schedule(kernel, target).lane is None


def emit_rows(kernel: LoopKernel, target: Target, name: str) -> RowFunction:
    """The function of a kernel in normal form that walks points one by one, or channels; raises InputError."""
    verify(kernel)
    plain = _numbered(kernel)
    plan = schedule(plain, target)
    dims = {f"n{i}": name for i, name in enumerate(kernel.dims)}
    return RowFunction(_Emitter(plain, plan).function(name), _renamed(_local_bytes(plain, 1), dims))


def _renamed(size: Size, names: dict[str, str]) -> Size:
    return Size(tuple(names.get(t, t) if isinstance(t, str) else t for t in size.tokens))


def _numbered(kernel: LoopKernel) -> LoopKernel:
    """Dimensions named by number, so that equal kernels have equal text (loops are numbered by `normalise`)."""
    dims = {name: Dim(f"n{i}") for i, name in enumerate(kernel.dims)}

    def expr(e: Expr) -> Expr:
        return rewrite(e, lambda x: dims[x.name] if isinstance(x, Dim) else x)

    def loops(items: Sequence[Loop]) -> tuple[Loop, ...]:
        return tuple(Loop(x.var, expr(x.extent)) for x in items)

    buffers = tuple(b if b.elements is None else replace(b, elements=expr(b.elements)) for b in kernel.buffers)
    named = map_kernel(kernel, expr)
    stages = tuple(Stage(loops(s.loops), s.body) for s in named.stages)
    return LoopKernel(buffers, tuple(d.name for d in dims.values()), loops(kernel.outer), stages)


def _points_together(plan: Schedule) -> int:
    """Outer points that one thread works on at a time, each with its own local buffers."""
    return 1 if plan.lane is None else plan.lanes * plan.unroll


def _local_bytes(kernel: LoopKernel, points: int) -> Size:
    total = Size((0,))
    for b in kernel.buffers:
        if b.access == "local" and b.elements is not None:
            total = total + (to_size(b.elements) * (points * DTYPE_BYTES[b.dtype])).align(_LINE)
    return total


class _Emitter:
    """One emission: the kernel, its schedule, and the scope that text goes into."""

    def __init__(self, kernel: LoopKernel, plan: Schedule) -> None:
        changing = frozenset(name for stage in kernel.stages for s in stage.body for name in written(s))
        self.kernel = kernel
        self.plan = plan
        self.scope = Scope({b.name: f"p{i}" for i, b in enumerate(kernel.buffers)}, changing)
        self.tile_span = ("0", "0")
        self.together = _points_together(plan)
        if plan.lane is not None:
            self.scope.interleaved = {b.name: self.together for b in kernel.buffers if b.access == "local"}

    def text(self) -> tuple[str, Tasks]:
        """The function, and how its outer space is cut."""
        cut = tasks(self.plan)
        self.scope.open(None)
        self._prelude()
        self._tasks(cut)
        body = "".join(f"    {line}\n" for line in self.scope.close())
        head = f'extern "C" void {_SYMBOL}(const UllageArgs *args, ull_i64 begin, ull_i64 end)'
        return f"{head} {{\n{body}}}\n", cut

    def function(self, name: str) -> str:
        """The function `name` over a range of outer points, and of lanes if there are any."""
        lanes = self.plan.lane is not None
        low, high = ("low", "high") if lanes else ("0L", "1")
        self.scope.open(None)
        self._prelude()
        self._points("first", "last", lambda: self._row(low, high, whole=not lanes))
        body = "".join(f"    {line}\n" for line in self.scope.close())
        parameters = "const UllageArgs *args, ull_i64 first, ull_i64 last" + ", ull_i64 low, ull_i64 high" * lanes
        return f"static __attribute__((noinline)) void {name}({parameters}) {{\n{body}}}\n"

    def _prelude(self) -> None:
        scope = self.scope
        for i, name in enumerate(self.kernel.dims):
            scope.line(f"const ull_i64 {name} = args->n[{i}];")
            scope.bind(name, name)
        argument = 0
        offset: Expr = Const(0)
        for b in self.kernel.buffers:
            kind, name = ops.STORAGE[b.dtype], scope.buffers[b.name]
            const = "const " if b.access == "r" else ""
            if b.access == "local":
                at = scope.scalar(offset)
                scope.line(f"{kind} *const {name} = ({kind} *)((char *)args->thread + {at});")
                offset = _after(offset, b.elements or Const(0), self.together * DTYPE_BYTES[b.dtype])
            else:
                scope.line(f"{const}{kind} *const {name} = ({const}{kind} *)args->p[{argument}];")
                argument += 1

    # ---- outer space ------------------------------------------------------------------------------------------
    def _tasks(self, cut: Tasks) -> None:
        scope = self.scope
        blocks = scope.scalar(cut.blocks)
        lane = self.plan.lane
        extent = scope.scalar(lane.extent) if lane else "1"
        rows, per_task = scope.scalar(cut.rows), scope.scalar(cut.rows_per_task)
        block = None if cut.block is None else scope.scalar(cut.block)
        scope.open("for (ull_i64 task = begin; task < end; ++task)")
        group = "task" if blocks == "1L" else scope.name("ull_i64", f"task / {blocks}")
        low, high = "0L", extent
        if block is not None:
            low = scope.name("ull_i64", f"(task - {group} * {blocks}) * {block}")
            high = scope.name("ull_i64", f"{low} + {block} < {extent} ? {low} + {block} : {extent}")
        if blocks == "1L" and block is None:
            group = "task"
        self._rows(rows, per_task, group, lambda: self._row(low, high, block is None))
        scope.close()

    def _rows(self, rows: str, per_task: str, group: str, body: Callable[[], None]) -> None:
        scope = self.scope
        if not self.plan.rows and self.plan.tile is None:
            body()
            return
        first = scope.name("ull_i64", f"{group} * {per_task}")
        last = scope.name("ull_i64", f"{first} + {per_task} < {rows} ? {first} + {per_task} : {rows}")
        self._points(first, last, body)

    def _points(self, first: str, last: str, body: Callable[[], None]) -> None:
        scope, row = self.scope, self.scope.fresh()
        scope.open(f"for (ull_i64 {row} = {first}; {row} < {last}; ++{row})")
        self._decode(row)
        body()
        scope.close()

    def _decode(self, row: str) -> None:
        """Bind the row loops' variables from the row number."""
        scope = self.scope
        rest = row
        if self.plan.tile is not None:
            rest = self._decode_tile(row)
        for loop in reversed(self.plan.rows[1:]):
            extent = scope.scalar(loop.extent)
            high = scope.name("ull_i64", f"{rest} / {extent}")
            scope.bind(loop.var, scope.name("ull_i64", f"{rest} - {high} * {extent}"))
            rest = high
        if self.plan.rows:
            scope.bind(self.plan.rows[0].var, rest)

    def _decode_tile(self, row: str) -> str:
        """The last part of the row number is the block of the tile loop; gives the rest."""
        scope, tile = self.scope, self.plan.tile
        assert tile is not None
        extent = scope.scalar(tile.extent)
        blocks = scope.name("ull_i64", f"({extent} + {TILE - 1}) / {TILE}")
        rest = scope.name("ull_i64", f"{row} / {blocks}")
        first = scope.name("ull_i64", f"({row} - {rest} * {blocks}) * {TILE}")
        last = scope.name("ull_i64", f"{first} + {TILE} < {extent} ? {first} + {TILE} : {extent}")
        self.tile_span = (first, last)
        return rest

    def _row(self, low: str, high: str, whole: bool) -> None:
        lane, plan = self.plan.lane, self.plan
        if lane is None:
            for stage in plan.stages:
                stage_inside(self.scope, stage)
            return
        count = known_extent(lane) if whole else None
        lane_loop(self.scope, lane, (low, high, count), plan.lanes, plan.unroll, self._along)

    def _along(self, lanes: Sequence[Lane]) -> None:
        tile = self.plan.tile
        if tile is None:
            stages_along(self.scope, self.plan.stages, lanes)
            return
        walk_tile(self.scope, self.plan.stages, tile, self.tile_span, lanes[0])


def _after(offset: Expr, elements: Expr, item_bytes: int) -> Expr:
    """The offset behind a local buffer, aligned to cache lines."""
    size = Apply("mul", (elements, Const(item_bytes)), "int64")
    lines = Apply("truncdiv", (Apply("add", (size, Const(_LINE - 1)), "int64"), Const(_LINE)), "int64")
    return Apply("add", (offset, Apply("mul", (lines, Const(_LINE)), "int64")), "int64")
