"""From Triton text to a function, and to a cubin without a GPU."""

from __future__ import annotations

import linecache
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ullage.codegen.triton.emit import TritonKernel
from ullage.errors import ToolchainError


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code of one kernel: `symbol` is its entry, `shared_bytes` its dynamic shared memory per program."""

    symbol: str
    code: bytes
    warps: int
    shared_bytes: int


def load_function(kernel: TritonKernel) -> Any:
    """The Triton function of a kernel (interpreted if TRITON_INTERPRET was set when Triton was imported)."""
    filename = f"<ullage {kernel.symbol}>"
    linecache.cache[filename] = (len(kernel.source), None, kernel.source.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"__name__": f"ullage_{kernel.symbol}", "__file__": filename}
    exec(compile(kernel.source, filename, "exec"), namespace)
    return namespace[kernel.symbol]


def compile_cubin(kernel: TritonKernel, arch: int, aligned: Collection[str] = ()) -> Cubin:
    """Compile for sm_`arch`; buffers named in `aligned` are known to start at multiples of 16 bytes.

    Line information is left out: it would be two thirds of the code's bytes.
    Raises ToolchainError if Triton or its assembler fails.
    """
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = load_function(kernel)
    positions = [i for i, name in enumerate(kernel.buffers) if name in aligned]
    attributes = {(i,): [["tt.divisibility", 16]] for i in positions}
    signature = {**kernel.signature, **dict.fromkeys(kernel.constexprs, "constexpr")}
    source = ASTSource(fn=function, signature=signature, constexprs=dict(kernel.constexprs), attrs=attributes)
    try:
        with knobs.compilation.scope():
            knobs.compilation.disable_line_info = True
            built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=_options(kernel))
    except Exception as error:
        raise ToolchainError(f"Triton could not compile {kernel.symbol} for sm_{arch}: {error}") from error
    return Cubin(built.metadata.name, built.asm["cubin"], built.metadata.num_warps, built.metadata.shared)


def _options(kernel: TritonKernel) -> dict[str, object]:
    """Every operator rounds on its own, as on the CPU: products are not contracted with later sums."""
    return {"num_warps": kernel.warps, "enable_fp_fusion": False}
