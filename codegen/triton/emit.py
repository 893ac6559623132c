"""Loop kernels as Triton text: one program per block of outer points, stages in order, each in blocks of its points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import ullage.codegen.triton.ops as ops
from ullage.codegen.loops.ir import (
    DTYPE_BYTES,
    Apply,
    Cast,
    Const,
    Load,
    Loop,
    LoopKernel,
    Reduce,
    Scan,
    Sort,
    Stage,
    Store,
)
from ullage.codegen.loops.normal import normalise, scatters
from ullage.codegen.loops.poly import to_poly, unique
from ullage.codegen.loops.sizes import to_size
from ullage.codegen.loops.traverse import expressions
from ullage.codegen.triton.blocks import Blocks, block_loops, choose_blocks, points
from ullage.codegen.triton.printer import Axes, Printer
from ullage.codegen.triton.reduce import Reduction, Running, combine_function
from ullage.errors import UnsupportedOperator
from ullage.plan.sizes import Size

_X: Axes = frozenset({"x"})
_R: Axes = frozenset({"r"})
_SMALL = 2**31
_SYMBOL = "ULLAGE_KERNEL"


@dataclass(frozen=True, slots=True)
class Scratch:
    """Global memory that a launch needs besides its buffers: `elements` of a dtype, for a local buffer."""

    name: str
    dtype: str
    elements: Size

    @property
    def bytes(self) -> Size:
        """Bytes of the scratch."""
        return self.elements * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class TritonKernel:
    """One Triton function and how to launch it.

    Arguments in order: a pointer per buffer of `buffers`, a pointer per `scratch`, an int64 per dimension of `dims`;
    then the constexprs. `programs` is the launch grid (one dimension). `source` is a whole module; equal kernels have
    equal symbols.
    """

    symbol: str
    source: str
    buffers: tuple[str, ...]
    dtypes: tuple[str, ...]
    scratch: tuple[Scratch, ...]
    dims: tuple[str, ...]
    programs: Size
    constexprs: Mapping[str, int]
    warps: int

    @property
    def signature(self) -> dict[str, str]:
        """Triton types of the arguments by name."""
        pointers = {f"b{i}": f"*{ops.POINTER_TYPES[dtype]}" for i, dtype in enumerate(self.dtypes)}
        pointers |= {f"s{i}": f"*{ops.POINTER_TYPES[s.dtype]}" for i, s in enumerate(self.scratch)}
        return {**pointers, **{f"n{i}": "i64" for i in range(len(self.dims))}}


def emit_triton(kernel: LoopKernel, blocks: Blocks | None = None) -> TritonKernel:
    """The Triton form of a loop kernel; `blocks` overrides the chosen block sizes.

    Sums are kept per lane and folded at the end, in an order that only the block sizes fix. Raises UnsupportedOperator
    naming every operator that Triton lacks.
    """
    _refuse_unsupported(kernel)
    kernel = normalise(kernel)
    return _Emitter(kernel, blocks or choose_blocks(kernel)).emit()


def _refuse_unsupported(kernel: LoopKernel) -> None:
    missing: dict[str, list[str]] = {}
    for stage in kernel.stages:
        for e in (e for s in stage.body for root in expressions(s) for e in unique(root)):
            if isinstance(e, Apply) and ops.template(e.op, e.args[-1].dtype) is None:
                missing.setdefault(f"{e.op} on {e.args[-1].dtype}", ["triton"])
        for s in stage.body:
            if isinstance(s, Sort):
                missing.setdefault(f"sort over {s.value.dtype}", ["triton"])
            if isinstance(s, Reduce | Scan) and combine_function(s.op, s.value.dtype) is None:
                missing.setdefault(f"{s.op} over {s.value.dtype}", ["triton"])
    if missing:
        raise UnsupportedOperator(missing)


class _Emitter:
    def __init__(self, kernel: LoopKernel, blocks: Blocks) -> None:
        self.kernel = kernel
        self.blocks = blocks
        self.flat = not blocks.r
        self.shared = tuple(b for b in kernel.buffers if b.access != "local")
        self.local = tuple(b for b in kernel.buffers if b.access == "local")
        pointers = {b.name: f"b{i}" for i, b in enumerate(self.shared)}
        written = frozenset(s.buffer for stage in kernel.stages for s in stage.body if isinstance(s, Store))
        self.printer = Printer(pointers, written)
        self.stored: set[str] = set()

    def emit(self) -> TritonKernel:
        """The finished kernel."""
        p = self.printer
        p.open("")
        for i, name in enumerate(self.kernel.dims):
            p.bind(name, f"n{i}")
        self._outer()
        stages = iter(range(len(self.blocks.r)))
        for stage in self.kernel.stages:
            self._stage(stage, f"R{next(stages)}" if stage.loops else "")
        return self._finish(p.close())

    def _finish(self, body: list[str]) -> TritonKernel:
        constexprs = {"X": self.blocks.x, **{f"R{i}": r for i, r in enumerate(self.blocks.r)}}
        arguments = [f"b{i}" for i in range(len(self.shared))] + [f"s{i}" for i in range(len(self.local))]
        arguments += [f"n{i}" for i in range(len(self.kernel.dims))] + [f"{c}: tl.constexpr" for c in constexprs]
        head = ["@triton.jit", f"def {_SYMBOL}({', '.join(arguments)}):"]
        function = "\n".join([*head, *("    " + x for x in body), ""])
        parts = ["import triton", "import triton.language as tl", "from triton.language.extra import libdevice", ""]
        text = "\n".join([*parts, "", ops.helper_source(function), "", function])
        symbol = f"k_{blake2b((text + repr((constexprs, self.blocks.warps))).encode(), digest_size=12).hexdigest()}"
        outer = self._outer_count()
        scratch = tuple(Scratch(b.name, b.dtype, to_size(b.elements or Const(1)) * outer) for b in self.local)
        return TritonKernel(
            symbol=symbol,
            source=text.replace(_SYMBOL, symbol),
            buffers=tuple(b.name for b in self.shared),
            dtypes=tuple(b.dtype for b in self.shared),
            scratch=scratch,
            dims=self.kernel.dims,
            programs=outer.ceil_div(self.blocks.x),
            constexprs=constexprs,
            warps=self.blocks.warps,
        )

    def _outer_count(self) -> Size:
        total = Size((1,))
        for loop in self.kernel.outer:
            total = total * to_size(loop.extent)
        return total

    # ---- points -----------------------------------------------------------------------------------------------
    def _outer(self) -> None:
        """Declare the block of outer points, its mask and variables, and this program's part of local buffers."""
        p = self.printer
        side = "" if self.flat else "[:, None]"
        p.line(f"x = (tl.program_id(0).to(tl.int64) * X + tl.arange(0, X)){side}")
        p.line(f"xmask = x < {self._total(self.kernel.outer)}")
        p.masks["x"] = "xmask"
        self._decompose("x", self.kernel.outer, _X)
        for i, buffer in enumerate(self.local):
            count = p.value(buffer.elements or Const(1)).text
            p.line(f"local{i} = s{i} + x * {count}")
            p.buffers[buffer.name], p.pointer_axes[buffer.name] = f"local{i}", _X

    def _total(self, loops: tuple[Loop, ...]) -> str:
        count = points(loops)
        if count is not None:
            return str(count)
        return " * ".join(f"({self.printer.value(loop.extent).text})" for loop in loops)

    def _decompose(self, flat: str, loops: tuple[Loop, ...], axes: Axes) -> None:
        """Bind the loops' variables to the digits of a row-major number (in 32 bits where all are known to fit)."""
        p = self.printer
        if len(loops) == 1:
            p.bind(loops[0].var, flat, axes)
            return
        count = points(loops)
        small = count is not None and count < _SMALL
        rest = f"{flat}.to(tl.int32)" if small else flat
        for i, loop in reversed(list(enumerate(loops))):
            digit = p.name(rest if i == 0 else f"{rest} % {self._extent(loop)}", axes, p.depth, object()).text
            p.bind(loop.var, f"{digit}.to(tl.int64)" if small else digit, axes)
            if i:
                rest = p.name(f"{rest} // {self._extent(loop)}", axes, p.depth, object()).text

    def _extent(self, loop: Loop) -> str:
        value = to_poly(loop.extent).value
        return str(value) if value is not None else self.printer.value(loop.extent).text

    # ---- stages -----------------------------------------------------------------------------------------------
    def _stage(self, stage: Stage, block: str) -> None:
        if self._loaded(stage) & self.stored:
            self.printer.line("tl.debug_barrier()")
        if not stage.loops:
            return self._single(stage)
        reductions = [Reduction(s, block, self.printer) for s in stage.body if isinstance(s, Reduce)]
        self._loops(stage, block, reductions)
        for reduction in reductions:
            reduction.finish()

    def _single(self, stage: Stage) -> None:
        """A body that runs once per outer point; a reduction of one value is that value."""
        p = self.printer
        for s in stage.body:
            match s:
                case Store():
                    self._store(s, "(X,)" if self.flat else "(X, 1)")
                case Reduce(name, "argmax" | "argmin", _):
                    p.bind(name, p.value(Const(0)).text)
                case Reduce(name, op, value):
                    given = p.value(value)
                    bit = op in ("any", "all") and value.dtype != "bool"
                    p.bind(name, f"({given.text} != 0)" if bit else given.text, given.axes)

    def _loaded(self, stage: Stage) -> set[str]:
        roots = (root for s in stage.body for root in expressions(s))
        return {e.buffer for root in roots for e in unique(root) if isinstance(e, Load)}

    def _loops(self, stage: Stage, block: str, reductions: list[Reduction]) -> None:
        """Blocks of the stage's points; a scan walks its leading loops one by one and carries along the last."""
        p, inner = self.printer, block_loops(stage)
        lead = stage.loops[: -len(inner)]
        if lead:
            p.open(f"for {block}_lead in range(0, {self._total(lead)}):")
            p.line(f"{block}_line = {block}_lead + tl.zeros((), tl.int64)")
            self._decompose(f"{block}_line", lead, frozenset())
        scans = [Running(s, p) for s in stage.body if isinstance(s, Scan)]
        total, step = self._total(inner), "1" if _chained(stage) else block
        p.open(f"for {block}_first in range(0, {total}, {step}):")
        p.line(f"{block}_at = ({block}_first + tl.arange(0, {step}).to(tl.int64))[None, :]")
        p.line(f"{block}_mask = {block}_at < {total}")
        p.masks["r"] = f"{block}_mask"
        self._decompose(f"{block}_at", inner, _R)
        self._body(stage, f"(X, {step})", reductions, scans, step)
        del p.masks["r"]
        p.close()
        if lead:
            p.close()
        else:
            for scan in scans:
                scan.keep()

    def _body(self, stage: Stage, shape: str, reductions: list[Reduction], scans: list[Running], width: str) -> None:
        reducing, scanning = iter(reductions), iter(scans)
        for s in stage.body:
            match s:
                case Store():
                    self._store(s, shape)
                case Reduce():
                    next(reducing).step(shape)
                case Scan():
                    next(scanning).step(shape, width)
        if _chained(stage):
            self.printer.line("tl.debug_barrier()")

    def _store(self, s: Store, shape: str) -> None:
        p = self.printer
        value = s.value
        half = value.dtype in ops.HALVES
        if half and isinstance(value, Cast) and ops.held_text(value.arg.dtype) == "tl.float32":
            value = value.arg
        text, index = p.value(value).text, p.value(s.index).text
        text = f"tl.broadcast_to({text}, {shape})"
        if half:
            text = ops.halved(text, s.value.dtype)
        own = [] if s.mask is None else [f"tl.broadcast_to({p.value(s.mask).text}, {shape})"]
        mask = " & ".join([p.masks[a] for a in sorted(p.masks)] + own)
        p.line(f"tl.store({p.buffers[s.buffer]} + tl.broadcast_to({index}, {shape}), {text}, mask={mask})")
        self.stored.add(s.buffer)
        p.forget_loads()


def _chained(stage: Stage) -> bool:
    """Whether an iteration may read what another iteration of the stage stored, or store to the same place."""
    if scatters(stage):
        return True
    stored = {s.buffer: s.index for s in stage.body if isinstance(s, Store)}
    loads = (e for s in stage.body for root in expressions(s) for e in unique(root) if isinstance(e, Load))
    return any(e.buffer in stored and e.index != stored[e.buffer] for e in loads)
