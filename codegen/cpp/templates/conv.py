"""Dense convolution over NHWC: the register tile with one pointer per pixel and tap, no im2col buffer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ullage.codegen.cpp.templates.conv_pixels import Pixels
from ullage.codegen.cpp.templates.conv_taps import Taps, conv_taps
from ullage.codegen.cpp.templates.early import fetch_rows
from ullage.codegen.cpp.templates.gemm import emit_gemm
from ullage.codegen.cpp.templates.row_epilogue import RowEpilogue
from ullage.codegen.cpp.templates.tile import (
    ELEMENT,
    ROW_POINTERS,
    TileSet,
    full_rows,
    line_variants,
    output_variants,
    row_variants,
    storage,
)
from ullage.codegen.cpp.templates.tile_counts import RowBlocks, ceil_div, combine, fold, known, row_blocks, to_size
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
from ullage.codegen.cpp.templates.window_epilogue import LINES, WindowEpilogue
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import Const, Expr, Var
from ullage.codegen.loops.poly import to_poly
from ullage.codegen.templates import Conv2d, Gemm, PackedPanels
from ullage.codegen.tiling import Tiling
from ullage.errors import InputError
from ullage.plan.sizes import Size
from ullage.target import Target

_BLOCK_ROWS = 64


@dataclass(frozen=True, slots=True)
class _Plan:
    """The numbers that the text of one convolution is made of; a row is one pixel of a phase."""

    spec: Conv2d
    weight: PackedPanels
    names: Names
    epilogue: Epilogue
    row_epilogue: RowEpilogue
    windows: WindowEpilogue | None
    taps: Taps
    tiles: TileSet
    grid_h: Expr
    grid_w: Expr
    rows: Expr
    blocks: RowBlocks
    dtype: str

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        return self.spec.in_c // self.spec.groups

    @property
    def words(self) -> int:
        """Words of k of a tap."""
        return self.channels // self.weight.word

    @property
    def copies(self) -> bool:
        """Whether some segments are copied (widened, or cut off at the image's sides) before they are read."""
        return not self.in_place or self.taps.span > 1

    @property
    def in_place(self) -> bool:
        """Whether pixels are multiplied as they lie in memory: floats, or words of narrower values."""
        return self.tiles.in_words or self.dtype == "float32"

    def pixel(self, at: str) -> str:
        """C++ text of the pointer to an element of the input; words are moved like floats."""
        return f"(const float *)(x + {at})" if self.tiles.in_words else f"x + {at}"

    @property
    def border(self) -> str:
        """C++ text of the word that stands for inputs outside the image."""
        return f"ull_bits<float>({self.spec.border * 0x01010101}u)" if self.spec.border else "0"

    @property
    def most_rows(self) -> int:
        """Upper bound of the rows of a block, rounded up to whole tiles."""
        full = self.tiles.rows[-1]
        return -(-_block_rows(self.spec) // full) * full

    @property
    def fused(self) -> bool:
        """Whether sums are stored right out of the registers."""
        rows_known = self.windows is not None or known(self.rows) is not None
        return self.taps.one_chunk and not self.spec.transposed and rows_known and self.epilogue.light

    @property
    def sums(self) -> int:
        """Sums that are kept between chunks, or until the epilogue takes them."""
        if self.fused:
            return 0
        rows = self.most_rows + self.epilogue.spare_rows if self.keeps else ROW_POINTERS
        return rows * self.tiles.width

    @property
    def keeps(self) -> bool:
        """Whether the sums of all rows of a block are kept."""
        return not self.taps.one_chunk or self.epilogue.turned is not None

    @property
    def thread_floats(self) -> int:
        """Workspace of a thread: sums, a segment of zeros, and copied segments."""
        copied = ROW_POINTERS * self.taps.per_chunk if self.copies else 0
        return self.sums + (1 + copied) * self.taps.step

    def numbers(self) -> dict[str, Expr]:
        """C++ constants of the kernel."""
        spec = self.spec
        return {
            "IMAGES": spec.batch,
            "IN_H": spec.in_h,
            "IN_W": spec.in_w,
            "OUT_H": spec.out_h,
            "OUT_W": spec.out_w,
            "GRID_H": self.grid_h,
            "GRID_W": self.grid_w,
            "ROWS": self.rows,
            "STRIDE_B": spec.x_stride_b,
            "STRIDE_H": spec.x_stride_h,
            "STRIDE_W": spec.x_stride_w,
            "BLOCK": self.blocks.rows,
            "BLOCKS": self.blocks.count,
        }


def emit_conv(spec: Conv2d, target: Target) -> Kernel:
    """The kernel of a dense or grouped convolution for a CPU target; tasks of a tile are phases × row blocks.

    Each output is a sum of chunks of k (whole taps where they fit, in the order of the weights) of sequential fused
    multiply-adds, whatever the rows, tiles and threads. Raises InputError if the weight is not packed in panels or
    the dtypes or panel width do not suit.
    """
    if isinstance(spec.weight, PackedPanels) and spec.weight.codes is not None:
        raise InputError("weights of convolutions are not kept as codes in groups.")
    if spec.windows is None and _is_matrix_product(spec):
        return emit_gemm(_as_gemm(spec), target)
    windows = None if spec.windows is None else WindowEpilogue(spec, spec.windows, target).with_compact_lines()
    spec = spec if windows is None else windows.spec
    plan = _plan(with_numbered_dims(spec.alone()), RowEpilogue(spec, target), windows)
    tiles = plan.epilogue.fused_functions() if plan.fused else plan.tiles.functions()
    kernel = finish(
        functions=plan.row_epilogue.functions() + tiles + _lines_function(plan),
        body=_body(plan),
        buffers=spec.buffers,
        dims=spec.dims,
        tasks=_tasks(plan),
        tiled=True,
        thread_bytes=Size((_lines_at(plan) + (0 if windows is None else windows.band_bytes),)),
        features=plan.tiles.features,
        shared_bytes=plan.row_epilogue.shared_bytes(plan.blocks.count),
    )
    return plan.row_epilogue.with_workspace(kernel)


def _lines_at(plan: _Plan) -> int:
    """Bytes of the workspace that rows need, behind which the lines of a window epilogue lie."""
    return -(-plan.thread_floats * 4 // 64) * 64


def _tasks(plan: _Plan) -> Size:
    """Tasks of a tile."""
    if plan.windows is None:
        return to_size(combine("mul", plan.blocks.count, len(plan.taps.phases)))
    return to_size(combine("mul", fold(plan.spec.batch), plan.windows.pieces))


def _tiling(spec: Conv2d) -> Tiling:
    """The choices of a dense convolution."""
    assert isinstance(spec.tiling, Tiling)
    return spec.tiling


def _block_rows(spec: Conv2d) -> int:
    return _tiling(spec).block_rows or _BLOCK_ROWS


def _is_matrix_product(spec: Conv2d) -> bool:
    """Whether pixels are rows of one dense matrix that is multiplied as it is."""
    one = (1, 1)
    plain = spec.kernel == one and spec.stride == one and spec.padding == (0, 0) and spec.groups == 1
    line = combine("mul", spec.x_stride_w, spec.in_w)
    dense_h = known(spec.in_h) == 1 or to_poly(line) == to_poly(spec.x_stride_h)
    dense_b = known(spec.batch) == 1 or to_poly(combine("mul", line, spec.in_h)) == to_poly(spec.x_stride_b)
    return plain and dense_h and dense_b and isinstance(spec.weight, PackedPanels)


def _as_gemm(spec: Conv2d) -> Gemm:
    assert isinstance(spec.weight, PackedPanels)
    return Gemm(
        buffers=spec.buffers,
        dims=spec.dims,
        batch=Const(1),
        m=combine("mul", combine("mul", spec.batch, spec.out_h), spec.out_w),
        n=Const(spec.out_c),
        k=Const(spec.in_c),
        a_buffer=spec.x_buffer,
        a_row=combine("mul", Var("m"), spec.x_stride_w),
        epilogue=spec.epilogue,
        weight=spec.weight,
        rows=spec.rows,
        tiling=_tiling(spec),
    )


def _in_words(spec: Conv2d) -> Conv2d:
    """The convolution with channels counted in words."""
    assert isinstance(spec.weight, PackedPanels)
    word = spec.weight.word
    side_by_side = spec.x_stride_w == Const(spec.in_c)
    stride = Const(spec.in_c // word) if side_by_side else spec.x_stride_w
    return replace(spec, in_c=spec.in_c // word, x_stride_w=stride)


def _plan(spec: Conv2d, row_epilogue: RowEpilogue, windows: WindowEpilogue | None) -> _Plan:
    target = row_epilogue.target
    check_operands(spec, [spec.x_buffer], target)
    assert isinstance(spec.weight, PackedPanels)
    dtype = next(buffer.dtype for buffer in spec.buffers if buffer.name == spec.x_buffer)
    width = spec.weight.nr
    up_h, up_w = spec.stride if spec.transposed else (1, 1)
    grid_h, grid_w = ceil_div(fold(spec.out_h), up_h), ceil_div(fold(spec.out_w), up_w)
    rows = combine("mul", combine("mul", fold(spec.batch), grid_h), grid_w)
    full = full_rows(target, width // target.lanes, _tiling(spec).rows)
    tiles = TileSet(
        rows=row_variants(full, known(rows)) if windows is None else line_variants(full, windows.width),
        outputs=output_variants(spec.weight.n, width, storage(spec.weight), target),
        lanes=target.lanes,
        width=width,
        weight=storage(spec.weight),
        target=target,
    )
    blocks = row_blocks(rows, target.threads, full, _block_rows(spec))
    if windows is not None:
        blocks = RowBlocks(Const(-(-_block_rows(spec) // full) * full), blocks.count)
    names = Names.of(spec.buffers, spec.dims)
    epilogue = Epilogue(
        spec.epilogue, names, tiles, target, spec.weight.n, False, most_nodes(_tiling(spec)), not spec.transposed
    )
    taps = conv_taps(_in_words(spec))
    return _Plan(
        spec, spec.weight, names, epilogue, row_epilogue, windows, taps, tiles, grid_h, grid_w, rows, blocks, dtype
    )  # fmt: skip


def _body(plan: _Plan) -> list[str]:
    """The kernel."""
    if plan.windows is None:
        lines = _tasks_of_blocks(plan)
    else:
        lines = plan.windows.body(_outputs(plan.weight), _lines_at(plan))
    return [*_used_declarations(plan, lines), *lines]


def _tasks_of_blocks(plan: _Plan) -> list[str]:
    """Lines of a kernel whose tasks are blocks of rows."""
    count = len(plan.taps.phases)
    return [
        *_head(plan),
        *plan.row_epilogue.setup(),
        "for (ull_i64 task = begin; task < end; ++task) {",
        *indent(plan.row_epilogue.place(f"({count} * BLOCKS)")),
        *indent(_outputs(plan.weight)),
        *indent(_weights(plan)),
        "  const int *const phase = phases[block / BLOCKS];",
        "  const ull_i64 first = phase[0], last = phase[1];",
        "  const ull_i64 row_begin = block % BLOCKS * BLOCK;",
        "  const ull_i64 block_rows = row_begin + BLOCK < ROWS ? BLOCK : ROWS - row_begin;",
        *indent(_block(plan)),
        *indent(plan.row_epilogue.after_task("row_begin", "row_begin + block_rows")),
        "}",
    ]


def _lines_function(plan: _Plan) -> str:
    """The function over rows from `row_first` to `row_last` of one tile, block by block, for a window epilogue."""
    if plan.windows is None:
        return ""
    lines = [
        *_head(plan),
        *_outputs(plan.weight),
        *_weights(plan),
        "const int *const phase = phases[0];",
        "const ull_i64 first = phase[0], last = phase[1];",
        "for (ull_i64 row_begin = row_first; row_begin < row_last; row_begin += BLOCK) {",
        "  const ull_i64 block_rows = row_begin + BLOCK < row_last ? BLOCK : row_last - row_begin;",
        *indent(_block(plan)),
        "}",
    ]
    parameters = "const UllageArgs *args, ull_i64 tile, ull_i64 row_first, ull_i64 row_last"
    head = f"static __attribute__((noinline)) void {LINES}({parameters}) {{"
    body = indent([*_used_declarations(plan, lines), *lines])
    return "\n".join(["", plan.windows.functions(), head, *body, "}", ""])


def _used_declarations(plan: _Plan, lines: list[str]) -> list[str]:
    declarations = [
        *plan.names.declarations(),
        *(line for name, expr in plan.numbers().items() for line in scalar(name, expr, plan.names)),
    ]
    return used(declarations, lines)


def _head(plan: _Plan) -> list[str]:
    """Lines before all tasks."""
    first = f"const ull_i64 first_tile = args->n[{len(plan.spec.dims)}];"
    return [first, *_tables(plan.taps), *_operands(plan)]


def _block(plan: _Plan) -> list[str]:
    """One block of rows of a tile and phase, with its epilogue."""
    taps, tiles = plan.taps, plan.tiles
    full = tiles.rows[-1]
    tile = [*_pointers(plan), *_early(plan), *_sums(plan)]
    rows = used([f"const ull_i64 rows = row + {full} < block_rows ? {full} : block_rows - row;"], tile)
    return [
        *_pixels(plan).lines(),
        f"for (ull_i64 s = first; s == first || s < last; s += {taps.per_chunk})",
        f"for (ull_i64 k = 0; k < {taps.length}; k += {taps.step}) {{",
        f"  const ull_i64 segments = s + {taps.per_chunk} < last ? {taps.per_chunk} : last - s;",
        f"  const ull_i64 steps = k + {taps.step} < {taps.length} ? {taps.step} : {taps.length} - k;",
        f"  const {ELEMENT[storage(plan.weight)]} *panels[{taps.per_chunk}];",
        "  for (ull_i64 t = 0; t < segments; ++t)",
        f"    panels[t] = weights + (table[s + t][2] * {plan.words} + k) * {tiles.width};",
        f"  for (ull_i64 row = 0; row < block_rows; row += {full}) {{",
        *indent([*rows, *tile], 4),
        "  }",
        "}",
        *plan.epilogue.turned_loops("row_begin", "(row_begin + block_rows)"),
    ]


def _operands(plan: _Plan) -> list[str]:
    """Pointers to the input and to the parts of the thread's workspace."""
    element, taps = STORAGE_STRUCT[plan.dtype], plan.taps
    return [
        f"const {element} *const x = (const {element} *){plan.names.buffers[plan.spec.x_buffer]};",
        f"const float border = {plan.border};",
        f"float *const zeros = (float *)args->thread + {plan.sums};",
        *([f"float *const copies = zeros + {taps.step};"] if plan.copies else []),
        f"ull_fill(zeros, {taps.step}, border);",
    ]


def _early(plan: _Plan) -> list[str]:
    """Prefetches of what the epilogue reads, before the last chunk."""
    taps = plan.taps
    if not _tiling(plan.spec).prefetch or plan.spec.transposed or plan.epilogue.turned:
        return []
    last = f"s + {taps.per_chunk} >= last && k + {taps.step} >= {taps.length}"
    ready = "" if taps.one_chunk else last
    return fetch_rows(plan.spec.epilogue, plan.names, "row_begin + row + i", "0", plan.tiles.width, ready)


def _sums(plan: _Plan) -> list[str]:
    """The tile, and the epilogue once the last chunk is in."""
    taps = plan.taps
    if plan.fused:
        return plan.epilogue.fused_call("panels", "segments", "row_begin + row")
    sums = [
        f"float *const c = (float *)args->thread{f' + row * {plan.tiles.width}' if plan.keeps else ''};",
        *plan.tiles.call("a, panels, segments, steps, c, s > first || k > 0"),
    ]
    if plan.epilogue.turned:
        return sums
    return [
        *sums,
        f"if (s + {taps.per_chunk} < last || k + {taps.step} < {taps.length}) continue;",
        *(
            plan.epilogue.loops("row_m[row + i]", ["if (row_m[row + i] < 0) continue;"])
            if plan.spec.transposed
            else plan.epilogue.loops("(row_begin + row + i)")
        ),
    ]


def _tables(taps: Taps) -> list[str]:
    """Segments {down, right, tap} of all phases, and {first segment, end, down, right} of each phase."""
    segments = [segment for phase in taps.phases for segment in phase.segments]
    starts = [sum(len(p.segments) for p in taps.phases[:i]) for i in range(len(taps.phases))]
    rows = ", ".join(f"{{{s.down}, {s.right}, {s.tap}}}" for s in segments)
    phases = ", ".join(
        f"{{{start}, {start + len(p.segments)}, {p.down}, {p.right}}}"
        for start, p in zip(starts, taps.phases, strict=True)
    )
    return [
        f"static const int table[{len(segments)}][3] = {{{rows}}};",
        f"static const int phases[{len(taps.phases)}][4] = {{{phases}}};",
    ]


def _outputs(weight: PackedPanels) -> list[str]:
    """The group and the outputs of a `tile`."""
    return [
        "const ull_i64 all = first_tile + tile;",
        f"const ull_i64 group = all / {weight.tiles_per_group}, n_limit = (group + 1) * {weight.n};",
        f"const ull_i64 n_begin = group * {weight.n} + all % {weight.tiles_per_group} * {weight.nr};",
        f"const ull_i64 n_end = n_begin + {weight.nr} < n_limit ? n_begin + {weight.nr} : n_limit;",
    ]


def _weights(plan: _Plan) -> list[str]:
    """The weights of a `tile`."""
    element = ELEMENT[storage(plan.weight)]
    return [
        f"const {element} *const weights = (const {element} *)"
        f"((const char *){plan.names.buffers['w']} + tile * {plan.weight.tile_bytes});"
    ]


def _pixels(plan: _Plan) -> Pixels:
    offsets = plan.in_place and not plan.spec.transposed
    return Pixels(plan.spec, plan.taps, plan.tiles.rows[-1], plan.most_rows, plan.channels, offsets)


def _pointers(plan: _Plan) -> list[str]:
    """Pointers to the tile's rows of every segment of the chunk; pixels off the image point at zeros."""
    taps, full = plan.taps, plan.tiles.rows[-1]
    choice = f"(unsigned long)w < (unsigned long)IN_W ? {plan.pixel('at')} : zeros"
    if plan.copies:
        copy = f"copies + (t * {ROW_POINTERS} + i) * {taps.step}"
        pixel, words = plan.pixel("at"), taps.length // taps.span
        choice = f"ull_segment({pixel}, w, {taps.span}, IN_W, {words}, steps, {copy}, zeros, border)"
    each = [
        f"for (ull_i64 i = 0; i < {full}; ++i) {{",
        "  const ull_i64 h = row_h[row + i] + down, w = row_w[row + i] + right, at = row_at[row + i] + shift;",
        f"  a[t * {ROW_POINTERS} + i] = (unsigned long)h >= (unsigned long)IN_H ? zeros : {choice};",
        "}",
    ]
    fast = [
        f"if (within[row / {full}]) {{",
        f"  for (ull_i64 i = 0; i < {full}; ++i) a[t * {ROW_POINTERS} + i] = {plan.pixel('row_at[row + i] + shift')};",
        "  continue;",
        "}",
    ]
    return [
        f"const float *a[{taps.per_chunk * ROW_POINTERS}];",
        "for (ull_i64 t = 0; t < segments; ++t) {",
        "  const ull_i64 down = table[s + t][0], right = table[s + t][1];",
        "  const ull_i64 shift = down * STRIDE_H + right * STRIDE_W + k * " + f"{plan.weight.word};",
        *indent([*(fast if plan.in_place else []), *each]),
        "}",
    ]
