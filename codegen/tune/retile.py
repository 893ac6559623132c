"""Putting tilings into a schedule: the same steps over the same operands, launching other kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ullage.codegen.emit import emit_kernel
from ullage.codegen.kernel import Kernel
from ullage.codegen.schedule.build import Scheduled
from ullage.codegen.templates import Conv2d, Gemm
from ullage.codegen.tiling import AnyTiling, Tiling
from ullage.plan.sizes import Size
from ullage.plan.steps import Gather, Step
from ullage.target import Target


@dataclass(frozen=True, slots=True)
class Retiled:
    """A specification with its tiling, and the kernel made of it."""

    spec: Gemm | Conv2d
    kernel: Kernel


def retile(spec: Gemm | Conv2d, tiling: AnyTiling, target: Target) -> Retiled:
    """The kernel of a specification with another tiling; its buffers and dimensions stay in their order."""
    if isinstance(spec, Gemm):
        assert isinstance(tiling, Tiling), "matrix products have no channels of their own"
        tiled: Gemm | Conv2d = replace(spec, tiling=tiling)
    else:
        tiled = replace(spec, tiling=tiling)
    return Retiled(tiled, emit_kernel(tiled, target))


def with_tilings(scheduled: Scheduled, tilings: Mapping[str, AnyTiling], target: Target) -> Scheduled:
    """The schedule with the tilings of some of its template kernels, by symbol, in place of their own."""
    made: dict[str, Retiled] = {}
    for symbol, tiling in tilings.items():
        spec = scheduled.specs[symbol]
        assert isinstance(spec, Gemm | Conv2d), "only tiled templates are tuned"
        made[symbol] = retile(spec, tiling, target)
    steps = tuple(_step(step, scheduled, made) for step in scheduled.schedule.steps)
    symbols = dict.fromkeys(step.kernel for step in steps if isinstance(step, Step))
    kernels = scheduled.kernels | {r.kernel.symbol: r.kernel for r in made.values()}
    specs = scheduled.specs | {r.kernel.symbol: r.spec for r in made.values()}
    return replace(
        scheduled,
        schedule=replace(scheduled.schedule, steps=steps),
        kernels={symbol: kernels[symbol] for symbol in symbols},
        specs={symbol: specs[symbol] for symbol in symbols},
    )


def _step(step: Step | Gather, scheduled: Scheduled, made: Mapping[str, Retiled]) -> Step | Gather:
    if isinstance(step, Gather) or step.kernel not in made:
        return step
    kernel = made[step.kernel].kernel
    names = dict(zip(kernel.dims, (size.tokens[0] for size in step.integers), strict=True))

    def here(size: Size) -> Size:
        return Size(tuple(names.get(token, token) if isinstance(token, str) else token for token in size.tokens))

    return replace(
        step,
        kernel=kernel.symbol,
        tasks=here(kernel.tasks),
        shared_bytes=here(kernel.shared_bytes),
        thread_bytes=here(kernel.thread_bytes),
    )
