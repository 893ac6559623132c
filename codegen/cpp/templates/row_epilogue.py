"""Epilogues that need whole rows: whoever stores the last outputs of a block of rows runs them on that block.

The tasks of the launch that ends the rows count themselves, by block of rows, in the launch's workspace. (CUTLASS and
Stream-K count arrivals the same way.) Which thread comes last decides nothing but who does the work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ullage.codegen.cpp.emit import emit_rows
from ullage.codegen.cpp.templates.tile_counts import to_size
from ullage.codegen.cpp.templates.tile_kernel import SYMBOL
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import Expr, LoopKernel
from ullage.codegen.templates import Conv2d, Gemm, PackedPanels
from ullage.codegen.tiling import Tiling
from ullage.plan.sizes import ZERO_SIZE, Size
from ullage.target import Target

_NAME = f"{SYMBOL}_rows"
_COUNTER_BYTES = 4


@dataclass(frozen=True, slots=True)
class RowEpilogue:
    """The row epilogue of a product or convolution over packed panels, or nothing if it has none."""

    spec: Gemm | Conv2d
    target: Target

    @property
    def kernel(self) -> LoopKernel | None:
        """What runs on finished rows."""
        return self.spec.rows

    @property
    def tiles_first(self) -> bool:
        """Whether tasks go through the tiles of the weights for each block of rows."""
        tiling = self.spec.tiling
        return self.kernel is not None or (isinstance(tiling, Tiling) and tiling.tiles_first)

    def functions(self) -> str:
        """The C++ function over a range of rows."""
        return "" if self.kernel is None else emit_rows(self.kernel, self.target, _NAME).text

    def with_workspace(self, kernel: Kernel) -> Kernel:
        """The kernel with room for the row epilogue, which uses a thread's workspace after the tiles of a task."""
        if self.kernel is None:
            return kernel
        needed = emit_rows(self.kernel, self.target, _NAME).thread_bytes
        return replace(kernel, thread_bytes=kernel.thread_bytes.maximum(needed))

    def shared_bytes(self, blocks: Expr) -> Size:
        """Workspace of a launch: one counter for each block of rows."""
        return ZERO_SIZE if self.kernel is None else to_size(blocks) * _COUNTER_BYTES

    def setup(self) -> list[str]:
        """Lines before the tasks; they expect the C++ variable `first_tile`."""
        spec, panels = self.spec, self.spec.weight
        count = [f"const ull_i64 tile_count = args->n[{len(spec.dims) + 1}];"] if self.tiles_first else []
        if self.kernel is None:
            return count
        assert isinstance(panels, PackedPanels)
        places = {buffer.name: i for i, buffer in enumerate(spec.buffers)}
        pointers = [f"args->p[{places[b.name]}]" for b in self.kernel.buffers if b.access != "local"]
        integers = [f"args->n[{spec.dims.index(name)}]" for name in self.kernel.dims] or ["0"]
        return [
            *count,
            f"const bool ends_rows = first_tile + tile_count == {panels.tiles};",
            "int *const arrived = (int *)args->shared;",
            f"void *const row_p[] = {{{', '.join(pointers)}}};",
            f"const ull_i64 row_n[] = {{{', '.join(integers)}}};",
            "const UllageArgs row_args = {row_p, row_n, args->shared, args->thread};",
        ]

    def place(self, blocks: str) -> list[str]:
        """Lines that give a task's `tile` and `block`, of so many blocks (C++ text).

        The blocks of a tile follow each other, so that its weights stay in the cache, unless the tiling says
        otherwise. With a row epilogue the tiles of a block do: threads end their rows at different times, and each in
        its own cache.
        """
        if not self.tiles_first:
            return [f"const ull_i64 tile = task / {blocks}, block = task % {blocks};"]
        return ["const ull_i64 tile = task % tile_count, block = task / tile_count;"]

    def after_task(self, first: str, last: str) -> list[str]:
        """Lines at the end of a task (C++ texts: first row and end of its block)."""
        if self.kernel is None:
            return []
        arrival = "__atomic_add_fetch(arrived + block, 1, __ATOMIC_ACQ_REL)"
        return [f"if (ends_rows && {arrival} == tile_count) {_NAME}(&row_args, {first}, {last});"]
