"""Random legal kernels: affine accesses in any layout, masks, gathers, reductions, scans, all dtypes."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np

from tests.codegen.cpp.loop_runner import Case, filled
from ullage.codegen.loops.ir import (
    FLOATS,
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
    Stage,
    Statement,
    Store,
    Var,
)

EXTENTS = (1, 2, 3, 5, 7, 8, 15, 16, 17, 33, 64, 70)
DTYPES = ("float32", "float32", "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
SMOOTH = ("tanh", "sigmoid", "sin", "cos", "abs", "neg", "exp", "floor", "round", "erf", "expm1")
INTEGER = ("add", "sub", "mul", "max", "min", "and", "or", "xor", "floordiv", "mod", "truncdiv")


def op(name: str, *args: Expr) -> Apply:
    """An operator with its dtype."""
    bool_result = name in ("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf")
    return Apply(name, args, "bool" if bool_result else args[-1].dtype)


class Maker:
    """Makes one case; all choices come from `random`."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.rng = np.random.default_rng(random.getrandbits(32))
        self.buffers: list[Buffer] = []
        self.counts: dict[str, int] = {}
        self.dims: dict[str, int] = {}
        self.extent: dict[str, tuple[Expr, int]] = {}
        self.number = itertools.count()

    def case(self) -> Case:
        """A kernel with filled buffers."""
        outer = self._loops(self.random.randint(0, 3), 4000)
        stages = self._stages(outer)
        kernel = LoopKernel(tuple(self.buffers), tuple(self.dims), tuple(outer), tuple(stages))
        arrays = {b.name: filled(b.dtype, self.counts[b.name], self.rng) for b in self.buffers if b.access != "local"}
        for b in self.buffers:
            if b.name.startswith("ids"):
                arrays[b.name] = self.rng.integers(0, 5, self.counts[b.name]).astype(np.int64)
        return Case(kernel, arrays, self.dims)

    # ---- loops ------------------------------------------------------------------------------------------------
    def _loops(self, count: int, limit: int) -> list[Loop]:
        loops = []
        for _ in range(count):
            extent = self.random.choice([e for e in EXTENTS if e <= max(1, limit)])
            limit //= extent
            name = f"v{next(self.number)}"
            expr: Expr = Const(extent)
            if self.random.random() < 0.3:
                dim = f"D{len(self.dims)}"
                self.dims[dim] = extent
                expr = Dim(dim)
            self.extent[name] = (expr, extent)
            loops.append(Loop(name, expr))
        return loops

    def _stages(self, outer: list[Loop]) -> list[Stage]:
        refs: list[Ref] = []
        stages = []
        for _ in range(self.random.randint(0, 2)):
            loops = self._loops(self.random.randint(0, 2), 300)
            body, made = self._reduce_body(outer, loops, refs)
            refs += made
            stages.append(Stage(tuple(loops), tuple(body)))
        loops = self._loops(self.random.randint(0, 2), 300)
        body = self._store_body(outer, loops, refs)
        stages.append(Stage(tuple(loops), tuple(body)))
        return stages

    # ---- bodies -----------------------------------------------------------------------------------------------
    def _reduce_body(self, outer: list[Loop], loops: list[Loop], refs: list[Ref]) -> tuple[list[Statement], list[Ref]]:
        body: list[Statement] = []
        made: list[Ref] = []
        for _ in range(self.random.randint(1, 2)):
            dtype = self.random.choice(("float32", "float32", "float64", "int64", "int32"))
            name = f"r{next(self.number)}"
            kind = self.random.choice(("sum", "max", "min", "argmax", "argmin", "any", "all", "sum"))
            value = self._value(dtype, outer, loops, refs, 2)
            if kind in ("any", "all"):
                body.append(Reduce(name, kind, op("lt", value, Const(1, dtype))))  # type: ignore[arg-type]
                made.append(Ref(name, "bool"))
                continue
            if kind == "sum" and dtype in FLOATS:
                value = op("mul", value, Const(0.125, dtype))
            if kind.startswith("arg"):
                value = self._load(dtype, outer, loops)
            body.append(Reduce(name, kind, value))  # type: ignore[arg-type]
            made.append(Ref(name, "int64" if kind.startswith("arg") else dtype))
        return body, made

    def _store_body(self, outer: list[Loop], loops: list[Loop], refs: list[Ref]) -> list[Statement]:
        body: list[Statement] = []
        scans: list[Ref] = []
        if loops and self.random.random() < 0.2:
            dtype = self.random.choice(("float32", "int64"))
            name = f"r{next(self.number)}"
            value = self._value(dtype, outer, loops, refs, 1)
            kind = self.random.choice(("sum", "max")) if dtype == "int64" else "max"
            body.append(Scan(name, kind, value))  # type: ignore[arg-type]
            scans.append(Ref(name, dtype))
        for _ in range(self.random.randint(1, 2)):
            dtype = self.random.choice((*DTYPES, "bool"))
            value = self._value(dtype, outer, loops, [*refs, *scans], 3)
            body.append(Store(*self._place("w", dtype, outer + loops, broadcast=False), value))
        return body

    # ---- accesses ---------------------------------------------------------------------------------------------
    def _place(self, access: str, dtype: str, loops: list[Loop], broadcast: bool) -> tuple[str, Expr]:
        """A new buffer, laid out over the loops in random order (some left out if `broadcast`)."""
        chosen = [x for x in loops if not broadcast or self.random.random() < 0.8]
        if self.random.random() < 0.4:
            self.random.shuffle(chosen)
        index: Expr = Const(0)
        stride: Expr = Const(self.random.choice((1, 1, 1, 2)))
        total = stride.value  # type: ignore[union-attr]
        for loop in reversed(chosen):
            index = op("add", op("mul", Var(loop.var), stride), index)
            expr, extent = self.extent[loop.var]
            stride, total = op("mul", stride, expr), total * extent
        name = f"b{next(self.number)}"
        self.buffers.append(Buffer(name, dtype, access))  # type: ignore[arg-type]
        self.counts[name] = int(total)
        return name, index

    def _load(self, dtype: str, outer: list[Loop], loops: list[Loop]) -> Expr:
        loads = [x for x in outer + loops]
        name, index = self._place("r", dtype, loads, broadcast=True)
        draw = self.random.random()
        if draw < 0.15 and loads:
            return self._shifted(name, index, dtype, self.random.choice(loads))
        if draw < 0.25 and loads:
            return self._gathered(name, dtype, loads)
        return Load(name, index, dtype)

    def _shifted(self, name: str, index: Expr, dtype: str, loop: Loop) -> Expr:
        """A load with a border on one variable: outside the value is 1."""
        shifted = op("sub", Var(loop.var), Const(1))
        mask = op("and", op("ge", shifted, Const(0)), op("lt", shifted, op("sub", loop.extent, Const(1))))
        return Load(name, index, dtype, mask, 1)

    def _gathered(self, name: str, dtype: str, loops: list[Loop]) -> Expr:
        """A row of five picked by an index tensor."""
        ids = f"ids{next(self.number)}"
        _, at = self._place("r", "int64", loops, broadcast=True)
        self.counts[ids] = self.counts.pop(self.buffers[-1].name)
        self.buffers[-1] = Buffer(ids, "int64", "r")
        row = Load(ids, at, "int64")
        loop = self.random.choice(loops)
        expr, extent = self.extent[loop.var]
        self.counts[name] = 5 * extent
        return Load(name, op("add", op("mul", row, expr), Var(loop.var)), dtype)

    # ---- values -----------------------------------------------------------------------------------------------
    def _value(self, dtype: str, outer: list[Loop], loops: list[Loop], refs: list[Ref], depth: int) -> Expr:
        def again(kind: str = dtype) -> Expr:
            return self._value(kind, outer, loops, refs, depth - 1)

        draw = self.random.random()
        fitting = [r for r in refs if r.dtype == dtype]
        if fitting and draw < 0.4:
            return self.random.choice(fitting)
        if depth == 0 or draw < 0.15:
            return self._load(dtype, outer, loops)
        if draw < 0.22 and (outer or loops):
            return Cast(op("mul", Var(self.random.choice(outer + loops).var), Const(1)), dtype)
        if draw < 0.35:
            source = self.random.choice([*DTYPES, "bool"])
            return Cast(again(source), dtype) if _safe(source, dtype) else again()
        if draw < 0.5:
            kind = self.random.choice(("float32", "int64", "int32"))
            condition = op(self.random.choice(("lt", "ge", "eq")), self._load(kind, outer, loops), Const(1, kind))
            return op("where", condition, again(), again())
        return self._operator(dtype, again)

    def _operator(self, dtype: str, again) -> Expr:  # type: ignore[no-untyped-def]
        if dtype == "bool":
            return op(self.random.choice(("and", "or", "xor")), again(), again())
        if dtype in FLOATS:
            if self.random.random() < 0.4:
                return op(self.random.choice(SMOOTH), op("mul", again(), Const(0.25, dtype)))
            return op(self.random.choice(("add", "sub", "mul", "max", "min")), again(), again())
        name = self.random.choice(INTEGER)
        return op(name, again(), again())


def _safe(source: str, dtype: str) -> bool:
    """Whether the conversion has one meaning for all values that occur."""
    return not (source in FLOATS and dtype not in FLOATS)


def random_case(random: Random) -> Case:
    """One random case."""
    return Maker(random).case()
