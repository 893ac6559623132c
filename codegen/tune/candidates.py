"""Tilings that may be faster than a kernel's own, as far as a model of cycles and tasks can tell.

Register tiles and blocks of rows are kept where the model of their cycles comes out no worse; what it cannot see (the
order of tasks, early fetches, epilogues out of registers) is proposed wherever it changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ullage.codegen.cpp.templates.early import fetches
from ullage.codegen.loops.ir import Expr
from ullage.codegen.lower.index import IndexMath
from ullage.codegen.templates import Conv2d, Gemm, PackedPanels
from ullage.codegen.tiling import MOST_ROWS, AnyTiling, DepthwiseTiling, Tiling
from ullage.target import Target

_LATENCY_CYCLES = 4
_FMAS_PER_CYCLE = 2
_LOADS_PER_CYCLE = 2
_TASK_CYCLES = 200
"""Of a task beside its tiles: claiming it, and bringing its rows and weights into the nearest cache."""
_NO_WORSE = 1.02
_LEAST_ROWS = 4
_BLOCKS = (32, 128, 256)
_PACKED_BLOCKS = (64, 128, 512)
_OWN_BLOCK, _OWN_PACKED_BLOCK = 64, 256
_MOST_MERGED = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """What the model needs of a matrix product or dense convolution: rows, steps of k, vectors of a panel, panels."""

    rows: int
    steps: int
    vectors: int
    panels: int
    threads: int
    registers: int

    def cycles(self, rows: int, block_rows: int) -> float:
        """Cycles of the thread with the most to do, with register tiles of `rows` rows and tasks of `block_rows`."""
        full = min(rows, (self.registers - self.vectors - 2) // self.vectors)
        blocks = max(-(-self.rows // block_rows), min(self.threads, 1 + self.rows // 32))
        each = -(-self.rows // blocks)
        block = -(-each // full) * full
        count = -(-self.rows // block)
        whole, rest = divmod(min(block, self.rows), full)
        tiles = whole * self._tile(full) + (self._tile(rest) if rest else 0.0)
        tasks = -(-count * self.panels // self.threads)
        return tasks * (tiles * self.steps + _TASK_CYCLES)

    def _tile(self, rows: int) -> float:
        """Cycles of a step of k: bound by multiply-adds, by loads, or by the wait for the previous sum."""
        sums = rows * self.vectors / _FMAS_PER_CYCLE
        return max(sums, (rows + self.vectors) / _LOADS_PER_CYCLE, float(_LATENCY_CYCLES))


def candidates(spec: Gemm | Conv2d, target: Target, dim_max: Mapping[str, int]) -> tuple[AnyTiling, ...]:
    """Tilings that differ from the kernel's own in one choice; they all give the same bits."""
    if isinstance(spec, Conv2d) and not isinstance(spec.weight, PackedPanels):
        return _depthwise(spec, dim_max)
    return tuple(dict.fromkeys(_dense(spec, shape_of(spec, target, dim_max))))


def shape_of(spec: Gemm | Conv2d, target: Target, dim_max: Mapping[str, int]) -> Shape:
    """The figures of a product at the upper bounds of the dimensions."""
    panels = spec.weight
    if isinstance(spec, Conv2d):
        assert isinstance(panels, PackedPanels)
        rows = _most(spec.batch, dim_max) * _most(spec.out_h, dim_max) * _most(spec.out_w, dim_max)
        count, width, steps = panels.tiles, panels.nr, panels.k // panels.word
    elif isinstance(panels, PackedPanels):
        rows, count, width, steps = _most(spec.m, dim_max), panels.tiles, panels.nr, panels.k // panels.word
    else:
        width = target.panel_width
        count = _most(spec.batch, dim_max) * -(-_most(spec.n, dim_max) // width)
        rows, steps = _most(spec.m, dim_max), _most(spec.k, dim_max)
    return Shape(rows, steps, width // target.lanes, count, target.threads, target.registers)


def _most(size: Expr, dim_max: Mapping[str, int]) -> int:
    return IndexMath({}, dim_max).bounds(size)[1] or 1


def _dense(spec: Gemm | Conv2d, shape: Shape) -> Iterator[Tiling]:
    own = spec.tiling
    assert isinstance(own, Tiling)
    packed = isinstance(spec.weight, PackedPanels)
    transposed = isinstance(spec, Conv2d) and spec.transposed
    if fetches(spec.epilogue) and not transposed:
        yield replace(own, prefetch=not own.prefetch)
    yield replace(own, from_registers=not own.from_registers)
    if own.ahead:
        yield replace(own, ahead=False)
    if packed and not spec.later and shape.panels > 1 and shape.rows > _OWN_BLOCK:
        yield replace(own, tiles_first=not own.tiles_first)
    if not spec.later:
        yield from _cuts(own, shape, _OWN_BLOCK if packed else _OWN_PACKED_BLOCK, _BLOCKS if packed else _PACKED_BLOCKS)


def _cuts(own: Tiling, shape: Shape, own_block: int, blocks: Sequence[int]) -> Iterator[Tiling]:
    """Other blocks and register tiles that take at most a little longer by the model."""
    allowed = _NO_WORSE * shape.cycles(MOST_ROWS, own_block)
    for block in blocks:
        if shape.rows > min(block, own_block) and shape.cycles(MOST_ROWS, block) <= allowed:
            yield replace(own, block_rows=block)
    for rows in range(_LEAST_ROWS, MOST_ROWS):
        if shape.cycles(rows, own_block) <= allowed / _NO_WORSE**2:
            yield replace(own, rows=rows)


def _depthwise(spec: Conv2d, dim_max: Mapping[str, int]) -> tuple[DepthwiseTiling, ...]:
    own = spec.tiling if isinstance(spec.tiling, DepthwiseTiling) else DepthwiseTiling()
    found = [replace(own, block_vectors=vectors) for vectors in (1, 2, 8)]
    if _most(spec.out_h, dim_max) > own.block_rows // 2:
        found += [replace(own, block_rows=rows) for rows in (own.block_rows // 2, 2 * own.block_rows)]
    return (*found, replace(own, pair_columns=3), replace(own, columns=6), replace(own, pairs=False))


def merged(best: Sequence[AnyTiling], own: AnyTiling) -> tuple[AnyTiling, ...]:
    """Tilings with what the first two of `best` do unlike the own one, the first three, and so on; the first wins a
    conflict."""
    found: list[AnyTiling] = []
    for count in range(2, min(len(best), _MOST_MERGED + 1) + 1):
        changes: dict[str, Any] = {}
        for tiling in reversed(best[:count]):
            changes |= _changes(tiling, own)
        found.append(replace(best[0], **changes))
    return tuple(t for t in dict.fromkeys(found) if t not in best)


def _changes(tiling: AnyTiling, own: AnyTiling) -> dict[str, Any]:
    own = own if isinstance(own, type(tiling)) else type(tiling)()
    return {f.name: getattr(tiling, f.name) for f in fields(tiling) if getattr(tiling, f.name) != getattr(own, f.name)}
