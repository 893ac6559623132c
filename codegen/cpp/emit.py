"""C++ text of a loop kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b

from ullage.codegen.cpp import ops
from ullage.codegen.cpp.blocks import Lane
from ullage.codegen.cpp.reductions import Accumulator
from ullage.codegen.cpp.schedule import Schedule, StagePlan, Tasks, schedule, tasks
from ullage.codegen.cpp.scope import Scope
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import (
    DTYPE_BYTES,
    Apply,
    Const,
    Dim,
    Expr,
    Load,
    Loop,
    LoopKernel,
    Reduce,
    Scan,
    Stage,
    Store,
    Var,
)
from ullage.codegen.loops.normal import normalise, reduces
from ullage.codegen.loops.poly import rewrite, to_poly, unique
from ullage.codegen.loops.sizes import to_size
from ullage.codegen.loops.traverse import expressions, map_kernel
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
    text, cut = _Emitter(plain, schedule(plain, target)).text()
    symbol = "k_" + blake2b(text.encode(), digest_size=10).hexdigest()
    dims = {f"n{i}": name for i, name in enumerate(kernel.dims)}
    return Kernel(
        symbol=symbol,
        source=text.replace(_SYMBOL, symbol),
        headers=HEADERS,
        buffers=tuple(b.name for b in kernel.buffers if b.access != "local"),
        dims=kernel.dims,
        tasks=_renamed(to_size(cut.count), dims),
        thread_bytes=_renamed(_local_bytes(plain), dims),
    )


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


def _local_bytes(kernel: LoopKernel) -> Size:
    total = Size((0,))
    for b in kernel.buffers:
        if b.access == "local" and b.elements is not None:
            total = total + (to_size(b.elements) * DTYPE_BYTES[b.dtype]).align(_LINE)
    return total


class _Emitter:
    """One emission: the kernel, its schedule, and the scope that text goes into."""

    def __init__(self, kernel: LoopKernel, plan: Schedule) -> None:
        changing = frozenset(s.buffer for st in kernel.stages for s in st.body if isinstance(s, Store))
        self.kernel = kernel
        self.plan = plan
        self.scope = Scope({b.name: f"p{i}" for i, b in enumerate(kernel.buffers)}, changing)

    def text(self) -> tuple[str, Tasks]:
        """The function, and how its outer space is cut."""
        cut = tasks(self.plan)
        self.scope.open(None)
        self._prelude()
        self._tasks(cut)
        body = "".join(f"    {line}\n" for line in self.scope.close())
        head = f'extern "C" void {_SYMBOL}(const UllageArgs *args, ull_i64 begin, ull_i64 end)'
        return f"{head} {{\n{body}}}\n", cut

    def _prelude(self) -> None:
        scope = self.scope
        for i, name in enumerate(self.kernel.dims):
            scope.line(f"const ull_i64 {name} = args->n[{i}];")
            scope.bind(name, name)
        argument, offset = 0, Const(0)
        for b in self.kernel.buffers:
            kind, name = ops.STORAGE[b.dtype], scope.buffers[b.name]
            const = "const " if b.access == "r" else ""
            if b.access == "local":
                at = scope.scalar(offset)
                scope.line(f"{kind} *const {name} = ({kind} *)((char *)args->thread + {at});")
                offset = _after(offset, b.elements or Const(0), DTYPE_BYTES[b.dtype])
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
        if not self.plan.rows:
            body()
            return
        first = scope.name("ull_i64", f"{group} * {per_task}")
        last = scope.name("ull_i64", f"{first} + {per_task} < {rows} ? {first} + {per_task} : {rows}")
        row = scope.fresh()
        scope.open(f"for (ull_i64 {row} = {first}; {row} < {last}; ++{row})")
        self._decode(row)
        body()
        scope.close()

    def _decode(self, row: str) -> None:
        """Bind the row loops' variables from the row number."""
        scope = self.scope
        rest = row
        for loop in reversed(self.plan.rows[1:]):
            extent = scope.scalar(loop.extent)
            high = scope.name("ull_i64", f"{rest} / {extent}")
            scope.bind(loop.var, scope.name("ull_i64", f"{rest} - {high} * {extent}"))
            rest = high
        scope.bind(self.plan.rows[0].var, rest)

    def _row(self, low: str, high: str, whole: bool) -> None:
        lane = self.plan.lane
        if lane is None:
            for stage in self.plan.stages:
                self._stage_inside(stage)
            return
        count = to_poly(lane.extent).value if whole else None
        _lane_loop(self.scope, lane.var, low, high, count, self.plan.lanes, self.plan.unroll, self._stages_along)

    # ---- vectors along an outer loop --------------------------------------------------------------------------
    def _stages_along(self, lanes: list[Lane]) -> None:
        scope = self.scope
        refs: list[dict[str, str]] = [{} for _ in lanes]
        single = len(lanes) == 1
        if single:
            scope.open("", lane=lanes[0])
        for plan in self.plan.stages:
            self._stage_along(plan, lanes, refs, single)
            if single:
                for name, text in refs[0].items():
                    scope.bind(name, text, lanes[0].lanes)
        if single:
            scope.close()

    def _stage_along(self, plan: StagePlan, lanes: list[Lane], refs: list[dict[str, str]], single: bool) -> None:
        scope = self.scope
        n = lanes[0].lanes
        accs = [Accumulator.declare(scope, s, n, len(lanes)) for s in reduces(plan.stage)]
        with _Loops(scope, plan, n, len(lanes)) as loops:
            for copy, lane in enumerate(lanes):
                if not single:
                    scope.open("", lane=lane)
                    for name, text in refs[copy].items():
                        scope.bind(name, text, n)
                self._body(plan, accs, loops.scans, copy, None)
                if not single:
                    scope.close()
        for acc in accs:
            for copy in range(len(lanes)):
                one = Accumulator(acc.name, acc.op, acc.dtype, n, [acc.values[copy]], acc.positions[copy : copy + 1])
                refs[copy][acc.name] = one.finish(scope, keep_lanes=True)[0]

    # ---- vectors inside the stages ----------------------------------------------------------------------------
    def _stage_inside(self, plan: StagePlan) -> None:
        scope = self.scope
        accs = [Accumulator.declare(scope, s, plan.lanes, plan.unroll) for s in reduces(plan.stage)]
        if plan.lanes == 1:
            scope.open("")
            with _Loops(scope, plan, 1, 1) as loops:
                self._body(plan, accs, loops.scans, 0, None)
            scope.close()
        else:
            self._vector_stage(plan, accs)
        for acc in accs:
            scope.bind(acc.name, acc.finish(scope, keep_lanes=False)[0])

    def _vector_stage(self, plan: StagePlan, accs: list[Accumulator]) -> None:
        scope, last = self.scope, plan.loops[-1]
        for loop in plan.loops[:-1]:
            _open_loop(scope, loop)

        def body(lanes: list[Lane]) -> None:
            for copy, lane in enumerate(lanes):
                scope.open("", lane=lane)
                self._body(plan, accs, {}, copy, lane.valid)
                scope.close()

        end = scope.scalar(last.extent)
        count = to_poly(last.extent).value
        _lane_loop(scope, last.var, "0L", end, count, plan.lanes, plan.unroll, body)
        for _ in plan.loops[:-1]:
            scope.close()

    # ---- bodies -----------------------------------------------------------------------------------------------
    def _body(
        self,
        plan: StagePlan,
        accs: list[Accumulator],
        scans: dict[str, Accumulator],
        copy: int,
        valid: str | None,
    ) -> None:
        """The statements of a stage; stores wait until the end, or until one of their buffers is read."""
        scope = self.scope
        by_name = {acc.name: acc for acc in accs}
        pending: dict[str, list[str]] = {}
        for s in plan.stage.body:
            if pending and _reads(s, pending):
                _flush(scope, pending)
            match s:
                case Store(buffer, index, value):
                    statement = scope.store(buffer, index, value)
                    pending.setdefault(buffer, []).append(statement)
                case Reduce(name, _, value):
                    position = _position(plan.loops) if by_name[name].is_position else None
                    by_name[name].update(scope, copy, value, position, valid)
                case Scan(name, _, value):
                    scan = scans[name]
                    scan.update(scope, copy, value, None, None)
                    kind = ops.register_type(scan.dtype, scan.lanes)
                    scope.bind(name, scope.name(kind, scan.values[copy]), scan.lanes)
        _flush(scope, pending)


def _reads(statement: object, pending: dict[str, list[str]]) -> bool:
    assert isinstance(statement, Store | Reduce | Scan)
    loads = (e.buffer for root in expressions(statement) for e in unique(root) if isinstance(e, Load))
    return any(b in pending for b in loads)


def _flush(scope: Scope, pending: dict[str, list[str]]) -> None:
    for buffer, statements in pending.items():
        for statement in statements:
            scope.line(statement)
        scope.forget(buffer)
    pending.clear()


def _position(loops: Sequence[Loop]) -> Expr:
    """Row-major position over the loops of a stage."""
    position: Expr = Const(0)
    for loop in loops:
        scaled = Apply("mul", (position, loop.extent), "int64")
        position = Apply("add", (scaled, Var(loop.var)), "int64")
    return position


def _after(offset: Expr, elements: Expr, item_bytes: int) -> Expr:
    """The offset behind a local buffer, aligned to cache lines."""
    size = Apply("mul", (elements, Const(item_bytes)), "int64")
    lines = Apply("truncdiv", (Apply("add", (size, Const(_LINE - 1)), "int64"), Const(_LINE)), "int64")
    return Apply("add", (offset, Apply("mul", (lines, Const(_LINE)), "int64")), "int64")


def _always_runs(loop: Loop) -> bool:
    """Whether the extent is at least 1 by its form."""
    poly = to_poly(loop.extent)
    return bool(poly.terms) and all(c > 0 and all(isinstance(a, Dim) for a in m) for m, c in poly.terms.items())


def _open_loop(scope: Scope, loop: Loop) -> None:
    end, name = scope.scalar(loop.extent), scope.fresh()
    scope.open(f"for (ull_i64 {name} = 0; {name} < {end}; ++{name})", skippable=not _always_runs(loop))
    scope.bind(loop.var, name)


class _Loops:
    """Context of a stage's plain loops; accumulators of its scans start before the last loop."""

    def __init__(self, scope: Scope, plan: StagePlan, lanes: int, copies: int) -> None:
        self.scope, self.plan, self.lanes, self.copies = scope, plan, lanes, copies
        self.scans: dict[str, Accumulator] = {}

    def __enter__(self) -> _Loops:
        for i, loop in enumerate(self.plan.loops):
            if i == len(self.plan.loops) - 1:
                self._declare_scans()
            _open_loop(self.scope, loop)
        return self

    def __exit__(self, *_: object) -> None:
        for _loop in self.plan.loops:
            self.scope.close()

    def _declare_scans(self) -> None:
        for s in self.plan.stage.body:
            if isinstance(s, Scan):
                self.scans[s.name] = Accumulator.declare(self.scope, s, self.lanes, self.copies)


def _lane_loop(
    scope: Scope,
    var: str,
    begin: str,
    end: str,
    count: int | None,
    lanes: int,
    unroll: int,
    body: Callable[[list[Lane]], None],
) -> None:
    """Loops over whole groups of vectors, whole vectors, and the rest; `count` is the extent where it is known."""
    at, group = scope.fresh(), lanes * unroll
    scope.line(f"ull_i64 {at} = {begin};")
    if unroll > 1 and (count is None or count >= group):
        scope.open(f"for (; {at} + {group} <= {end}; {at} += {group})")
        body([Lane(var, at if i == 0 else f"({at} + {i * lanes})", lanes) for i in range(unroll)])
        scope.close()
    if count is None or count % group >= lanes or (unroll == 1 and count >= lanes):
        scope.open(f"for (; {at} + {lanes} <= {end}; {at} += {lanes})")
        body([Lane(var, at, lanes)])
        scope.close()
    if count is None or count % lanes:
        scope.open(f"if ({at} < {end})")
        body([Lane(var, at, lanes, scope.name("ull_i64", f"{end} - {at}"))])
        scope.close()
