"""What tuning gains: a model with its templates' own tilings and with tuned ones, in turns in one process.

`python -m benchmarks.tuning MODEL [--batch N] [--seconds N] [--rounds N] [--top N]`: a MODEL of the suite. What is
not in the cache of choices is measured within the seconds. Times of single kernels are their rounds' 20th percentile
(other work on the machine only ever adds time), those of whole runs medians of ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import benchmarks.suite_models
from ullage.bench import as_array
from ullage.calling import Convention
from ullage.driver import Prepared, prepare
from ullage.flow import capture
from ullage.options import CompileOptions
from ullage.plan.plan import Launch
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
    options = parser.parse_args()
    module, inputs = getattr(benchmarks.suite_models, f"{options.model}_b{options.batch}")()
    chosen = [CompileOptions(progress=terminal_progress(), tune=tune) for tune in (None, options.seconds)]
    captured = [capture(module, inputs, {}, one) for one in chosen]
    models = [prepare(graph, one.for_driver()) for graph, one in zip(captured, chosen, strict=True)]
    arrays = {n: as_array(t) for n, t in Convention.of(captured[0], module).bind(inputs, {}).items()}
    with ExitStack() as stack:
        runners = [stack.enter_context(_loaded(model, stack)) for model in models]
        whole, launches = measure(runners, arrays, options.rounds)
    _print_whole(options.model, models[1], whole)
    _print_kernels(models, launches, options.top)
    return 0


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
    assert tuned.tuning is not None
    print(
        f"{name}: own tilings {1e3 * statistics.median(own):.2f} ms (least {1e3 * min(own):.2f}), "
        f"tuned {1e3 * statistics.median(other):.2f} ms (least {1e3 * min(other):.2f}), "
        f"median of ratios {statistics.median(ratios):.3f}, tuned faster in {sum(r < 1 for r in ratios)} of "
        f"{len(ratios)} rounds; {tuned.tuning.ratio:.3f} expected, {len(tuned.tuning.kernels)} kernels chosen, "
        f"{tuned.tuning.left} left, {tuned.tuning.seconds:.1f} s"
    )


def _print_kernels(models: Sequence[Prepared], launches: list[Seconds], top: int) -> None:
    """Kernels with another tiling: their time in the model, and its ratio beside the one that tuning measured."""
    own, tuning = models[0], models[1].tuning
    assert tuning is not None
    steps = own.scheduled.schedule.steps
    sums: dict[str, list[float]] = {}
    for position, command in enumerate(own.plan(None).commands):
        if isinstance(command, Launch):
            times = sums.setdefault(getattr(steps[command.step], "kernel", ""), [0.0, 0.0])
            for which, rounds in enumerate(launches):
                times[which] += sorted(run[position] for run in rounds)[int(_QUANTILE * len(rounds))]
    changed = [k for k in tuning.kernels if k.ratio < 1]
    total = [sum(times[which] for times in sums.values()) for which in range(len(launches))]
    print(f"  all launches {1e3 * total[0]:.2f} ms and {1e3 * total[1]:.2f} ms, ratio {total[1] / total[0]:.3f}")
    for kernel in sorted(changed, key=lambda k: -sums[k.kernel][0])[:top]:
        before, after = sums[kernel.kernel]
        print(
            f"  {1e3 * before:8.3f} ms × {after / before:.3f} (measured apart: {kernel.ratio:.3f})  "
            f"{kernel.name} ×{kernel.launches}: {kernel.choice}"
        )


if __name__ == "__main__":
    sys.exit(main())
