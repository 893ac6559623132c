"""Epilogues of tiles: loops over rows of sums in memory or, where they are light, stores out of the registers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ullage.codegen.cpp.exprs import emit_epilogue
from ullage.codegen.cpp.templates.tile import TileSet, TileShape, tile_body
from ullage.codegen.cpp.templates.tile_kernel import SYMBOL, Names, indent
from ullage.codegen.loops.ir import Apply, Store
from ullage.codegen.loops.poly import unique
from ullage.codegen.tiling import Tiling
from ullage.target import Target

_LIGHT_OPS = frozenset(
    {"add", "sub", "mul", "div", "max", "min", "neg", "abs", "where", "eq", "ne", "lt", "le", "gt", "ge"}
)
LIGHT_NODES = 12
_LONG_NODES = 32
_FUSED_PARAMETERS = "const UllageArgs *args, ull_i64 batch, ull_i64 m, ull_i64 n_begin, ull_i64 n_end"
FUSED_PREFIX = f"{SYMBOL}_"


@dataclass(frozen=True, slots=True)
class Epilogue:
    """The stores of a kernel whose panels are `tiles`; `n` is the number of outputs of a group, if known.

    `batch` says whether coordinate `b` is the C++ variable of that name (else it is 0).
    """

    stores: tuple[Store, ...]
    names: Names
    tiles: TileSet
    target: Target
    n: int | None
    batch: bool
    nodes: int = LIGHT_NODES
    """Most nodes of stores that are repeated for every vector of a tile."""

    @property
    def light(self) -> bool:
        """Whether the stores are short enough to be repeated for every vector of a tile."""
        nodes = [node for store in self.stores for node in unique(store.value)]
        applied = [node for node in nodes if isinstance(node, Apply) and node.dtype != "int64"]
        return len(nodes) <= self.nodes and all(node.op in _LIGHT_OPS for node in applied)

    @property
    def ragged(self) -> bool:
        """Whether outputs may end inside a vector."""
        return self.n is None or self.n % self.tiles.lanes > 0

    def _last_vector(self, shape: TileShape) -> tuple[bool, bool]:
        """Whether the last vector of a tile may be full, and whether it may be cut off."""
        if self.n is None:
            return True, True
        panels = {self.n % self.tiles.width, self.tiles.width if self.n >= self.tiles.width else 0} - {0}
        seen = [outputs for outputs in panels if self.tiles.outputs_for(outputs) == shape.outputs]
        whole = shape.vectors * shape.lanes
        return max(seen) >= whole, min(seen) < whole

    def loops(self, m: str, lead: Sequence[str] = ()) -> list[str]:
        """Lines that store `rows` rows of sums at `c`; `m` is C++ text in terms of the row `i` of the tile.

        `lead` are lines that come first in every row.
        """
        lanes = self.tiles.lanes
        load = f"const ull_f32<{lanes}> acc = {self.tiles.kept('sum + (n - n_begin)')};"
        setup, body = self._vector(m, "n", "acc", None, "full")
        lines = [*setup, "ull_i64 n = n_begin;", f"for (; n + {lanes} <= n_end; n += {lanes}) {{"]
        lines += [*indent([load, *body]), "}"]
        if self.ragged:
            setup, body = self._vector(m, "n", "acc", "(n_end - n)", "rest")
            lines = [*setup, *lines, "if (n < n_end) {", *indent([load, *body]), "}"]
        head = [*lead, f"const float *const sum = c + i * {self.tiles.width};"]
        return ["for (ull_i64 i = 0; i < rows; ++i) {", *indent([*head, *lines]), "}"]

    def fused_functions(self) -> str:
        """Tiles of this kernel alone that end in its stores; they take `a, b, segments, length` and the place."""
        return "\n".join(line for shape in self.tiles.shapes() for line in self._fused(shape))

    def fused_call(self, panels: str, segments: str, m: str) -> list[str]:
        """Lines that run the fused tile for row `m` on."""
        batch = "batch" if self.batch else "0"
        return self.tiles.call(f"a, {panels}, {segments}, steps, args, {batch}, {m}, n_begin, n_end", FUSED_PREFIX)

    def _fused(self, shape: TileShape) -> Iterator[str]:
        stores = [line for row in range(shape.rows) for line in self._fused_row(shape, row)]
        declarations = used(self.names.declarations(), stores)
        yield from tile_body(shape, FUSED_PREFIX + shape.name, _FUSED_PARAMETERS, [*declarations, *stores])

    def _fused_row(self, shape: TileShape, row: int) -> Iterator[str]:
        setups: dict[str, list[str]] = {}
        bodies: list[str] = []
        for v in range(shape.vectors):
            base, acc = f"(n_begin + {v * shape.lanes})", self.tiles.rounded(shape.whole(f"c{row}_{v}", v))
            may_be_full, may_be_cut = self._last_vector(shape) if v == shape.vectors - 1 else (True, False)
            if may_be_full and may_be_cut:
                bodies.append(f"if (n_end - n_begin >= {(v + 1) * shape.lanes})")
            if may_be_full:
                setups["full"], body = self._vector(f"(m + {row})", base, acc, None, "full")
                bodies += body
            if may_be_full and may_be_cut:
                bodies.append("else")
            if may_be_cut:
                setups["rest"], body = self._vector(f"(m + {row})", base, acc, f"(n_end - {base})", "rest")
                bodies += body
        yield from ("{", *indent([*(line for setup in setups.values() for line in setup), *bodies]), "}")

    def _vector(self, m: str, base: str, acc: str, valid: str | None, prefix: str) -> tuple[list[str], list[str]]:
        coords: Mapping[str, str] = {**self.names.dims, "b": "batch" if self.batch else "0", "m": m}
        setup, body = emit_epilogue(
            self.stores,
            self.target,
            coords=coords,
            lane_var="n",
            lane_base=base,
            acc=acc,
            lanes_valid=valid,
            buffers=self.names.buffers,
            prefix=prefix,
        )
        return setup.splitlines(), body.splitlines()


def most_nodes(tiling: Tiling) -> int:
    """Most nodes of an epilogue that takes its sums out of the registers."""
    return _LONG_NODES if tiling.from_registers else LIGHT_NODES


def used(declarations: Sequence[str], lines: Sequence[str]) -> list[str]:
    """The declarations (`… name = …`) whose name occurs in the lines or in a later declaration."""
    words = set(re.findall(r"\w+", "\n".join(lines)))
    kept: list[str] = []
    for line in reversed(declarations):
        declared, _, value = line.partition(" = ")
        if declared.split()[-1] in words:
            kept.insert(0, line)
            words.update(re.findall(r"\w+", value))
    return kept
