"""What tilings gain: a model without and with them, in turns in one process.

`python -m benchmarks.tuning MODEL [--batch N] [--seconds N] [--rounds N] [--top N]`: a MODEL of the suite as it is
converted by default, and tuned; what is not in the cache of choices is measured within the seconds. With `--plain`
instead: the templates' own choices everywhere, and what conversion chooses by the sizes of operands. Times of single
kernels are their rounds' 20th percentile (other work on the machine only ever adds time), those of whole runs medians
of ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import benchmarks.suite_models
from ullage.bench import as_array
from ullage.calling import Convention
from ullage.codegen.cache import Cache
from ullage.codegen.cpp.toolchain import build_library, native_sources
from ullage.codegen.templates import Conv2d, Gemm
from ullage.codegen.tiling import Tiling, show_tiling
from ullage.codegen.tune.retile import with_tilings
from ullage.driver import Prepared, prepare
from ullage.flow import capture
from ullage.options import CompileOptions
from ullage.plan.plan import Launch
from ullage.plan.steps import Step
from ullage.progress import terminal_progress
from ullage.runtime.load import load
from ullage.runtime.runner import Runner
from ullage.runtime.tensors import Array
from ullage.scratch import Scratch

_QUANTILE = 0.2


def main() -> int:
    """Print the gain of the whole model, and of the kernels with another tiling."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--plain", action="store_true", help="measure what conversion chooses, not tuning")
    options = parser.parse_args()
    module, inputs = getattr(benchmarks.suite_models, f"{options.model}_b{options.batch}")()
    chosen = CompileOptions(progress=terminal_progress(), tune=None if options.plain else options.seconds)
    captured = capture(module, inputs, {}, chosen)
    arrays = {n: as_array(t) for n, t in Convention.of(captured, module).bind(inputs, {}).items()}
    last = prepare(captured, chosen.for_driver())
    first = plain(last) if options.plain else prepare(captured, CompileOptions().for_driver())
    models = [first, last]
    with ExitStack() as stack:
        runners = [stack.enter_context(_loaded(model, stack)) for model in models]
        whole, launches = measure(runners, arrays, options.rounds)
    _print_whole(options.model, last, whole)
    _print_kernels(models, launches, options.top)
    return 0


def plain(model: Prepared) -> Prepared:
    """The model with the templates' own tilings."""
    target, specs = model.options.target, model.scheduled.specs
    other = {s: Tiling() for s, spec in specs.items() if isinstance(spec, Gemm | Conv2d) and spec.tiling != Tiling()}
    scheduled = with_tilings(model.scheduled, other, target)
    kernels = [scheduled.kernels[symbol] for symbol in sorted(scheduled.kernels)]
    return replace(model, scheduled=scheduled, code=build_library(kernels, target, native_sources(), Cache.default()))


def _loaded(model: Prepared, stack: ExitStack) -> Runner:
    scratch = Scratch()
    stack.callback(scratch.remove)
    model.write(model.plan(None), scratch.path / "model.ullage")
    return load(scratch.path / "model.ullage")


Seconds = list[list[float]]


def measure(
    runners: Sequence[Runner], arrays: Mapping[str, Array], rounds: int
) -> tuple[list[list[float]], list[Seconds]]:
    """Seconds of whole runs, and of each command of each run, for both runners; the order alternates."""
    whole: list[list[float]] = [[] for _ in runners]
    commands: list[Seconds] = [[] for _ in runners]
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            commands[which].append([seconds for _, seconds in runners[which].profile(**arrays)])
            whole[which].append(runners[which].stats()["seconds"])
    return whole, commands


def _print_whole(name: str, tuned: Prepared, whole: list[list[float]]) -> None:
    own, other = whole
    ratios = [b / a for a, b in zip(own, other, strict=True)]
    print(
        f"{name}: without {1e3 * statistics.median(own):.2f} ms (least {1e3 * min(own):.2f}), "
        f"with {1e3 * statistics.median(other):.2f} ms (least {1e3 * min(other):.2f}), "
        f"median of ratios {statistics.median(ratios):.3f}, faster in {sum(r < 1 for r in ratios)} of "
        f"{len(ratios)} rounds"
    )
    if tuned.tuning is not None:
        seen, left, seconds = len(tuned.tuning.kernels), tuned.tuning.left, tuned.tuning.seconds
        print(f"  tuning: {seen} kernels seen, {left} left, in {seconds:.1f} s; {tuned.tuning.ratio:.3f} expected")


def _print_kernels(models: Sequence[Prepared], launches: list[Seconds], top: int) -> None:
    """Kernels with another tiling: their time in the model, and its ratio beside the one that tuning measured."""
    before, after = (model.scheduled for model in models)
    sums: dict[tuple[str, str], list[float]] = {}
    names: dict[tuple[str, str], str] = {}
    for position, command in enumerate(models[0].plan(None).commands):
        if isinstance(command, Launch):
            old, new = before.schedule.steps[command.step], after.schedule.steps[command.step]
            assert isinstance(old, Step) and isinstance(new, Step)
            names.setdefault((old.kernel, new.kernel), old.name)
            times = sums.setdefault((old.kernel, new.kernel), [0.0, 0.0])
            for which, rounds in enumerate(launches):
                times[which] += sorted(run[position] for run in rounds)[int(_QUANTILE * len(rounds))]
    total = [sum(times[which] for times in sums.values()) for which in range(len(launches))]
    print(f"  all launches {1e3 * total[0]:.2f} ms and {1e3 * total[1]:.2f} ms, ratio {total[1] / total[0]:.3f}")
    changed = [pair for pair in sums if pair[0] != pair[1]]
    for pair in sorted(changed, key=lambda pair: -sums[pair][0])[:top]:
        spec = after.specs[pair[1]]
        if isinstance(spec, Gemm | Conv2d):
            ratio, tiling = sums[pair][1] / sums[pair][0], show_tiling(spec.tiling)
            print(f"  {1e3 * sums[pair][0]:8.3f} ms × {ratio:.3f}  {names[pair]}: {tiling}")


if __name__ == "__main__":
    sys.exit(main())
