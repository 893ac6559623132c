"""The kernels that are worth tuning: how often they are launched, over which operands, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ullage.analysis.cost import roofline_seconds
from ullage.codegen.kernel import Kernel
from ullage.codegen.schedule.build import Scheduled
from ullage.codegen.templates import Conv2d, Gemm
from ullage.plan.simulate import Rates
from ullage.plan.steps import Schedule, Step

_LEAST_SHARE = 0.003
"""Of the time of all launches together: a kernel below it cannot gain what measuring it takes."""


@dataclass(frozen=True, slots=True)
class Operand:
    """Memory that a kernel works on: its bytes, the type of its elements, and the operand whose memory it takes over
    (its own place if none)."""

    bytes: int
    dtype: str
    same_as: int


@dataclass(frozen=True, slots=True)
class Work:
    """One template kernel of a schedule at the upper bounds of its dimensions.

    `operands` are in the kernel's order, `offsets` where in them it begins; `seconds` is the cost model's time of all
    its launches.
    """

    name: str
    spec: Gemm | Conv2d
    kernel: Kernel
    launches: int
    seconds: float
    operands: tuple[Operand, ...]
    offsets: tuple[int, ...]
    dims: tuple[int, ...]
    weight_tiles: int

    @property
    def key(self) -> str:
        """What choices are cached under: the name of the kernel, which is the hash of its text, and its dimensions."""
        return " ".join((self.kernel.symbol, *map(str, self.dims)))

    @property
    def bytes(self) -> int:
        """Bytes of all operands."""
        return sum(o.bytes for i, o in enumerate(self.operands) if o.same_as == i)


def works(scheduled: Scheduled, rates: Rates) -> tuple[Work, ...]:
    """The kernels whose tiling may be worth measuring, those that cost most first."""
    schedule = scheduled.schedule
    dims = {d.name: d.maximum for d in schedule.dimensions}
    steps = [step for step in schedule.steps if isinstance(step, Step)]
    costs: dict[str, float] = {}
    for step in steps:
        costs[step.kernel] = costs.get(step.kernel, 0.0) + _seconds(step, rates)
    least = _LEAST_SHARE * sum(costs.values())
    found = []
    for step in {step.kernel: step for step in reversed(steps)}.values():
        spec = scheduled.specs[step.kernel]
        if isinstance(spec, Gemm | Conv2d) and costs[step.kernel] >= least:
            launches = sum(other.kernel == step.kernel for other in steps)
            kernel = scheduled.kernels[step.kernel]
            found.append(_work(step, spec, kernel, launches, costs[step.kernel], schedule, dims))
    return tuple(sorted(found, key=lambda work: (-work.seconds, work.kernel.symbol)))


def _seconds(step: Step, rates: Rates) -> float:
    return rates.launch_seconds + roofline_seconds(step.flops, step.bytes, rates.flops_per_s, rates.memory_bytes_per_s)


def _work(
    step: Step, spec: Gemm | Conv2d, kernel: Kernel, launches: int, seconds: float, schedule: Schedule,
    dims: Mapping[str, int],
) -> Work:  # fmt: skip
    sizes = {s.name: s.bytes.evaluate(dims) for s in schedule.storages} | {c.name: c.bytes for c in schedule.constants}
    dtypes = {b.name: b.dtype for b in spec.buffers}
    places = _places(step)
    operands = tuple(
        Operand(sizes[o.target], dtypes[name], place)
        for o, name, place in zip(step.operands, kernel.buffers, places, strict=True)
    )
    tiles = [c.tiles for o in step.operands if o.tiled for c in schedule.constants if c.name == o.target]
    offsets = tuple(o.offset.evaluate(dims) for o in step.operands)
    integers = tuple(size.evaluate(dims) for size in step.integers)
    return Work(
        step.name, spec, kernel, launches, seconds, operands, offsets, integers, tiles[0] if tiles else 0
    )  # fmt: skip


def _places(step: Step) -> list[int]:
    """For each operand the one whose memory it shares: the first of equal ones, and what it may be written over."""
    targets = [o.target for o in step.operands]
    places = [targets.index(target) for target in targets]
    for read, written in step.inplace[:1]:
        pair = (places[read], places[written])
        places = [min(pair) if place in pair else place for place in places]
    return places
