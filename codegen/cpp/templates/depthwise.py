"""Depthwise convolution: runs of output columns per vector of channels, with the epilogue on finished runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ullage.codegen.cpp.exprs import emit_epilogue
from ullage.codegen.cpp.templates.tile_counts import ceil_div, combine, fold, known, to_size
from ullage.codegen.cpp.templates.tile_kernel import Names, finish, indent, scalar, with_numbered_dims
from ullage.codegen.kernel import Kernel
from ullage.codegen.templates import Conv2d, PackedDepthwise
from ullage.errors import InputError
from ullage.plan.sizes import Size
from ullage.target import Target

HEADERS = ("simd.h", "math.h", "depthwise.h")
_STORAGE = {"float32": "ull_float32", "bfloat16": "ull_bfloat16", "float16": "ull_float16"}
_MAX_COLUMNS = 8
_BLOCK_ROWS = 16
_BLOCK_VECTORS = 2


@dataclass(frozen=True, slots=True)
class _Plan:
    """One depthwise convolution for one target."""

    spec: Conv2d
    weight: PackedDepthwise
    target: Target
    names: Names

    @property
    def vectors(self) -> int:
        """Vectors of channels."""
        return -(-self.weight.channels // self.target.lanes)

    @property
    def x_storage(self) -> str:
        """How activations are stored."""
        return _STORAGE[{b.name: b.dtype for b in self.spec.buffers}[self.spec.x_buffer]]

    @property
    def columns(self) -> tuple[int, ...]:
        """Lengths of runs, longest first: even ones where the width is known, else a ladder down to one."""
        width = known(self.spec.out_w)
        if width is None:
            return tuple(c for c in (8, 4, 2, 1) if c <= _MAX_COLUMNS)
        runs = -(-width // _MAX_COLUMNS)
        most = -(-width // runs)
        return (most, width % most) if width % most else (most,)


def emit_depthwise(spec: Conv2d, target: Target) -> Kernel:
    """The kernel of a depthwise convolution for a CPU target; a task is some output rows of some vectors of channels.

    Each output is one sum over the taps inside the image, in ascending order, whatever the tasks and threads. Raises
    InputError for weights, dtypes or geometries that are not depthwise.
    """
    weight, numbered = _checked(spec, target), with_numbered_dims(spec)
    plan = _Plan(numbered, weight, target, Names.of(spec.buffers, spec.dims))
    groups = -(-plan.vectors // _BLOCK_VECTORS)
    rows = ceil_div(fold(numbered.out_h), _BLOCK_ROWS)
    tasks = combine("mul", combine("mul", fold(numbered.batch), groups), rows)
    kernel = finish(
        functions="",
        body=_body(plan),
        buffers=spec.buffers,
        dims=spec.dims,
        tasks=to_size(tasks),
        tiled=False,
        thread_bytes=Size((0,)),
    )
    return replace(kernel, headers=HEADERS)


def _checked(spec: Conv2d, target: Target) -> PackedDepthwise:
    dtypes = {buffer.name: buffer.dtype for buffer in spec.buffers}
    taps = spec.kernel[0] * spec.kernel[1]
    wrong: list[str] = []
    if not isinstance(spec.weight, PackedDepthwise):
        raise InputError("a depthwise convolution needs a weight packed as PackedDepthwise.")
    if spec.weight.lanes != target.lanes:
        wrong.append(f"weights are packed for {spec.weight.lanes} lanes, {target} has {target.lanes}")
    if (spec.in_c, spec.out_c, spec.groups) != (spec.weight.channels,) * 3 or spec.weight.taps != taps:
        wrong.append(f"{spec.in_c} to {spec.out_c} channels in {spec.groups} groups with {taps} taps")
    if spec.transposed:
        wrong.append("the convolution is transposed")
    if dtypes[spec.x_buffer] not in _STORAGE or spec.weight.dtype not in _STORAGE:
        wrong.append(f"activations are {dtypes[spec.x_buffer]}, weights {spec.weight.dtype}")
    if wrong:
        raise InputError(f"unsuitable depthwise convolution: {'; '.join(wrong)}.")
    return spec.weight


def _body(plan: _Plan) -> list[str]:
    spec = plan.spec
    lines = plan.names.declarations()
    for name in ("in_h", "in_w", "out_h", "out_w", "x_stride_b", "x_stride_h", "x_stride_w"):
        lines += scalar(name, getattr(spec, name), plan.names)
    columns = f"{spec.kernel[1]}, {spec.stride[1]}, {spec.dilation[1]}"
    shape = f"DwShape<{columns}, {plan.x_storage}, {_STORAGE[plan.weight.dtype]}>"
    return [
        *lines,
        f"typedef {shape} Shape;",
        f"const ull_i64 blocks = (out_h + {_BLOCK_ROWS - 1}) / {_BLOCK_ROWS};",
        "for (ull_i64 task = begin; task < end; ++task) {",
        *indent(_task(plan)),
        "}",
    ]


def _task(plan: _Plan) -> list[str]:
    groups = -(-plan.vectors // _BLOCK_VECTORS)
    return [
        f"const ull_i64 first_row = task % blocks * {_BLOCK_ROWS};",
        f"const ull_i64 last_row = first_row + {_BLOCK_ROWS} < out_h ? first_row + {_BLOCK_ROWS} : out_h;",
        f"const ull_i64 first_vector = task / blocks % {groups} * {_BLOCK_VECTORS}, image = task / blocks / {groups};",
        f"const ull_i64 last_vector = first_vector + {_BLOCK_VECTORS} < {plan.vectors} ? "
        f"first_vector + {_BLOCK_VECTORS} : {plan.vectors};",
        "for (ull_i64 vector = first_vector; vector < last_vector; ++vector)",
        "  for (ull_i64 row = first_row; row < last_row; ++row) {",
        *indent(_row(plan), 4),
        "  }",
    ]


def _row(plan: _Plan) -> list[str]:
    """One output row of one vector of channels; kernel rows outside the image are left out."""
    spec, lanes = plan.spec, plan.target.lanes
    (kernel_h, kernel_w), dilation = spec.kernel, spec.dilation[0]
    x = f"({plan.x_storage}::memory *){plan.names.buffers[spec.x_buffer]}"
    w = f"({_STORAGE[plan.weight.dtype]}::memory *){plan.names.buffers['w']}"
    return [
        f"const ull_i64 n0 = vector * {lanes}, top = row * {spec.stride[0]} - {spec.padding[0]};",
        f"const ull_i64 skip = top < 0 ? (-top + {dilation - 1}) / {dilation} : 0;",
        f"const ull_i64 below = in_h - top <= 0 ? 0 : (in_h - top + {dilation - 1}) / {dilation};",
        f"const ull_i64 stop = below < {kernel_h} ? below : {kernel_h};",
        "DwRun<Shape> run;",
        f"run.w = {w} + (vector * {kernel_h} + skip) * {kernel_w * lanes};",
        f"run.row_stride = {dilation} * x_stride_h, run.column_stride = x_stride_w;",
        "run.rows = stop > skip ? stop - skip : 0, run.columns = in_w;",
        f"run.channels = {plan.weight.channels} - n0 < {lanes} ? {plan.weight.channels} - n0 : {lanes};",
        "ull_i64 column = 0;",
        "while (column < out_w) {",
        f"  ull_vec32 sums[{plan.columns[0]}];",
        "  ull_i64 count;",
        f"  run.column = column * {spec.stride[1]} - {spec.padding[1]};",
        f"  run.x = {x} + image * x_stride_b + (top + skip * {dilation}) * x_stride_h + run.column * x_stride_w + n0;",
        *indent(_runs(plan)),
        *indent(_epilogue(plan)),
        "  column += count;",
        "}",
    ]


def _runs(plan: _Plan) -> list[str]:
    lines: list[str] = []
    for i, columns in enumerate(plan.columns):
        last = i + 1 == len(plan.columns)
        test = "" if last else f"if (out_w - column >= {columns}) "
        lines.append(f"{'else ' if i else ''}{test}dw_columns<Shape, {columns}>(run, sums), count = {columns};")
    return lines


def _epilogue(plan: _Plan) -> list[str]:
    """Stores of a run; the channels of the last vector may be fewer than its lanes."""
    full = _stores(plan, None, "full")
    if plan.weight.channels % plan.target.lanes == 0:
        return full
    rest = _stores(plan, "run.channels", "rest")
    return [f"if (run.channels == {plan.target.lanes}) {{", *indent(full), "} else {", *indent(rest), "}"]


def _stores(plan: _Plan, valid: str | None, prefix: str) -> list[str]:
    setup, body = emit_epilogue(
        plan.spec.epilogue,
        plan.target,
        coords={**plan.names.dims, "m": "m"},
        lane_var="n",
        lane_base="n0",
        acc="acc",
        lanes_valid=valid,
        buffers=plan.names.buffers,
        prefix=prefix,
    )
    return [
        "for (ull_i64 j = 0; j < count; ++j) {",
        "  const ull_i64 m = (image * out_h + row) * out_w + column + j;",
        f"  const ull_f32<{plan.target.lanes}> acc = sums[j];",
        *indent([*setup.splitlines(), *body.splitlines()]),
        "}",
    ]
