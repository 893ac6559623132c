"""GEMM: the register tile over chunks of k, row blocks and weight tiles, with the epilogue on finished rows."""

from __future__ import annotations

from dataclasses import dataclass

from ullage.codegen.cpp.templates.early import fetch_rows
from ullage.codegen.cpp.templates.row_epilogue import RowEpilogue
from ullage.codegen.cpp.templates.tile import (
    ELEMENT,
    ROW_POINTERS,
    TileSet,
    full_rows,
    output_variants,
    row_variants,
    storage,
)
from ullage.codegen.cpp.templates.tile_counts import (
    CHUNK_STEPS,
    RowBlocks,
    ceil_div,
    chunk_steps,
    combine,
    fold,
    known,
    row_blocks,
    to_size,
)
from ullage.codegen.cpp.templates.tile_epilogue import Epilogue, most_nodes, used
from ullage.codegen.cpp.templates.tile_kernel import (
    STORAGE_STRUCT,
    Names,
    check_operands,
    finish,
    indent,
    scalar,
    with_numbered_dims,
)
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import Const, Expr
from ullage.codegen.templates import Gemm
from ullage.target import Target

_BLOCK_ROWS = 64
_PACKED_BLOCK_ROWS = 256
"""Rows that share one packing of a variable right operand."""
_LINE_WORDS = 16
"""Words of a line of a cache."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """The numbers that the text of one GEMM is made of; `k` and `step` count words."""

    spec: Gemm
    m: Expr
    n: Expr
    k: Expr
    step: Expr
    tiles: TileSet
    blocks: RowBlocks
    names: Names
    epilogue: Epilogue
    row_epilogue: RowEpilogue

    def dtype(self, name: str) -> str:
        """The storage type of a buffer."""
        return next(buffer.dtype for buffer in self.spec.buffers if buffer.name == name)

    @property
    def in_place(self) -> bool:
        """Whether rows are multiplied as they lie in memory: floats, or words of narrower values."""
        return self.tiles.in_words or self.dtype(self.spec.a_buffer) == "float32"

    @property
    def one_chunk(self) -> bool:
        """Whether k is known to be a single chunk, so that no row waits for another chunk."""
        k = known(self.k)
        return self.tiles.codes is not None or (k is not None and k <= CHUNK_STEPS)

    def numbers(self) -> dict[str, Expr]:
        """C++ constants of the kernel."""
        return {
            "M": self.m,
            "N": self.n,
            "K": self.k,
            "STEP": self.step,
            "BLOCK": self.blocks.rows,
            "BLOCKS": self.blocks.count,
        }

    @property
    def fused(self) -> bool:
        """Whether sums are stored right out of the registers."""
        return self.one_chunk and known(self.m) is not None and self.epilogue.light and self.tiles.codes is None

    @property
    def keeps(self) -> bool:
        """Whether the sums of all rows of a block are kept."""
        return not self.one_chunk or self.epilogue.turned is not None

    @property
    def c_floats(self) -> Expr:
        """Sums that are kept between chunks, or until the epilogue takes them."""
        if self.fused:
            return Const(0)
        rows = combine("add", self.blocks.rows, self.epilogue.spare_rows) if self.keeps else Const(ROW_POINTERS)
        return combine("mul", rows, self.tiles.width)

    @property
    def a_floats(self) -> Expr:
        """Room for one tile's rows of one chunk, widened to float32 (none if they are read in place)."""
        return Const(0) if self.in_place else combine("mul", self.step, ROW_POINTERS)

    @property
    def b_floats(self) -> Expr:
        """Room for one chunk of a packed panel of the variable right operand."""
        return Const(0) if self.spec.weight else combine("mul", combine("add", self.step, 1), self.tiles.width)


def emit_gemm(spec: Gemm, target: Target) -> Kernel:
    """The kernel of a GEMM for a CPU target; tasks of a tile are its row blocks, tile-major.

    Each output is a sum of chunks of k (`chunk_steps(k)` long, in order) of sequential fused multiply-adds, whatever
    the rows, tiles and threads. Raises InputError if the operands' dtypes or the panel width do not suit.
    """
    plan = _plan(with_numbered_dims(spec.alone()), RowEpilogue(spec, target))
    tasks = plan.blocks.count
    if spec.weight is None:
        tasks = combine("mul", combine("mul", fold(plan.spec.batch), ceil_div(plan.n, plan.tiles.width)), tasks)
    floats = combine("add", combine("add", plan.c_floats, plan.a_floats), plan.b_floats)
    kernel = finish(
        functions=plan.row_epilogue.functions()
        + (plan.epilogue.fused_functions() if plan.fused else plan.tiles.functions()),
        body=_body(plan),
        buffers=spec.buffers,
        dims=spec.dims,
        tasks=to_size(tasks),
        tiled=spec.weight is not None,
        thread_bytes=(to_size(floats) * 4).align(64),
        features=plan.tiles.features,
        shared_bytes=plan.row_epilogue.shared_bytes(plan.blocks.count),
    )
    return plan.row_epilogue.with_workspace(kernel)


def _plan(spec: Gemm, row_epilogue: RowEpilogue) -> _Plan:
    target = row_epilogue.target
    check_operands(spec, [spec.a_buffer, *([spec.b_buffer] if spec.b_buffer else [])], target)
    m, n, k = fold(spec.m), fold(spec.n), fold(spec.k)
    if spec.weight is not None:
        k = combine("floordiv", k, spec.weight.word)
    width = spec.weight.nr if spec.weight else target.panel_width
    codes = spec.weight.codes if spec.weight else None
    full = full_rows(target, width // target.lanes, spec.tiling.rows, codes)
    kind = storage(spec.weight) if spec.weight else "float32"
    tiles = TileSet(
        rows=row_variants(full, known(m)),
        outputs=output_variants(known(n), width, kind, target),
        lanes=target.lanes,
        width=width,
        weight=kind,
        target=target,
        codes=codes,
    )
    panels = Const(1) if spec.weight else combine("mul", fold(spec.batch), ceil_div(n, width))
    blocks = row_blocks(m, target.threads, full, _block_rows(spec), panels)
    names = Names.of(spec.buffers, spec.dims)
    epilogue = Epilogue(spec.epilogue, names, tiles, target, known(n), spec.weight is None, most_nodes(spec.tiling))
    step = k if codes else chunk_steps(k)
    return _Plan(spec, m, n, k, step, tiles, blocks, names, epilogue, row_epilogue)


def _block_rows(spec: Gemm) -> int:
    return spec.tiling.block_rows or (_BLOCK_ROWS if spec.weight else _PACKED_BLOCK_ROWS)


def _body(plan: _Plan) -> list[str]:
    names, tiles = plan.names, plan.tiles
    full, width = tiles.rows[-1], tiles.width
    declarations = [
        *names.declarations(),
        *(line for name, expr in plan.numbers().items() for line in scalar(name, expr, names)),
    ]
    tile = [*_rows(plan), *_early(plan), *_sums(plan)]
    rows = used([f"const ull_i64 rows = row + {full} < m_end ? {full} : m_end - row;"], tile)
    lines = [
        *_operands(plan),
        *plan.row_epilogue.setup(),
        "for (ull_i64 task = begin; task < end; ++task) {",
        *indent(_task(plan)),
        "  const ull_i64 m_begin = block * BLOCK, m_end = m_begin + BLOCK < M ? m_begin + BLOCK : M;",
        f"  const ull_i64 n_end = n_begin + {width} < N ? n_begin + {width} : N;",
        "  for (ull_i64 k = 0; k < K; k += STEP) {",
        "    const ull_i64 steps = k + STEP < K ? STEP : K - k;",
        *indent(_panel(plan), 4),
        f"    for (ull_i64 row = m_begin; row < m_end; row += {full}) {{",
        *indent([*rows, *tile], 6),
        "    }",
        "  }",
        *indent(plan.epilogue.turned_loops("m_begin", "m_end")),
        *indent(plan.row_epilogue.after_task("m_begin", "m_end")),
        "}",
    ]
    return [*used(declarations, lines), *lines]


def _early(plan: _Plan) -> list[str]:
    """Prefetches of what the epilogue reads, before the last chunk."""
    if not plan.spec.tiling.prefetch or plan.epilogue.turned:
        return []
    batch = "0" if plan.spec.weight else "batch"
    ready = "" if plan.one_chunk else "k + steps >= K"
    return fetch_rows(plan.spec.epilogue, plan.names, "row + i", batch, plan.tiles.width, ready)


def _sums(plan: _Plan) -> list[str]:
    """The tile, and the epilogue once the last chunk is in."""
    if plan.fused:
        return plan.epilogue.fused_call("panel", "1", "row")
    offset = f"(row - m_begin) * {plan.tiles.width}"
    if plan.epilogue.turned:
        return [
            f"float *const c = (float *)args->thread + {offset};",
            *plan.tiles.call("a, panel, 1, steps, c, k > 0"),
        ]
    place = f" + (K <= STEP ? 0 : {offset})" if plan.keeps else ""
    return [
        f"float *const c = (float *)args->thread{place};",
        *plan.tiles.call("a, panel, 1, steps, c, k > 0"),
        "if (k + steps < K) continue;",
        *plan.epilogue.loops("(row + i)"),
    ]


def _operands(plan: _Plan) -> list[str]:
    """Pointers to both operands and to their widened or packed copies in the thread's workspace."""
    spec, names = plan.spec, plan.names
    a_type = STORAGE_STRUCT[plan.dtype(spec.a_buffer)]
    lines = [f"const {a_type} *const left = (const {a_type} *){names.buffers[spec.a_buffer]};"]
    if not plan.in_place:
        lines += [*scalar("c_floats", plan.c_floats, names), "float *const wide = (float *)args->thread + c_floats;"]
    if spec.weight is not None:
        return [*lines, f"const ull_i64 first_tile = args->n[{len(spec.dims)}];"]
    assert spec.b_buffer is not None
    b_type = STORAGE_STRUCT[plan.dtype(spec.b_buffer)]
    return [
        *lines,
        f"const {b_type} *const right = (const {b_type} *){names.buffers[spec.b_buffer]};",
        *scalar("packed_from", combine("add", plan.c_floats, plan.a_floats), names),
        "float *const packed = (float *)args->thread + packed_from;",
        f"const ull_i64 TILES = (N + {plan.tiles.width - 1}) / {plan.tiles.width};",
    ]


def _task(plan: _Plan) -> list[str]:
    """Which batch entry, which outputs and which weights a task is about."""
    spec, names, width = plan.spec, plan.names, plan.tiles.width
    if spec.weight is not None:
        element = ELEMENT[storage(spec.weight)]
        return [
            *plan.row_epilogue.place("BLOCKS"),
            f"const ull_i64 n_begin = (first_tile + tile) * {width};",
            f"const {element} *const weights = (const {element} *)((const char *){names.buffers['w']} + "
            f"tile * {spec.weight.tile_bytes});",
        ]
    assert spec.b_base is not None and spec.b_stride_k is not None and spec.b_stride_n is not None
    return [
        "const ull_i64 block = task % BLOCKS, tile = task / BLOCKS % TILES, batch = task / (BLOCKS * TILES);",
        f"const ull_i64 n_begin = tile * {width};",
        *scalar("b_base", spec.b_base, names, {"b": "batch"}),
        *scalar("b_stride_k", spec.b_stride_k, names),
        *scalar("b_stride_n", spec.b_stride_n, names),
    ]


def _panel(plan: _Plan) -> list[str]:
    """The panel of the chunk: in place in packed weights, else packed now."""
    width, weight = plan.tiles.width, plan.spec.weight
    if weight is not None and weight.codes is not None:
        codes = weight.codes
        parts = (codes.head_bytes(width, weight.k), codes.start_bytes(width), 0)
        return [f"const ull_u8 *const panel[] = {{{', '.join(f'weights + {part}' for part in parts)}}};"]
    if weight is not None:
        return [f"const {ELEMENT[storage(weight)]} *const panel[] = {{weights + k * {width}}};"]
    return [
        "ull_pack_panel(packed, right + b_base + k * b_stride_k + n_begin * b_stride_n, b_stride_k, b_stride_n, steps,",
        f"               n_end - n_begin, {width});",
        "const float *const panel[] = {packed};",
    ]


def _rows(plan: _Plan) -> list[str]:
    """Pointers to the rows of the tile at the chunk; rows beyond the last one repeat it."""
    in_place, coords = plan.in_place, {"b": "0" if plan.spec.weight else "batch", "m": "m"}
    return [
        f"const float *a[{ROW_POINTERS}];",
        f"for (ull_i64 i = 0; i < {plan.tiles.rows[-1]}; ++i) {{",
        "  const ull_i64 m = row + (i < rows ? i : rows - 1);",
        *indent(scalar("a_row", plan.spec.a_row, plan.names, coords)),
        "  a[i] = (const float *)(left + a_row) + k;" if in_place else "  a[i] = wide + i * STEP;",
        *([] if in_place else ["  ull_widen_row(wide + i * STEP, left + a_row + k, steps);"]),
        *(indent(_ahead(plan, coords)) if plan.spec.tiling.ahead and in_place else []),
        "}",
    ]


def _ahead(plan: _Plan, coords: dict[str, str]) -> list[str]:
    """Prefetches of the row of the next tile; one beyond the last does no harm."""
    return [
        *scalar("next_row", plan.spec.a_row, plan.names, {**coords, "m": f"(m + {plan.tiles.rows[-1]})"}),
        f"for (ull_i64 word = k; word < k + steps; word += {_LINE_WORDS})",
        "  __builtin_prefetch((const float *)(left + next_row) + word);",
    ]
