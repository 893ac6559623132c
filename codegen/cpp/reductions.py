"""Accumulators of reductions and scans: start values, updates, and folding vectors into one value.

Where a reduction runs over vector lanes, element i is added to lane i % lanes of vector (i // lanes) % copies, with
lanes · copies a constant of the target; vectors are folded pairwise, and lanes upper half onto lower half, which makes
the sum a tree over i modulo that constant. Otherwise elements are added one after the other. Either way an accumulator
of floats takes about `SUM_STEPS` additions, counted over all loops of the stage; longer sums are a `Cascade` of such
blocks, so that rounding errors grow with the logarithm of the length. None of this depends on anything outside the
stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ullage.codegen.cpp import ops
from ullage.codegen.cpp.scope import Scope
from ullage.codegen.loops.ir import FLOATS, Expr, Reduce, Scan

SUM_STEPS = 16
"""Additions to one accumulator of floats before its sum goes to a cascade."""
_LIMITS = {
    "int64": (-(2**63), 2**63 - 1), "int32": (-(2**31), 2**31 - 1), "int16": (-(2**15), 2**15 - 1),
    "int8": (-128, 127), "uint8": (0, 255), "bool": (False, True),
    "uint64": (0, 2**64 - 1), "uint32": (0, 2**32 - 1), "uint16": (0, 2**16 - 1),
}  # fmt: skip


def start_value(op: str, dtype: str) -> int | float | bool:
    """The neutral element of a reduction."""
    if op in ("sum", "any", "linear"):
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


@dataclass(frozen=True, slots=True)
class Accumulator:
    """The running value of one `Reduce` or `Scan`: C++ variables of `lanes` lanes each, with positions for argmax."""

    name: str
    op: str
    dtype: str
    lanes: int
    values: tuple[str, ...] = field(default=())
    positions: tuple[str, ...] = field(default=())

    @property
    def copies(self) -> int:
        """How many vectors there are."""
        return len(self.values)

    @property
    def is_position(self) -> bool:
        """Whether the result is where the extreme is."""
        return self.op in ("argmax", "argmin")

    @property
    def type_text(self) -> str:
        """The C++ type of one vector."""
        return ops.register_type(self.dtype, self.lanes)

    @staticmethod
    def declare(scope: Scope, statement: Reduce | Scan, lanes: int, copies: int) -> Accumulator:
        """Declare the variables in the innermost block, at their start values."""
        return Accumulator(statement.name, statement.op, statement.value.dtype, lanes).again(scope, copies)

    def again(self, scope: Scope, count: int) -> Accumulator:
        """The same accumulator with new variables at their start values."""
        start = ops.literal(start_value(self.op, self.dtype), self.dtype)
        values = _declare(scope, self.type_text, ops.splat_text(start, self.dtype, self.lanes), count)
        if not self.is_position:
            return replace(self, values=values)
        nowhere = ops.splat_text("(int)ULL_NOWHERE", "int32", self.lanes)
        return replace(self, values=values, positions=_declare(scope, f"ull_i32<{self.lanes}>", nowhere, count))

    # ---- arrays -----------------------------------------------------------------------------------------------
    def as_array(self, scope: Scope) -> Accumulator:
        """C++ arrays with the present values."""
        values = (_array(scope, self.type_text, self.values),)
        positions = (_array(scope, f"ull_i32<{self.lanes}>", self.positions),) if self.is_position else ()
        return replace(self, values=values, positions=positions)

    def at(self, slot: str) -> Accumulator:
        """One element of arrays as the only vector."""
        return replace(
            self,
            values=tuple(f"{v}[{slot}]" for v in self.values),
            positions=tuple(f"{p}[{slot}]" for p in self.positions),
        )

    def assign(self, scope: Scope, array: Accumulator) -> None:
        """Take the values back out of arrays."""
        for i, mine in enumerate(self.values):
            scope.line(f"{mine} = {array.values[0]}[{i}];")
        for i, mine in enumerate(self.positions):
            scope.line(f"{mine} = {array.positions[0]}[{i}];")

    def copy(self, number: int) -> Accumulator:
        """One of the vectors as the only one."""
        return replace(self, values=self.values[number : number + 1], positions=self.positions[number : number + 1])

    # ---- values -----------------------------------------------------------------------------------------------
    def update(self, scope: Scope, copy: int, value: Expr, position: Expr | None, valid: str | None) -> None:
        """Take one more vector; lanes from `valid` on are ignored."""
        text, n, acc = scope.value(value), self.lanes, self.values[copy]
        if position is not None:
            self._update_position(scope, copy, text, position, valid)
            return
        combined = combine_text(self.op, self.dtype, n, acc, text)
        if valid is not None:
            below = scope.name(ops.register_type("bool", n), f"ull_lanes_below<{n}>({valid})")
            combined = f"ull_select<{n}>({below}, {combined}, {acc})"
        scope.line(f"{acc} = {combined};")

    def advance(self, scope: Scope, copy: int, factor: Expr, value: Expr) -> None:
        """One step of a linear recurrence."""
        texts, acc = [scope.value(factor), scope.value(value)], self.values[copy]
        product = ops.apply_text("mul", self.dtype, self.dtype, [texts[0], acc], self.lanes)
        scope.line(f"{acc} = {ops.apply_text('add', self.dtype, self.dtype, [product, texts[1]], self.lanes)};")

    def _update_position(self, scope: Scope, copy: int, text: str, position: Expr, valid: str | None) -> None:
        n, acc, at = self.lanes, self.values[copy], self.positions[copy]
        better = f"ull_{'above' if self.op == 'argmax' else 'below'}<{n}>({text}, {acc})"
        if valid is not None:
            better = f"{better} & ull_lanes_below<{n}>({valid})"
        taken = scope.name(ops.register_type("bool", n), better)
        here = scope.name(f"ull_i32<{n}>", scope.position(position))
        scope.line(f"{acc} = ull_select<{n}>({taken}, {text}, {acc});")
        scope.line(f"{at} = ull_select<{n}>({taken}, {here}, {at});")

    def finish(self, scope: Scope, keep_lanes: bool) -> str:
        """C++ name of the result: all vectors folded, and the lanes too unless `keep_lanes`."""
        if self.is_position:
            return self._finish_position(scope, keep_lanes)
        values = list(self.values)
        while len(values) > 1:
            half = len(values) // 2
            pairs = zip(values[:half], values[half:], strict=True)
            values = [scope.name(self.type_text, combine_text(self.op, self.dtype, self.lanes, a, b)) for a, b in pairs]
        if keep_lanes or self.lanes == 1:
            return scope.name(self.type_text, values[0])
        folded = ops.wrap_text(f"ull_fold_{self.op}<{self.lanes}>({values[0]})", self.dtype, 1)
        return scope.name(ops.register_type(self.dtype, 1), folded)

    def _finish_position(self, scope: Scope, keep_lanes: bool) -> str:
        n = self.lanes
        if keep_lanes or n == 1:
            return scope.name(f"ull_i64v<{n}>", f"ull_position<{n}>({self.positions[0]})")
        for other in range(1, self.copies):
            both = f"{self.values[0]}, {self.positions[0]}, {self.values[other]}, {self.positions[other]}"
            scope.line(f"ull_merge_{self.op}<{n}>({both});")
        return scope.name("ull_i64", f"ull_fold_{self.op}<{n}>({self.values[0]}, {self.positions[0]})")


@dataclass(frozen=True, slots=True)
class Cascade:
    """A long sum of floats: blocks add up in an accumulator each and are then added level by level (`ull_cascade`).

    `sums` are the C++ names: one for all `copies` vectors of a block, folded first, or one for each if they are apart.
    """

    block: Accumulator
    copies: int
    sums: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the sum is bound to."""
        return self.block.name

    @staticmethod
    def declare(scope: Scope, statement: Reduce, lanes: int, copies: int, folds: bool) -> Cascade:
        """Declare empty sums in the innermost block, a single one if the copies are folded."""
        block = Accumulator(statement.name, statement.op, statement.value.dtype, lanes)
        sums = tuple(scope.fresh() for _ in range(1 if folds else copies))
        for name in sums:
            scope.line(f"ull_cascade<{block.type_text}> {name};")
        return Cascade(block, copies, sums)

    def start(self, scope: Scope) -> Accumulator:
        """The accumulator of a new block."""
        return self.block.again(scope, self.copies)

    def absorb(self, scope: Scope, block: Accumulator) -> None:
        """Add the sum of a block."""
        parts = [block] if len(self.sums) == 1 else [block.copy(i) for i in range(self.copies)]
        for name, part in zip(self.sums, parts, strict=True):
            scope.line(f"{name}.add({part.finish(scope, keep_lanes=True)});")

    def copy(self, number: int) -> Cascade:
        """One of the sums that are apart as the only one."""
        return replace(self, copies=1, sums=self.sums[number : number + 1])

    def finish(self, scope: Scope, keep_lanes: bool) -> str:
        """C++ name of the result: all levels added, and the lanes too unless `keep_lanes`."""
        total = ops.rounded_text(f"{self.sums[0]}.total()", self.block.dtype, self.block.lanes)
        return replace(self.block, values=(total,)).finish(scope, keep_lanes)


def is_float_sum(statement: Reduce | Scan) -> bool:
    """Whether rounding errors of many small terms add up."""
    return statement.op == "sum" and statement.value.dtype in FLOATS


def _declare(scope: Scope, type_text: str, start: str, count: int) -> tuple[str, ...]:
    names = tuple(scope.fresh() for _ in range(count))
    for name in names:
        scope.line(f"{type_text} {name} = {start};")
    return names


def _array(scope: Scope, type_text: str, values: Sequence[str]) -> str:
    name = scope.fresh()
    scope.line(f"{type_text} {name}[{len(values)}] = {{{', '.join(values)}}};")
    return name
