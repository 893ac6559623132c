"""Epilogues of tiles: loops over rows of sums in memory or, where they are light, stores out of the registers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ullage.codegen.cpp.exprs import emit_epilogue
from ullage.codegen.cpp.templates.tile import ROW_POINTERS, TileSet, TileShape, tile_body
from ullage.codegen.cpp.templates.tile_kernel import SYMBOL, Names, indent, scalar
from ullage.codegen.cpp.templates.tile_turned import IMAGE, TURNED_ROWS, Turned, turned
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
    in_rows: bool = True
    """Whether rows that follow each other have coordinates m that do."""

    @property
    def turned(self) -> Turned | None:
        """The stores for lanes along m, where that suits them better: sums of a whole block of rows are then kept."""
        return turned(self.stores) if self.in_rows else None

    @property
    def spare_rows(self) -> int:
        """Rows of sums beyond those of a block that may be read or written."""
        return max(ROW_POINTERS, self.tiles.lanes)

    @property
    def light(self) -> bool:
        """Whether stores are short enough to be repeated for every vector of a tile, and take sums as they are."""
        nodes = [node for store in self.stores for node in unique(store.value)]
        applied = [node for node in nodes if isinstance(node, Apply) and node.dtype != "int64"]
        short = len(nodes) <= self.nodes and all(node.op in _LIGHT_OPS for node in applied)
        return short and self.turned is None

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

    def turned_loops(self, m_begin: str, m_end: str) -> list[str]:
        """Lines that store the sums of the rows of a block, kept at the thread's workspace, with lanes along m."""
        stores = self.turned
        if stores is None:
            return []
        width, lanes = self.tiles.width, self.tiles.lanes
        return [
            f"alignas(64) float turned[{(TURNED_ROWS + 1) * lanes}];",
            f"for (ull_i64 m_first = {m_begin}; m_first < {m_end}; m_first += {TURNED_ROWS})",
            f"for (ull_i64 n_first = n_begin; n_first < n_end; n_first += {lanes}) {{",
            f"  const ull_i64 m_last = m_first + {TURNED_ROWS} < {m_end} ? m_first + {TURNED_ROWS} : {m_end};",
            f"  const ull_i64 n_last = n_first + {lanes} < n_end ? n_first + {lanes} : n_end;",
            f"  const float *const sums = (const float *)args->thread + (m_first - {m_begin}) * {width};",
            f"  for (ull_i64 i = 0; i < m_last - m_first; i += {lanes})",
            f"    ull_pack_square(turned + i, sums + i * {width} + (n_first - n_begin), {width}, {TURNED_ROWS});",
            "  for (ull_i64 n = n_first; n < n_last; ++n) {",
            f"    const float *const line = turned + (n - n_first) * {TURNED_ROWS};",
            *indent(self._images(stores), 4),
            "  }",
            "}",
        ]

    def _images(self, stores: Turned) -> list[str]:
        """Lines that store one output's rows from `m_first` to `m_last`, image by image."""
        if stores.period is None:
            return ["ull_i64 m = m_first;", *self._run(stores, "m_last")]
        return [
            *scalar("period", stores.period, self.names),
            "for (ull_i64 m = m_first; m < m_last;) {",
            "  const ull_i64 image = m / period, next = (image + 1) * period, m_stop = next < m_last ? next : m_last;",
            *indent(self._run(stores, "m_stop")),
            "}",
        ]

    def _run(self, stores: Turned, stop: str) -> list[str]:
        """Lines that store one output's rows from `m` to `stop`, which becomes `m`."""
        lanes, coords = self.tiles.lanes, {"n": "n", IMAGE: IMAGE}
        load = f"const ull_f32<{lanes}> acc = {self.tiles.kept('line + (m - m_first)')};"
        whole = self._emit(stores.stores, coords, "m", "m", "acc", None, "full")
        rest = self._emit(stores.stores, coords, "m", "m", "acc", f"({stop} - m)", "rest")
        return [
            *whole[0],
            *rest[0],
            f"for (; m + {lanes} <= {stop}; m += {lanes}) {{",
            *indent([load, *whole[1]]),
            "}",
            f"if (m < {stop}) {{",
            *indent([load, *rest[1], f"m = {stop};"]),
            "}",
        ]

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
        return self._emit(self.stores, {"m": m}, "n", base, acc, valid, prefix)

    def _emit(
        self, stores: Sequence[Store], coords: Mapping[str, str], lane: str, base: str, acc: str, valid: str | None,
        prefix: str,
    ) -> tuple[list[str], list[str]]:  # fmt: skip
        setup, body = emit_epilogue(
            stores,
            self.target,
            coords={**self.names.dims, "b": "batch" if self.batch else "0", **coords},
            lane_var=lane,
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
