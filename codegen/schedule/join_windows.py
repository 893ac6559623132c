"""Window epilogues: a max- or average-pool over the output of a convolution becomes part of the convolution's kernel.

A task computes some lines of the convolution and pools them while they are in its cache. What only the pool reads has
no memory of its own beyond those lines: each thread keeps as many as its windows need. Where windows overlap, a task's
first lines are computed again by the one before it, so tasks are then as long as threads allow. (Halide calls this
`compute_at` with sliding windows; Alwani et al. 2016 fuse layers of convolutions so.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeGuard

from ullage.codegen.emit import Spec, walks_channels
from ullage.codegen.loops.ir import Buffer, Const, Load, Loop, LoopKernel
from ullage.codegen.loops.normal import normalise
from ullage.codegen.loops.poly import Poly, linear_in, to_poly
from ullage.codegen.loops.traverse import with_buffers
from ullage.codegen.lower.shapes import numel
from ullage.codegen.schedule.joining import (
    is_private,
    loads_of_stores,
    names_for,
    producers,
    put,
    reducing,
    rows_of,
    stored_densely,
)
from ullage.codegen.schedule.lowered import Lowered, Pending
from ullage.codegen.templates import Conv2d, PackedPanels, Windows
from ullage.plan.steps import Storage
from ullage.target import Target

_WINDOW = 32
"""Most lines of a window: larger ones are means over an image, which wait for all of it."""
_LINES_OF_A_THREAD = 2
"""Pooled lines that there are at least, so that all threads have tasks whatever part of the weights a launch has."""


@dataclass
class WindowJoiner:
    """Joins pools to convolutions over a list of steps; `storages` loses what is no longer needed."""

    steps: list[Pending]
    storages: list[Storage]
    target: Target
    dim_max: Mapping[str, int]

    def run(self) -> None:
        """Join what can be joined."""
        for pool, kernel in reducing(self.steps):
            self._join(pool, kernel)

    def _join(self, pool: Lowered, kernel: LoopKernel) -> None:
        for convolution in producers(self.steps, pool):
            joined = self._joined(convolution, pool, kernel)
            if joined is not None:
                put(self.steps, convolution, pool, joined)
                return

    def _joined(self, convolution: Lowered, pool: Lowered, kernel: LoopKernel) -> Lowered | None:
        """One kernel of both; None if there is none or it does not pay."""
        spec, names = convolution.spec, names_for(convolution, pool)
        if names is None or not _may_join(spec):
            return None
        found = join(spec, kernel, names, self.target, self.dim_max)
        if found is None or found.windows is None:
            return None
        operands = {**convolution.operands, **{names[name]: operand for name, operand in pool.operands.items()}}
        name = f"{convolution.name}+{pool.name}"
        private = self._private(convolution, pool)
        if private is None:
            return None if found.windows.overlap else Lowered(name, found, operands)
        storage = operands.pop(private).storage
        self.storages[:] = [s for s in self.storages if s.name != storage]
        return Lowered(name, _local(found, private), operands)

    def _private(self, convolution: Lowered, pool: Lowered) -> str | None:
        """The convolution's result, if it is one that only the pool reads."""
        written = {b.name: convolution.operands[b.name].storage for b in convolution.spec.buffers if b.access != "r"}
        (name, *more) = sorted(written, key=lambda name: written[name] not in pool.reads())
        private = not more and is_private(self.steps, self.storages, written[name], convolution, pool)
        return name if private else None


def _may_join(spec: Spec) -> TypeGuard[Conv2d]:
    if not isinstance(spec, Conv2d) or spec.later or spec.transposed:
        return False
    return isinstance(spec.weight, PackedPanels) and isinstance(spec.out_w, Const)


def join(
    spec: Conv2d, pool: LoopKernel, names: Mapping[str, str], target: Target, dim_max: Mapping[str, int]
) -> Conv2d | None:
    """One kernel of a convolution and a loop kernel over windows of its lines; None if the loops go otherwise."""
    plain = with_buffers(normalise(pool), dict(names))
    if any(b.access == "local" for b in plain.buffers) or not walks_channels(plain, target):
        return None
    read = {load.buffer for load in loads_of_stores(spec, plain)}
    if not all(stored_densely(spec, store, dim_max) for store in spec.epilogue if store.buffer in read):
        return None
    windows = _windows(spec, plain)
    if windows is None or windows.lines < _LINES_OF_A_THREAD * target.threads:
        return None
    own = {b.name for b in spec.buffers}
    more = [b for b in plain.buffers if b.name not in own]
    dims = tuple(sorted({*spec.dims, *plain.dims}))
    return replace(spec, buffers=(*spec.buffers, *more), dims=dims, windows=windows)


def _local(spec: Conv2d, name: str) -> Conv2d:
    """The kernel with the buffer of this name as a local one, behind all others."""
    (old,) = (b for b in spec.buffers if b.name == name)
    rows, width = rows_of(spec)
    local = Buffer(name, old.dtype, "local", numel((rows, width)))
    return replace(spec, buffers=(*(b for b in spec.buffers if b.name != name), local))


def _windows(spec: Conv2d, pool: LoopKernel) -> Windows | None:
    """The windows that all loads of the convolution's output have; None if they have none, or different ones."""
    found = {_window_of(spec, pool, load) for load in loads_of_stores(spec, pool)}
    return found.pop() if len(found) == 1 else None


def _window_of(spec: Conv2d, pool: LoopKernel, load: Load) -> Windows | None:
    """The window of a load at (line · out_w + column) · out_c + channel, lines and columns linear in the loops."""
    height, width = spec.out_h, spec.out_w
    if not isinstance(height, Const) or not isinstance(width, Const):
        return None
    pixel = _pixel(to_poly(load.index), pool.outer[-1].var, spec.out_c)
    if pixel is None:
        return None
    *lead, across = pool.outer[:-1]
    steps = _steps(pixel, [loop.var for loop in (*pool.outer[:-1], *(x for s in pool.stages for x in s.loops))])
    if steps is None or not lead or not 0 < steps[across.var] < width.value:
        return None
    lines = _lines(spec, lead, steps, int(height.value), int(width.value))
    reach = _reach(pool, steps, int(width.value))
    before = -pixel.terms.get((), 0)
    if lines is None or reach is None or before < 0:
        return None
    return Windows(pool, lines, steps[lead[-1].var] // int(width.value), before // int(width.value), reach)


def _pixel(index: Poly, channel: str, channels: int) -> Poly | None:
    """(index − channel) / channels, where the channel has stride 1 and the rest is a multiple."""
    split = linear_in(index, channel)
    if split is None or split[0].value != 1 or any(factor % channels for factor in split[1].terms.values()):
        return None
    return Poly({monomial: factor // channels for monomial, factor in split[1].terms.items()})


def _steps(pixel: Poly, variables: Iterable[str]) -> dict[str, int] | None:
    """The step of each variable; None if one has none that is a positive number, or if there is more than that."""
    steps: dict[str, int] = {}
    for var in variables:
        split = linear_in(pixel, var)
        if split is None or split[0].value is None or split[0].value < 0:
            return None
        steps[var], pixel = split[0].value, split[1]
    return steps if pixel.value is not None else None


def _lines(spec: Conv2d, lead: list[Loop], steps: Mapping[str, int], height: int, width: int) -> int | None:
    """Pooled lines of an image; `lead` counts lines, images and lines, or the lines of all images."""
    down = lead[-1]
    stride, rest = divmod(steps[down.var], width)
    if rest or not stride or len(lead) > 2 or (len(lead) == 2 and steps[lead[0].var] != height * width):
        return None
    if len(lead) == 2 or spec.batch == Const(1):
        return int(down.extent.value) if isinstance(down.extent, Const) else None
    return None if height % stride else height // stride


def _reach(pool: LoopKernel, steps: Mapping[str, int], width: int) -> int | None:
    """Lines of a window; None if it is wider than a line, or too high."""
    down = across = 1
    for loop in (loop for stage in pool.stages for loop in stage.loops):
        if not isinstance(loop.extent, Const):
            return None
        step, more = steps[loop.var], int(loop.extent.value) - 1
        down, across = (down + step // width * more, across) if step % width == 0 else (down, across + step * more)
    return down if across <= width and down <= _WINDOW else None
