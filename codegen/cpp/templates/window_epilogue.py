"""Epilogues over windows of a convolution's lines: a task computes lines, and pools them while they are in its cache.

A task goes down some pooled lines of an image, for one tile of channels, in bands. Lines of the convolution that nobody
else reads lie in the thread's workspace; those that the next band's windows share move to its front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ullage.codegen.cpp.emit import emit_rows
from ullage.codegen.cpp.templates.tile_counts import known
from ullage.codegen.cpp.templates.tile_kernel import SYMBOL, indent
from ullage.codegen.loops.ir import DTYPE_BYTES, Expr, Load, Var
from ullage.codegen.loops.poly import Poly, linear_in, rewrite, to_expr, to_poly
from ullage.codegen.loops.traverse import map_kernel
from ullage.codegen.templates import Conv2d, PackedPanels, Windows
from ullage.errors import InputError
from ullage.target import Target

LINES = f"{SYMBOL}_lines"
"""The function over rows of one tile that bands are computed by."""
_POOL = f"{SYMBOL}_pool"
_BAND_BYTES = 192 << 10
"""Of the convolution's lines in a band: a part of a core's own cache, beside the weights of a tile."""
_TASKS_OF_A_THREAD = 8
_TASKS_WITH_OVERLAP = 2
_LONGEST_OVERLAP = 16
"""At most one of so many lines is computed twice, unless threads would be idle."""
_ROWS_OF_A_TASK = 128
"""At least, as weights pass through the caches for each task."""


@dataclass(frozen=True, slots=True)
class WindowEpilogue:
    """The bands of a convolution with a window epilogue, of known size but for the number of images."""

    spec: Conv2d
    windows: Windows
    target: Target

    @property
    def local(self) -> str | None:
        """The buffer that exists in bands only."""
        return next((b.name for b in self.spec.buffers if b.access == "local"), None)

    @property
    def height(self) -> int:
        """Lines of the convolution."""
        return _number(self.spec.out_h)

    @property
    def width(self) -> int:
        """Pixels of a line of the convolution."""
        return _number(self.spec.out_w)

    @property
    def panels(self) -> PackedPanels:
        """The weights."""
        assert isinstance(self.spec.weight, PackedPanels)
        return self.spec.weight

    @property
    def line_bytes(self) -> int:
        """Bytes of a line of one tile's channels."""
        return self.width * self.panels.nr * self._item_bytes

    @property
    def _item_bytes(self) -> int:
        """Bytes of an element of what is pooled."""
        stored = {store.buffer for store in self.spec.epilogue}
        return next(DTYPE_BYTES[b.dtype] for b in self.windows.kernel.buffers if b.name in stored)

    @property
    def band(self) -> int:
        """Pooled lines of a band."""
        fitting = (_BAND_BYTES // self.line_bytes - self.windows.overlap) // self.windows.stride
        return max(1, min(self.windows.lines, fitting))

    @property
    def pieces(self) -> int:
        """Tasks of a tile for each image: enough for all threads, few enough for their weights and common lines."""
        lines, stride, overlap = self.windows.lines, self.windows.stride, self.windows.overlap
        wanted = self.target.threads * (_TASKS_WITH_OVERLAP if overlap else _TASKS_OF_A_THREAD)
        shortest = max(-(-overlap * _LONGEST_OVERLAP // stride), -(-_ROWS_OF_A_TASK // (stride * self.width)))
        least = min(self.target.threads, lines)
        return max(1, min(-(-wanted // (known(self.spec.batch) or 1)), max(least, lines // shortest)))

    @property
    def task_lines(self) -> int:
        """Pooled lines of a task."""
        return -(-self.windows.lines // self.pieces)

    @property
    def band_bytes(self) -> int:
        """Bytes of the local lines that a thread keeps."""
        if self.local is None:
            return 0
        return ((self.band - 1) * self.windows.stride + self.windows.reach) * self.line_bytes

    def with_compact_lines(self) -> WindowEpilogue:
        """The same with local lines that are as wide as a tile of channels, not as all of them."""
        if self.local is None:
            return self
        name, channel = self.local, self.windows.kernel.outer[-1].var

        def load(e: Expr) -> Expr:
            if not isinstance(e, Load) or e.buffer != name:
                return e
            return replace(e, index=self._compact(e.index, channel))

        kernel = map_kernel(self.windows.kernel, lambda root: rewrite(root, load))
        stores = tuple(replace(s, index=self._compact(s.index, "n")) for s in self.spec.epilogue)
        windows = replace(self.windows, kernel=kernel)
        return replace(self, spec=replace(self.spec, epilogue=stores), windows=windows)

    def _compact(self, index: Expr, channel: str) -> Expr:
        split = linear_in(to_poly(index), channel)
        if split is None or split[0].value != 1:
            raise InputError(f"channels of a window epilogue are not side by side at {index!r}.")
        rows = {monomial: factor // self.spec.out_c * self.panels.nr for monomial, factor in split[1].terms.items()}
        return to_expr(Poly(rows) + Poly.atom(Var(channel)))

    def functions(self) -> str:
        """The C++ function that pools lines."""
        return emit_rows(self.windows.kernel, self.target, _POOL).text

    def body(self, outputs: Sequence[str], offset: int) -> list[str]:
        """Lines of the kernel; `outputs` give a tile's `n_begin` and `n_end`, local lines are at an offset in bytes.

        They expect the C++ variable `IMAGES`.
        """
        windows, pixels = self.windows, _number(self.windows.kernel.outer[-2].extent)
        first = f"line * {windows.stride} - {windows.padding}"
        return [
            f"const ull_i64 first_tile = args->n[{len(self.spec.dims)}];",
            *self._arguments(),
            "for (ull_i64 task = begin; task < end; ++task) {",
            *indent([*self._task(), *outputs]),
            "  ull_i64 done = 0, front = 0, top, bottom;",
            "  for (ull_i64 line = first_line, next; line < last_line; line = next, done = bottom, front = top) {",
            f"    next = line + {self.band} < last_line ? line + {self.band} : last_line;",
            f"    top = {first} > 0 ? {first} : 0, bottom = {self._bottom()};",
            "    const ull_i64 start = done > top ? done : top;",
            *indent(self._local_lines(offset), 4),
            f"    {LINES}(&own, tile, (image * {self.height} + start) * {self.width}, "
            f"(image * {self.height} + bottom) * {self.width});",
            f"    {_POOL}(&pool, (image * {windows.lines} + line) * {pixels}, "
            f"(image * {windows.lines} + next) * {pixels}, n_begin, n_end);",
            "  }",
            "}",
        ]

    def _arguments(self) -> list[str]:
        """Arguments of both functions: the kernel's, and a pointer to the local lines."""
        given = [f"args->p[{i}]" for i in range(len(self.spec.buffers) - (self.local is not None))]
        places = {buffer.name: i for i, buffer in enumerate(self.spec.buffers)}
        pool = [f"own_p[{places[b.name]}]" for b in self.windows.kernel.buffers]
        integers = [f"args->n[{self.spec.dims.index(name)}]" for name in self.windows.kernel.dims] or ["0"]
        return [
            f"void *own_p[] = {{{', '.join([*given, *(['nullptr'] if self.local else [])])}}};",
            f"void *pool_p[] = {{{', '.join(pool)}}};",
            f"const ull_i64 pool_n[] = {{{', '.join(integers)}}};",
            "const UllageArgs own = {own_p, args->n, args->shared, args->thread};",
            "const UllageArgs pool = {pool_p, pool_n, args->shared, args->thread};",
        ]

    def _task(self) -> list[str]:
        """Which tile, image and pooled lines a task is about; the tasks of a tile follow each other."""
        per_task, lines, pieces = self.task_lines, self.windows.lines, self.pieces
        return [
            f"const ull_i64 tile = task / (IMAGES * {pieces}), piece = task % (IMAGES * {pieces});",
            f"const ull_i64 image = piece / {pieces}, first_line = piece % {pieces} * {per_task};",
            f"const ull_i64 last_line = first_line + {per_task} < {lines} ? first_line + {per_task} : {lines};",
        ]

    def _bottom(self) -> str:
        """C++ text of the line after the last one of a band: what its windows need, or all up to the next band."""
        windows = self.windows
        if self.local is None:
            return f"next < {windows.lines} ? next * {windows.stride} - {windows.padding} : {self.height}"
        last = f"(next - 1) * {windows.stride} + {windows.reach - windows.padding}"
        return f"{last} < {self.height} ? {last} : {self.height}"

    def _local_lines(self, offset: int) -> list[str]:
        """Lines that keep what the last band has computed already, and point to where local line 0 would be."""
        if self.local is None:
            return []
        names = [b.name for b in self.windows.kernel.buffers]
        elements = f"((image * {self.height} + top) * {self.width * self.panels.nr} + n_begin)"
        return [
            f"char *const lines = (char *)args->thread + {offset};",
            f"if (done > top) __builtin_memmove(lines, lines + (top - front) * {self.line_bytes}, "
            f"(done - top) * {self.line_bytes});",
            f"own_p[{len(self.spec.buffers) - 1}] = pool_p[{names.index(self.local)}] = "
            f"lines - {elements} * {self._item_bytes};",
        ]


def _number(size: Expr) -> int:
    found = known(size)
    if found is None:
        raise InputError(f"a window epilogue is over lines of known size, found {size!r}.")
    return found
