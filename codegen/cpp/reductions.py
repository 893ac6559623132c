"""Accumulators of reductions and scans: start values, updates, and folding vectors into one value.

A reduction over vector lanes keeps `unroll` vectors; element i goes to vector (i // lanes) % unroll while whole groups
last, then to the first one. They are folded pairwise, and lanes upper half onto lower half. This order depends only on
the kernel and its extents.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ullage.codegen.cpp import ops
from ullage.codegen.cpp.scope import Scope
from ullage.codegen.loops.ir import FLOATS, Expr, Reduce, Scan

_LIMITS = {
    "int64": (-(2**63), 2**63 - 1), "int32": (-(2**31), 2**31 - 1), "int16": (-(2**15), 2**15 - 1),
    "int8": (-128, 127), "uint8": (0, 255), "bool": (False, True),
}  # fmt: skip


def start_value(op: str, dtype: str) -> int | float | bool:
    """The neutral element of a reduction."""
    if op in ("sum", "any"):
        return 0
    if op in ("prod", "all"):
        return 1
    lowest = op in ("max", "argmax")
    if dtype in FLOATS:
        return float("-inf") if lowest else float("inf")
    return _LIMITS[dtype][0 if lowest else 1]


def combine_text(op: str, dtype: str, n: int, a: str, b: str) -> str:
    """One step of a reduction over N lanes."""
    name = {"sum": "add", "prod": "mul", "any": "or", "all": "and"}.get(op, op)
    return ops.apply_text(name, dtype, dtype, [a, b], n)


@dataclass(slots=True)
class Accumulator:
    """The running value of one `Reduce` or `Scan`: `copies` C++ variables of `lanes` lanes each."""

    name: str
    op: str
    dtype: str
    lanes: int
    values: list[str] = field(default_factory=list)
    positions: list[str] = field(default_factory=list)

    @property
    def is_position(self) -> bool:
        """Whether the result is where the extreme is."""
        return self.op in ("argmax", "argmin")

    @staticmethod
    def declare(scope: Scope, statement: Reduce | Scan, lanes: int, copies: int) -> Accumulator:
        """Declare the variables in the innermost block, at their start values."""
        made = Accumulator(statement.name, statement.op, statement.value.dtype, lanes)
        start = ops.splat_text(ops.literal(start_value(made.op, made.dtype), made.dtype), made.dtype, lanes)
        nowhere = ops.splat_text("(int)ULL_NOWHERE", "int32", lanes)
        for _ in range(copies):
            made.values.append(_declare(scope, ops.register_type(made.dtype, lanes), start))
            if made.is_position:
                made.positions.append(_declare(scope, f"ull_i32<{lanes}>", nowhere))
        return made

    def update(self, scope: Scope, copy: int, value: Expr, position: Expr | None, valid: str | None) -> None:
        """Take one more vector; lanes from `valid` on are ignored."""
        text, n, acc = scope.value(value), self.lanes, self.values[copy]
        if self.is_position:
            assert position is not None
            self._update_position(scope, copy, text, position, valid)
            return
        combined = combine_text(self.op, self.dtype, n, acc, text)
        if valid is not None:
            below = scope.name(ops.register_type("bool", n), f"ull_lanes_below<{n}>({valid})")
            combined = f"ull_select<{n}>({below}, {combined}, {acc})"
        scope.line(f"{acc} = {combined};")

    def _update_position(self, scope: Scope, copy: int, text: str, position: Expr, valid: str | None) -> None:
        n, acc, at = self.lanes, self.values[copy], self.positions[copy]
        mask = ops.register_type("bool", n)
        better = f"ull_{'above' if self.op == 'argmax' else 'below'}<{n}>({text}, {acc})"
        if valid is not None:
            better = f"{better} & ull_lanes_below<{n}>({valid})"
        taken = scope.name(mask, better)
        here = scope.name(f"ull_i32<{n}>", scope.position(position))
        scope.line(f"{acc} = ull_select<{n}>({taken}, {text}, {acc});")
        scope.line(f"{at} = ull_select<{n}>({taken}, {here}, {at});")

    def finish(self, scope: Scope, keep_lanes: bool) -> tuple[str, str]:
        """(C++ name, dtype) of the result: all copies folded, and the lanes too unless `keep_lanes`."""
        if self.is_position:
            return self._finish_position(scope, keep_lanes), "int64"
        values, kind = list(self.values), ops.register_type(self.dtype, self.lanes)
        while len(values) > 1:
            half = len(values) // 2
            pairs = zip(values[:half], values[half:], strict=True)
            values = [scope.name(kind, combine_text(self.op, self.dtype, self.lanes, a, b)) for a, b in pairs]
        if keep_lanes or self.lanes == 1:
            return scope.name(kind, values[0]), self.dtype
        folded = ops.wrap_text(f"ull_fold_{self.op}<{self.lanes}>({values[0]})", self.dtype, 1)
        return scope.name(ops.register_type(self.dtype, 1), folded), self.dtype

    def _finish_position(self, scope: Scope, keep_lanes: bool) -> str:
        n = self.lanes
        if keep_lanes or n == 1:
            return scope.name(f"ull_i64v<{n}>", f"ull_position<{n}>({self.positions[0]})")
        for other in range(1, len(self.values)):
            both = f"{self.values[0]}, {self.positions[0]}, {self.values[other]}, {self.positions[other]}"
            scope.line(f"ull_merge_{self.op}<{n}>({both});")
        return scope.name("ull_i64", f"ull_fold_{self.op}<{n}>({self.values[0]}, {self.positions[0]})")


def _declare(scope: Scope, type_text: str, start: str) -> str:
    name = scope.fresh()
    scope.line(f"{type_text} {name} = {start};")
    return name
