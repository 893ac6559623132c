"""The launches of a model that lose most against the machine's limits, everything in memory.

`python -m benchmarks.launches MODEL [--threads N] [--rounds N] [--top N] [--quantize S]`. The limit of a launch is the
larger of its operations over the peak of multiply-adds and its bytes over the rate at which a cache of the second level
copies, both measured beside it; what is between that and the launch's median is its loss.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kernels import Bench
from benchmarks.zoo import sample
from ullage.bench import as_array
from ullage.calling import Convention
from ullage.codegen.schedule.build import Scheduled
from ullage.codegen.templates import Conv2d, Gemm
from ullage.flow import Source, capture, prepare
from ullage.options import CompileOptions
from ullage.plan.plan import Launch
from ullage.plan.sizes import evaluate
from ullage.plan.steps import Step
from ullage.runtime.load import load
from ullage.scratch import Scratch
from ullage.target import Target, available_threads

_COPY_BYTES = 1 << 17
_COPIES = 200
_LARGE_FLOPS = 20e6
_REACHED = 0.9


@dataclass(frozen=True)
class Line:
    """One launch: what it computes, its work, and its median seconds; `product`: a matrix product or convolution."""

    name: str
    product: bool
    tasks: int
    flops: int
    bytes: int
    seconds: float

    def limit_seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The least time that the machine's rates allow."""
        return max(self.flops / flops_per_s, self.bytes / bytes_per_s)


@dataclass(frozen=True)
class Profile:
    """The launches of a model, the median seconds of a run, and the machine's rates at the time (of all threads)."""

    name: str
    lines: tuple[Line, ...]
    run_seconds: float
    flops_per_s: float
    bytes_per_s: float

    def limit_seconds(self, line: Line) -> float:
        """The least time of a launch."""
        return line.limit_seconds(self.flops_per_s, self.bytes_per_s)

    @property
    def fraction(self) -> float:
        """The limits of all launches over a run: the fraction of the roofline."""
        return sum(map(self.limit_seconds, self.lines)) / self.run_seconds

    @property
    def large_products(self) -> list[float]:
        """Fractions of the peak of the products above 20 million operations that these bound, ascending."""
        return sorted(
            line.flops / line.seconds / self.flops_per_s
            for line in self.lines
            if line.product
            and line.flops > _LARGE_FLOPS
            and line.flops / self.flops_per_s >= line.bytes / self.bytes_per_s
        )

    def summary(self) -> str:
        """One line."""
        whole = f"{self.name}: a run {1e3 * self.run_seconds:.2f} ms, {self.fraction:.0%} of the roofline "
        rates = f"({self.flops_per_s / 1e9:.0f} GFLOP/s, {self.bytes_per_s / 1e9:.0f} GB/s)"
        large = self.large_products
        if not large:
            return whole + rates
        reach = sum(fraction >= _REACHED for fraction in large)
        return f"{whole}{rates}; {reach} of {len(large)} large products at {_REACHED:.0%} of the peak or above, " + (
            f"the least at {large[0]:.0%}"
        )

    def worst(self, top: int) -> list[str]:
        """A header, and the launches that lose most."""
        ranked = sorted(self.lines, key=lambda line: self.limit_seconds(line) - line.seconds)
        head = f"{'µs':>8} {'limit':>8} {'GFLOP/s':>8} {'GB/s':>7} {'tasks':>6}  launch"
        return [head, *(self._row(line) for line in ranked[:top])]

    def _row(self, line: Line) -> str:
        rates = f"{line.flops / line.seconds / 1e9:8.1f} {line.bytes / line.seconds / 1e9:7.1f}"
        return f"{1e6 * line.seconds:8.1f} {1e6 * self.limit_seconds(line):8.1f} {rates} {line.tasks:6}  {line.name}"


def main() -> int:
    """Print the sum and the launches with the largest losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--quantize", default=None, help="a scheme")
    options = parser.parse_args()
    chosen = sample(options.model)
    asked = CompileOptions(threads=options.threads, quantize=options.quantize)
    found = profile(options.model, chosen.module, chosen.inputs, chosen.kwargs, asked, options.rounds)
    print("\n".join([found.summary(), *found.worst(options.top)]))
    return 0


def profile(
    name: str, module: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any], options: CompileOptions, rounds: int
) -> Profile:
    """Compile a model, run it, and measure the machine beside it."""
    captured = capture(module, inputs, kwargs, options)
    prepared = prepare(captured, options, Source(Convention.of(captured, module), inputs, kwargs))
    threads = prepared.options.target.threads
    plan = prepared.plan(None)
    scratch = Scratch()
    path = Path(scratch.path) / "model.ullage"
    prepared.write(plan, path)
    bound = Convention.of(captured, module).bind(inputs, kwargs)
    arrays = {name: as_array(tensor) for name, tensor in bound.items()}
    with load(path) as runner:
        whole, profiles = [], []
        for _ in range(rounds):
            runner.run(arrays)
            whole.append(runner.stats()["seconds"])
            profiles.append([seconds for _, seconds in runner.profile(**arrays)])
    seconds = [statistics.median(column) for column in zip(*profiles, strict=True)]
    lines = tuple(
        _line(prepared.scheduled, command, took)
        for command, took in zip(plan.commands, seconds, strict=True)
        if isinstance(command, Launch)
    )
    return Profile(name, lines, statistics.median(whole), threads * peak_flops_per_s(), threads * copy_bytes_per_s())


def _line(scheduled: Scheduled, command: Launch, seconds: float) -> Line:
    step = scheduled.schedule.steps[command.step]
    assert isinstance(step, Step)
    product = isinstance(scheduled.specs[step.kernel], Gemm | Conv2d)
    return Line(step.name, product, evaluate(command.tasks, {}), step.flops, step.bytes, seconds)


def peak_flops_per_s() -> float:
    """Multiply-adds of one thread, counted as two operations; the best of five."""
    bench = Bench(Target.parse("cpu"), [])
    return max(bench.peak() for _ in range(5))


def copy_bytes_per_s() -> float:
    """Bytes that one thread reads and writes per second while copying what its own cache holds; the best of nine."""
    source = np.ones(_COPY_BYTES // 4, np.float32)
    target = np.empty_like(source)
    return max(_COPIES * 2 * _COPY_BYTES / _seconds(lambda: np.copyto(target, source)) for _ in range(9))


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(_COPIES):
        action()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
