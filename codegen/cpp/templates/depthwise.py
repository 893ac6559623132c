"""Depthwise convolution: runs of output columns per vector of channels, with the epilogue on finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ullage.codegen.cpp.exprs import emit_epilogue
from ullage.codegen.cpp.templates.tile_counts import ceil_div, combine, fold, known, to_size
from ullage.codegen.cpp.templates.tile_kernel import Names, finish, indent, scalar, with_numbered_dims
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import Apply, Store
from ullage.codegen.loops.poly import unique
from ullage.codegen.templates import Conv2d, PackedDepthwise
from ullage.codegen.tiling import DepthwiseTiling
from ullage.errors import InputError
from ullage.plan.sizes import Size
from ullage.target import Target

HEADERS = ("simd.h", "math.h", "depthwise.h")
_STORAGE = {"float32": "ull_float32", "bfloat16": "ull_bfloat16", "float16": "ull_float16"}
_CODES = "uint8"
_PAIR_TAPS = 9
_LIGHT_OPS = frozenset({"add", "sub", "mul", "div", "max", "min", "neg", "abs", "where", "lt", "le", "gt", "ge"})
_LIGHT_NODES = 12


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
        dtype = {b.name: b.dtype for b in self.spec.buffers}[self.spec.x_buffer]
        return f"ull_codes<{self.spec.border}>" if dtype == _CODES else _STORAGE[dtype]

    @property
    def light(self) -> bool:
        """Whether the stores are short enough to be repeated for every output of a run."""
        return _is_light(self.spec.epilogue)

    @property
    def pairs(self) -> bool:
        """Whether all taps of a small kernel stay in registers while two output rows are computed."""
        height, width = self.spec.kernel
        return self.tiling.pairs and self.target.registers == 32 and height > 1 and height * width <= _PAIR_TAPS

    @property
    def tiling(self) -> DepthwiseTiling:
        """How it is cut into runs and tasks."""
        return self.spec.tiling if isinstance(self.spec.tiling, DepthwiseTiling) else DepthwiseTiling()

    @property
    def groups(self) -> int:
        """Groups of vectors of channels that are a task each."""
        return -(-self.vectors // self.tiling.block_vectors)

    def columns(self, longest: int) -> tuple[int, ...]:
        """Lengths of runs, longest first: even ones where the width is known, else a ladder down to one."""
        width = known(self.spec.out_w)
        if width is None:
            return tuple(c for c in (8, 4, 1) if c <= longest)
        most = -(-width // -(-width // longest))
        return (most, width % most) if width % most else (most,)


def emit_depthwise(spec: Conv2d, target: Target) -> Kernel:
    """The kernel of a depthwise convolution for a CPU target; a task is some output rows of some vectors of channels.

    Each output is one sum over the taps inside the image, in ascending order, whatever the tasks and threads. Raises
    InputError for weights, dtypes or geometries that are not depthwise.
    """
    weight, numbered = _checked(spec, target), with_numbered_dims(spec)
    plan = _Plan(numbered, weight, target, Names.of(spec.buffers, spec.dims))
    rows = ceil_div(fold(numbered.out_h), plan.tiling.block_rows)
    tasks = combine("mul", combine("mul", fold(numbered.batch), plan.groups), rows)
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
    if dtypes[spec.x_buffer] not in (*_STORAGE, _CODES) or spec.weight.dtype not in _STORAGE:
        wrong.append(f"activations are {dtypes[spec.x_buffer]}, weights {spec.weight.dtype}")
    if wrong:
        raise InputError(f"unsuitable depthwise convolution: {'; '.join(wrong)}.")
    return spec.weight


def _body(plan: _Plan) -> list[str]:
    spec, rows = plan.spec, plan.tiling.block_rows
    lines = plan.names.declarations()
    for name in ("in_h", "in_w", "out_h", "out_w", "x_stride_b", "x_stride_h", "x_stride_w"):
        lines += scalar(name, getattr(spec, name), plan.names)
    down, across = (f"{spec.kernel[i]}, {spec.stride[i]}, {spec.dilation[i]}" for i in range(2))
    shape = f"DwShape<{across}, {plan.x_storage}, {_STORAGE[plan.weight.dtype]}>"
    return [
        *lines,
        f"typedef {shape} Shape;",
        f"typedef DwRows<{down}> Rows;",
        f"const ull_i64 blocks = (out_h + {rows - 1}) / {rows};",
        "for (ull_i64 task = begin; task < end; ++task) {",
        *indent(_task(plan)),
        "}",
    ]


def _task(plan: _Plan) -> list[str]:
    rows, vectors = plan.tiling.block_rows, plan.tiling.block_vectors
    return [
        f"const ull_i64 first_row = task % blocks * {rows};",
        f"const ull_i64 last_row = first_row + {rows} < out_h ? first_row + {rows} : out_h;",
        f"const ull_i64 first_vector = task / blocks % {plan.groups} * {vectors};",
        f"const ull_i64 image = task / blocks / {plan.groups};",
        f"const ull_i64 last_vector = first_vector + {vectors} < {plan.vectors} ? "
        f"first_vector + {vectors} : {plan.vectors};",
        "for (ull_i64 row = first_row; row < last_row;) {",
        *indent(_rows(plan)),
        "}",
    ]


def _rows(plan: _Plan) -> list[str]:
    """Two output rows if all their kernel rows are inside the image, else one without those that are outside."""
    (height, _), (stride, _), (dilation, _) = plan.spec.kernel, plan.spec.stride, plan.spec.dilation
    x = f"({plan.x_storage}::memory *){plan.names.buffers[plan.spec.x_buffer]} + image * x_stride_b"
    pair = [
        f"if (row + 1 < last_row && top >= 0 && top + {stride + (height - 1) * dilation} < in_h) {{",
        "  run.row_stride = x_stride_h;",
        *indent(_columns(plan, f"{x} + top * x_stride_h", "0", paired=True)),
        "  row += 2;",
        "  continue;",
        "}",
    ]
    return [
        f"const ull_i64 top = row * {stride} - {plan.spec.padding[0]};",
        "DwRun<Shape> run;",
        "run.column_stride = x_stride_w, run.columns = in_w;",
        *(pair if plan.pairs else []),
        f"const ull_i64 skip = top < 0 ? (-top + {dilation - 1}) / {dilation} : 0;",
        f"const ull_i64 below = in_h - top <= 0 ? 0 : (in_h - top + {dilation - 1}) / {dilation};",
        f"const ull_i64 stop = below < {height} ? below : {height};",
        f"run.row_stride = {dilation} * x_stride_h, run.rows = stop > skip ? stop - skip : 0;",
        *_columns(plan, f"{x} + (top + skip * {dilation}) * x_stride_h", "skip", paired=False),
        "++row;",
    ]


def _columns(plan: _Plan, x: str, skip: str, paired: bool) -> list[str]:
    """All runs of a row: the longest that fits, for each vector of channels."""
    lines: list[str] = []
    lengths = plan.columns(plan.tiling.pair_columns if paired else plan.tiling.columns)
    for i, length in enumerate(lengths):
        test = "" if i + 1 == len(lengths) else f"if (out_w - column >= {length}) "
        run = indent(_vectors(plan, x, skip, length, paired))
        lines += [f"{'else ' if i else ''}{test}{{", *run, f"  column += {length};", "}"]
    return [
        "for (ull_i64 column = 0; column < out_w;) {",
        "  const ull_i64 output = (image * out_h + row) * out_w + column;",
        f"  run.column = column * {plan.spec.stride[1]} - {plan.spec.padding[1]};",
        *indent(lines),
        "}",
    ]


def _vectors(plan: _Plan, x: str, skip: str, length: int, paired: bool) -> list[str]:
    spec, lanes, channels = plan.spec, plan.target.lanes, plan.weight.channels
    w = f"({_STORAGE[plan.weight.dtype]}::memory *){plan.names.buffers['w']}"
    lines = [
        f"const ull_i64 n0 = vector * {lanes};",
        f"run.x = {x} + run.column * x_stride_w + n0;",
        f"run.w = {w} + (vector * {spec.kernel[0]} + {skip}) * {spec.kernel[1] * lanes};",
        f"run.channels = {channels} - n0 < {lanes} ? {channels} - n0 : {lanes};",
    ]
    if channels % lanes:
        rest = [*_finish(plan, "finish_rest", "run.channels"), _call(plan, length, paired, "finish_rest"), "continue;"]
        lines += [f"if (run.channels < {lanes}) {{", *indent(rest), "}"]
    lines += [*_finish(plan, "finish", None), _call(plan, length, paired, "finish")]
    return ["for (ull_i64 vector = first_vector; vector < last_vector; ++vector) {", *indent(lines), "}"]


def _call(plan: _Plan, length: int, paired: bool, finish: str) -> str:
    tail = "true" if finish == "finish_rest" else "false"
    light = "true" if plan.light and finish == "finish" else "false"
    if paired:
        return f"dw_pair<Shape, Rows, {length}, {tail}, {light}>(run, output, out_w, {finish});"
    return f"dw_columns<Shape, {length}, {tail}, {light}>(run, output, {finish});"


def _is_light(stores: Sequence[Store]) -> bool:
    """Whether the stores are short enough to be repeated for every output of a run."""
    nodes = [node for store in stores for node in unique(store.value)]
    return len(nodes) <= _LIGHT_NODES and not any(isinstance(n, Apply) and n.op not in _LIGHT_OPS for n in nodes)


def _finish(plan: _Plan, name: str, valid: str | None) -> list[str]:
    """A C++ lambda that stores one vector of outputs."""
    setup, body = emit_epilogue(
        plan.spec.epilogue,
        plan.target,
        coords={**plan.names.dims, "m": "m"},
        lane_var="n",
        lane_base="n0",
        acc="acc",
        lanes_valid=valid,
        buffers=plan.names.buffers,
        prefix=name,
    )
    head = f"const auto {name} = [&](ull_i64 m, ull_f32<{plan.target.lanes}> acc) __attribute__((always_inline)) {{"
    return [head, *indent([*setup.splitlines(), *body.splitlines()]), "};"]
