"""What GEMM and convolution kernels share: arguments, scalar expressions, the loops of the epilogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from ullage.codegen.cpp.exprs import Scope
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import Buffer, Expr
from ullage.plan.sizes import Size

HEADERS = ("simd.h", "math.h", "tile.h")
STORAGE_STRUCT = {"float32": "float", "float16": "ull_f16", "bfloat16": "ull_bf16"}
"""C++ types of operand elements; the two half types differ so that `ull_widen_row` can tell them apart."""

SYMBOL = "ULLAGE_KERNEL"
"""Stands for the kernel's symbol in its text until the text is complete."""


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
    signature = f'extern "C" void {SYMBOL}(const UllageArgs *args, ull_i64 begin, ull_i64 end) {{'
    text = "\n".join([functions, signature, *indent(body), "}", ""])
    symbol = f"k_{blake2b(text.encode(), digest_size=12).hexdigest()}"
    return Kernel(
        symbol=symbol,
        source=text.replace(SYMBOL, symbol),
        headers=HEADERS,
        buffers=tuple(buffer.name for buffer in buffers),
        dims=tuple(dims),
        tasks=tasks,
        tiled=tiled,
        thread_bytes=thread_bytes,
    )
