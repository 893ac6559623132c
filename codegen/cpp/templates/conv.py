"""Dense convolution over NHWC: the register tile with one pointer per pixel and tap, no im2col buffer."""

from __future__ import annotations

from dataclasses import dataclass

from ullage.codegen.cpp.templates.conv_taps import Taps, conv_taps
from ullage.codegen.cpp.templates.gemm import emit_gemm, vector_variants
from ullage.codegen.cpp.templates.tile import ELEMENT, ROW_POINTERS, TileSet, full_rows, row_variants
from ullage.codegen.cpp.templates.tile_counts import RowBlocks, ceil_div, combine, fold, known, row_blocks, to_size
from ullage.codegen.cpp.templates.tile_kernel import STORAGE_STRUCT, Names, epilogue, finish, indent, scalar
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import Const, Expr, Var
from ullage.codegen.loops.poly import to_poly
from ullage.codegen.templates import Conv2d, Gemm, PackedPanels
from ullage.errors import InputError
from ullage.plan.sizes import Size
from ullage.target import Target

_BLOCK_ROWS = 64


@dataclass(frozen=True, slots=True)
class _Plan:
    """The numbers that the text of one convolution is made of; a row is one pixel of a phase."""

    spec: Conv2d
    weight: PackedPanels
    target: Target
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
    def copies(self) -> bool:
        """Whether some segments are copied (widened, or cut off at the image's sides) before they are read."""
        return self.dtype != "float32" or self.taps.span > 1

    @property
    def most_rows(self) -> int:
        """Upper bound of the rows of a block, rounded up to whole tiles."""
        full = self.tiles.rows[-1]
        return -(-_BLOCK_ROWS // full) * full

    @property
    def sums(self) -> int:
        """Accumulators that are kept between chunks."""
        rows = 0 if self.taps.one_chunk else self.most_rows
        return (rows + ROW_POINTERS) * self.tiles.width

    @property
    def thread_floats(self) -> int:
        """Workspace of a thread: sums, a segment of zeros, and copied segments."""
        copied = ROW_POINTERS * self.taps.per_chunk if self.copies else 0
        return self.sums + (1 + copied) * self.taps.step

    def numbers(self) -> dict[str, Expr]:
        """C++ constants of the kernel."""
        spec = self.spec
        return {
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
    if _is_matrix_product(spec):
        return emit_gemm(_as_gemm(spec), target)
    plan = _plan(spec, target)
    return finish(
        functions=plan.tiles.functions(),
        body=_body(plan),
        buffers=spec.buffers,
        dims=spec.dims,
        tasks=to_size(combine("mul", plan.blocks.count, len(plan.taps.phases))),
        tiled=True,
        thread_bytes=Size((plan.thread_floats * 4,)).align(64),
    )


def _is_matrix_product(spec: Conv2d) -> bool:
    """Whether pixels are rows of one dense matrix that is multiplied as it is."""
    one = (1, 1)
    plain = spec.kernel == one and spec.stride == one and spec.padding == (0, 0) and spec.groups == 1
    dense_h = to_poly(combine("mul", spec.x_stride_w, spec.in_w)) == to_poly(spec.x_stride_h)
    dense_b = to_poly(combine("mul", spec.x_stride_h, spec.in_h)) == to_poly(spec.x_stride_b)
    return plain and dense_h and (dense_b or known(spec.batch) == 1) and isinstance(spec.weight, PackedPanels)


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
    )


def _plan(spec: Conv2d, target: Target) -> _Plan:
    dtype = next(buffer.dtype for buffer in spec.buffers if buffer.name == spec.x_buffer)
    if not isinstance(spec.weight, PackedPanels) or dtype not in STORAGE_STRUCT:
        raise InputError(f"a dense convolution needs panels and a float input, found {spec.weight} and {dtype}.")
    width = spec.weight.nr
    if width % target.lanes or width > 4 * target.lanes:
        raise InputError(f"panels of {width} outputs do not suit {target}: wanted 1 to 4 vectors of {target.lanes}.")
    up_h, up_w = spec.stride if spec.transposed else (1, 1)
    grid_h, grid_w = ceil_div(fold(spec.out_h), up_h), ceil_div(fold(spec.out_w), up_w)
    rows = combine("mul", combine("mul", fold(spec.batch), grid_h), grid_w)
    full = full_rows(target, width // target.lanes)
    tiles = TileSet(
        rows=row_variants(full, known(rows)),
        vectors=vector_variants(spec.weight.n, width, target.lanes),
        lanes=target.lanes,
        width=width,
        weight=spec.weight.dtype,
    )
    blocks = row_blocks(rows, target.threads, full, _BLOCK_ROWS)
    return _Plan(spec, spec.weight, target, conv_taps(spec), tiles, grid_h, grid_w, rows, blocks, dtype)


def _body(plan: _Plan) -> list[str]:
    spec, taps, tiles, names = plan.spec, plan.taps, plan.tiles, Names.of(plan.spec.buffers, plan.spec.dims)
    full, width = tiles.rows[-1], tiles.width
    element = STORAGE_STRUCT[plan.dtype]
    kept = "" if taps.one_chunk else f" + row * {width}"
    return [
        *names.declarations(),
        f"const ull_i64 first_tile = args->n[{len(spec.dims)}];",
        *(line for name, expr in plan.numbers().items() for line in scalar(name, expr, names)),
        *_tables(taps),
        f"const {element} *const x = (const {element} *){names.buffers[spec.x_buffer]};",
        f"float *const sums = (float *)args->thread, *const zeros = sums + {plan.sums};",
        *([f"float *const copies = zeros + {taps.step};"] if plan.copies else []),
        f"ull_zero(zeros, {taps.step});",
        "for (ull_i64 task = begin; task < end; ++task) {",
        *indent(_task(plan, names)),
        *indent(_pixels(plan)),
        f"  for (ull_i64 s = first; s == first || s < last; s += {taps.per_chunk})",
        f"  for (ull_i64 k = 0; k < {taps.length}; k += {taps.step}) {{",
        f"    const ull_i64 segments = s + {taps.per_chunk} < last ? {taps.per_chunk} : last - s;",
        f"    const ull_i64 steps = k + {taps.step} < {taps.length} ? {taps.step} : {taps.length} - k;",
        f"    const {ELEMENT[plan.weight.dtype]} *panels[{taps.per_chunk}];",
        "    for (ull_i64 t = 0; t < segments; ++t)",
        f"      panels[t] = weights + (table[s + t][2] * {plan.channels} + k) * {width};",
        f"    for (ull_i64 row = 0; row < block_rows; row += {full}) {{",
        f"      const ull_i64 rows = row + {full} < block_rows ? {full} : block_rows - row;",
        *indent(_pointers(plan), 6),
        f"      float *const c = sums{kept};",
        *indent(tiles.call("a, panels, segments, steps, c, s > first || k > 0"), 6),
        f"      if (s + {taps.per_chunk} < last || k + {taps.step} < {taps.length}) continue;",
        *indent(_epilogue(plan, names), 6),
        "    }",
        "  }",
        "}",
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


def _task(plan: _Plan, names: Names) -> list[str]:
    """Which outputs, weights, phase and rows a task is about."""
    weight, count = plan.weight, len(plan.taps.phases)
    lines = [
        f"const ull_i64 tile = task / ({count} * BLOCKS), all = first_tile + tile;",
        f"const ull_i64 group = all / {weight.tiles_per_group}, n_limit = (group + 1) * {weight.n};",
        f"const ull_i64 n_begin = group * {weight.n} + all % {weight.tiles_per_group} * {weight.nr};",
        f"const ull_i64 n_end = n_begin + {weight.nr} < n_limit ? n_begin + {weight.nr} : n_limit;",
        *plan.tiles.choose_vectors("n_end - n_begin"),
        f"const {ELEMENT[weight.dtype]} *const weights = (const {ELEMENT[weight.dtype]} *)"
        f"((const char *){names.buffers['w']} + tile * {weight.tile_bytes});",
        f"const int *const phase = phases[task / BLOCKS % {count}];",
        "const ull_i64 first = phase[0], last = phase[1];",
        "const ull_i64 row_begin = task % BLOCKS * BLOCK;",
        "const ull_i64 block_rows = row_begin + BLOCK < ROWS ? BLOCK : ROWS - row_begin;",
    ]
    return lines


def _pixels(plan: _Plan) -> list[str]:
    """Input position and offset, and output number, of every row of the block (rows beyond it lie off the image)."""
    spec, full, size = plan.spec, plan.tiles.rows[-1], plan.most_rows
    up_h, up_w = spec.stride if spec.transposed else (1, 1)
    position = (
        ("y", "x_")
        if spec.transposed
        else tuple(
            f"{axis} * {stride} - {padding}"
            for axis, stride, padding in zip(("y", "x_"), spec.stride, spec.padding, strict=True)
        )
    )
    return [
        f"int row_h[{size}], row_w[{size}];",
        f"ull_i64 row_at[{size}], row_m[{size}];",
        "ull_i64 image = row_begin / (GRID_H * GRID_W), y = row_begin / GRID_W % GRID_H, x_ = row_begin % GRID_W;",
        f"for (ull_i64 i = 0; i < (block_rows + {full - 1}) / {full} * {full}; ++i) {{",
        f"  const ull_i64 h = {position[0]}, w = {position[1]};",
        f"  const ull_i64 out_y = y * {up_h} + phase[2], out_x = x_ * {up_w} + phase[3];",
        "  const bool inside = i < block_rows && out_y < OUT_H && out_x < OUT_W;",
        "  row_h[i] = inside ? (int)h : -(1 << 30);",
        "  row_w[i] = (int)w;",
        f"  row_at[i] = image * STRIDE_B + h * STRIDE_H + w * STRIDE_W + group * {plan.channels};",
        "  row_m[i] = inside ? (image * OUT_H + out_y) * OUT_W + out_x : -1;",
        "  if (++x_ == GRID_W) {",
        "    x_ = 0;",
        "    if (++y == GRID_H) y = 0, ++image;",
        "  }",
        "}",
    ]


def _pointers(plan: _Plan) -> list[str]:
    """Pointers to the tile's rows of every segment of the chunk; pixels off the image point at zeros."""
    taps, full = plan.taps, plan.tiles.rows[-1]
    if plan.copies:
        copy = f"copies + (t * {ROW_POINTERS} + i) * {taps.step}"
        choice = f"ull_segment(x + at, w, {taps.span}, IN_W, {taps.length // taps.span}, steps, {copy}, zeros)"
    else:
        choice = "(unsigned long)w < (unsigned long)IN_W ? x + at : zeros"
    return [
        f"const float *a[{taps.per_chunk * ROW_POINTERS}];",
        "for (ull_i64 t = 0; t < segments; ++t) {",
        "  const ull_i64 down = table[s + t][0], right = table[s + t][1];",
        "  const ull_i64 shift = down * STRIDE_H + right * STRIDE_W + k;",
        f"  for (ull_i64 i = 0; i < {full}; ++i) {{",
        "    const ull_i64 h = row_h[row + i] + down, w = row_w[row + i] + right, at = row_at[row + i] + shift;",
        f"    a[t * {ROW_POINTERS} + i] = (unsigned long)h >= (unsigned long)IN_H ? zeros : {choice};",
        "  }",
        "}",
    ]


def _epilogue(plan: _Plan, names: Names) -> list[str]:
    ragged = plan.weight.n % plan.tiles.lanes > 0
    skip = ["if (row_m[row + i] < 0) continue;"] if plan.spec.transposed else []
    coords = {"m": "row_m[row + i]"}
    return epilogue(plan.spec.epilogue, names, plan.tiles, plan.target, coords, ragged, skip)
