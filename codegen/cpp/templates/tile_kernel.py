"""What GEMM and convolution kernels share: arguments, scalar expressions, the loops of the epilogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from ullage.codegen.cpp.exprs import Scope, emit_epilogue
from ullage.codegen.cpp.templates.tile import TileSet
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import Buffer, Expr, Store
from ullage.plan.sizes import Size
from ullage.target import Target

HEADERS = ("simd.h", "math.h", "tile.h")
STORAGE_STRUCT = {"float32": "float", "float16": "ull_f16", "bfloat16": "ull_bf16"}
"""C++ types of operand elements; the two half types differ so that `ull_widen_row` can tell them apart."""

_SYMBOL = "ULLAGE_KERNEL"


@dataclass(frozen=True, slots=True)
class Names:
    """C++ names of a kernel's buffers and dimensions (numbered, so that equal kernels have equal text)."""

    buffers: Mapping[str, str]
    dims: Mapping[str, str]

    @staticmethod
    def of(buffers: Sequence[Buffer], dims: Sequence[str]) -> Names:
        """Names in argument order."""
        return Names(
            {buffer.name: f"buffer{i}" for i, buffer in enumerate(buffers)},
            {name: f"dim{i}" for i, name in enumerate(dims)},
        )

    def declarations(self) -> list[str]:
        """Lines that read pointers and dimensions from the arguments."""
        pointers = [f"void *const {name} = args->p[{i}];" for i, name in enumerate(self.buffers.values())]
        return pointers + [f"const ull_i64 {name} = args->n[{i}];" for i, name in enumerate(self.dims.values())]


def scalar(name: str, expr: Expr, names: Names, coords: Mapping[str, str] | None = None) -> list[str]:
    """Lines that declare the C++ integer `name` with the value of an index expression."""
    scope = Scope({}, prefix=f"{name}_")
    scope.open("")
    for variable, text in {**names.dims, **(coords or {})}.items():
        scope.bind(variable, text)
    scope.line(f"const ull_i64 {name} = {scope.scalar(expr)};")
    return scope.close()


def indent(lines: Iterable[str], spaces: int = 2) -> list[str]:
    """The lines shifted to the right."""
    return [" " * spaces + line for line in lines]


def epilogue(
    stores: Sequence[Store],
    names: Names,
    tiles: TileSet,
    target: Target,
    coords: Mapping[str, str],
    ragged: bool,
    lead: Sequence[str] = (),
) -> list[str]:
    """Lines that store `rows` rows of sums at `c`; C++ `i` is the row within the tile and `n` the first output.

    `coords` gives the C++ text of the scalar coordinates in terms of `i`; `ragged` if n may end inside a vector;
    `lead` are lines that come first in every row.
    """
    lanes = tiles.lanes
    setup, body = _vector(stores, names, target, coords, None, "full")
    lines = [
        *setup,
        "ull_i64 n = n_begin;",
        f"for (; n + {lanes} <= n_end; n += {lanes}) {{",
        *indent([_load_sums(lanes), *body]),
        "}",
    ]
    if ragged:
        setup, body = _vector(stores, names, target, coords, "(n_end - n)", "rest")
        lines = [*setup, *lines, "if (n < n_end) {", *indent([_load_sums(lanes), *body]), "}"]
    return [
        "for (ull_i64 i = 0; i < rows; ++i) {",
        *indent([*lead, f"const float *const sum = c + i * {tiles.width};", *lines]),
        "}",
    ]


def _load_sums(lanes: int) -> str:
    return f"const ull_f32<{lanes}> acc = ull_load<float, {lanes}>(sum + (n - n_begin));"


def _vector(
    stores: Sequence[Store], names: Names, target: Target, coords: Mapping[str, str], valid: str | None, prefix: str
) -> tuple[list[str], list[str]]:
    setup, body = emit_epilogue(
        stores,
        target,
        coords={**names.dims, **coords},
        lane_var="n",
        lane_base="n",
        acc="acc",
        lanes_valid=valid,
        buffers=names.buffers,
        prefix=prefix,
    )
    return setup.splitlines(), body.splitlines()


def finish(
    functions: str,
    body: Sequence[str],
    buffers: Sequence[Buffer],
    dims: Sequence[str],
    tasks: Size,
    tiled: bool,
    thread_bytes: Size,
) -> Kernel:
    """The kernel of a function body, named by the hash of its text."""
    signature = f'extern "C" void {_SYMBOL}(const UllageArgs *args, ull_i64 begin, ull_i64 end) {{'
    text = "\n".join([functions, signature, *indent(body), "}", ""])
    symbol = f"k_{blake2b(text.encode(), digest_size=12).hexdigest()}"
    return Kernel(
        symbol=symbol,
        source=text.replace(_SYMBOL, symbol),
        headers=HEADERS,
        buffers=tuple(buffer.name for buffer in buffers),
        dims=tuple(dims),
        tasks=tasks,
        tiled=tiled,
        thread_bytes=thread_bytes,
    )
