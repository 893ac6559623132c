"""Reductions and scans in Triton: partial results carried over the blocks of a stage."""

from __future__ import annotations

import ullage.codegen.triton.ops as ops
from ullage.codegen.loops.ir import FLOATS, Expr, Reduce, Scan
from ullage.codegen.triton.printer import Printer

_RANGES = {
    "int64": (-(2**63), 2**63 - 1), "int32": (-(2**31), 2**31 - 1), "int16": (-(2**15), 2**15 - 1),
    "int8": (-128, 127), "uint8": (0, 255), "bool": (0, 1),
    "uint64": (0, 2**64 - 1), "uint32": (0, 2**32 - 1), "uint16": (0, 2**16 - 1),
}  # fmt: skip
_POSITIONAL = frozenset({"argmax", "argmin"})
_LAST = str(2**63 - 1)


def combine_function(op: str, dtype: str) -> str | None:
    """The device function that joins two partial results, or None if a dtype cannot be combined so."""
    if op in ("any", "all"):
        return {"any": "ull_max", "all": "ull_min"}[op]
    return None if dtype == "bool" and op in ("sum", "prod", "linear") else f"ull_{op}"


def identity_text(op: str, dtype: str) -> str:
    """What changes no result of the operator, as a literal."""
    if op in ("sum", "any", "linear"):
        return "0"
    if op in ("prod", "all"):
        return "1"
    low = op in ("max", "argmax")
    if dtype in FLOATS:
        return f'float("{"-inf" if low else "inf"}")'
    return str(_RANGES[dtype][0 if low else 1])


class Reduction:
    """One reduction of a stage: per-lane results over its blocks, folded across lanes at its end.

    `block` names the stage's block size. `any`, `all` and bool extremes are kept as int32.
    """

    def __init__(self, statement: Reduce, block: str, printer: Printer) -> None:
        dtype, op = statement.value.dtype, statement.op
        self.statement, self.block, self.printer = statement, block, printer
        self.function = combine_function(op, dtype)
        self.positional = op in _POSITIONAL
        self.as_bool = op in ("any", "all") or (dtype == "bool" and not self.positional)
        self.type = "tl.int32" if dtype == "bool" or self.as_bool else ops.held_text(dtype)
        self.lanes, self.at = printer.fresh("lanes"), printer.fresh("lanes_at")
        neutral, shape = identity_text(op, dtype), f"(X, {block})"
        printer.line(f"{self.lanes} = tl.full({shape}, {neutral}, {self.type})")
        if self.positional:
            printer.line(f"{self.at} = tl.full({shape}, {_LAST}, tl.int64)")

    def step(self, shape: str) -> None:
        """Join one block of values."""
        p, mask = self.printer, self.printer.masks["r"]
        value = f"tl.broadcast_to({p.value(self.statement.value).text}, {shape}).to({self.type})"
        if not self.positional:
            p.line(f"{self.lanes} = tl.where({mask}, {self.function}({self.lanes}, {value}), {self.lanes})")
            return
        best, best_at = p.fresh("best"), p.fresh("best_at")
        at = f"tl.broadcast_to({self.block}_at, {shape})"
        p.line(f"{best}, {best_at} = {self.function}({self.lanes}, {self.at}, {value}, {at})")
        p.line(f"{self.lanes} = tl.where({mask}, {best}, {self.lanes})")
        p.line(f"{self.at} = tl.where({mask}, {best_at}, {self.at})")

    def finish(self) -> None:
        """Fold the lanes and bind the result."""
        p, result = self.printer, self.printer.fresh("result")
        if self.positional:
            both = f"({self.lanes}, {self.at})"
            p.line(f"{p.fresh('best')}, {result} = tl.reduce({both}, 1, {self.function}, keep_dims=True)")
        else:
            end = " != 0" if self.as_bool else ""
            p.line(f"{result} = tl.reduce({self.lanes}, 1, {self.function}, keep_dims=True){end}")
        p.bind(self.statement.name, result, frozenset({"x"}))


class Running:
    """One scan of a stage: running values of each block, joined with what the blocks before left."""

    def __init__(self, statement: Scan, printer: Printer) -> None:
        self.statement, self.printer = statement, printer
        self.function = combine_function(statement.op, statement.value.dtype)
        self.neutral = identity_text(statement.op, statement.value.dtype)
        self.carry, self.type = printer.fresh("carry"), ops.held_text(statement.value.dtype)
        if statement.initial is None:
            printer.line(f"{self.carry} = tl.full((X, 1), {self.neutral}, {self.type})")
        else:
            printer.line(f"{self.carry} = tl.broadcast_to({printer.value(statement.initial).text}, (X, 1))")

    def step(self, shape: str, width: str) -> None:
        """Scan one block and keep its last value (found by a masked sum, which is exact)."""
        p, run = self.printer, self.printer.fresh("run")
        given = self._given(self.statement.value, shape, self.neutral)
        if self.statement.factor is None:
            p.line(f"{run} = {self.function}({self.carry}, tl.associative_scan({given}, 1, {self.function}))")
        else:
            factor, product = self._given(self.statement.factor, shape, "1"), p.fresh("product")
            p.line(f"{product}, {run} = tl.associative_scan(({factor}, {given}), 1, {self.function})")
            p.line(f"{run} = {product} * {self.carry} + {run}")
        last = f"tl.where(tl.arange(0, {width})[None, :] == {width} - 1, {run}, 0)"
        p.line(f"{self.carry} = tl.sum({last}, 1, keep_dims=True).to({self.type})")
        p.bind(self.statement.name, run, frozenset({"x", "r"}))

    def keep(self) -> None:
        """Let the name stand for the last value from here on."""
        self.printer.bind(self.statement.name, self.carry, frozenset({"x"}))

    def _given(self, expr: Expr, shape: str, neutral: str) -> str:
        """A block of values, neutral ones behind the end."""
        p = self.printer
        value = f"tl.broadcast_to({p.value(expr).text}, {shape})"
        return f"tl.where({p.masks['r']}, {value}, {neutral}).to({self.type})"
