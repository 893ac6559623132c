"""Where narrower arithmetic is allowed: the most work whose measured error stays within what was asked.

First in bfloat16; if all of it stays within the error, as much as possible of that in int8. Of each scheme all
candidates are taken if they stay within the error together. Else each one's error alone is foreseen; errors of
independent roundings add in squares, so candidates are ranked by squared error per gain, and the longest prefix of
that order whose joint error is within bounds is found by bisection. Residuals follow, if the error is still within
bounds with them. What is reported is measured on the graph that is used; should that be more than was foreseen and
allowed, the last ones are taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch.fx import Node

from ullage.graph.captured import CapturedModel
from ullage.passes.clean.common_subexpressions import CommonSubexpressions
from ullage.passes.manager import Pass, PassManager, Rewrite
from ullage.passes.quantize import int8
from ullage.passes.quantize.fold_scales import FoldScales
from ullage.passes.quantize.int8 import Range
from ullage.passes.quantize.measure import Arguments, Results, Sample, relative_error, run_as_kernels
from ullage.passes.quantize.names import Scheme
from ullage.passes.quantize.residuals import NarrowResiduals
from ullage.passes.quantize.schemes import (
    Option,
    is_lossy,
    options_of,
    passes_of,
    passes_of_all,
    roundings,
)

_FORESIGHT = 0.999
"""Of the allowed error: what is foreseen differs from what is measured in the order of a few float32 roundings."""
Narrowed = tuple[CapturedModel, list[Rewrite]]


@dataclass(frozen=True)
class Judge:
    """Errors of choices on samples; `exact` are the outputs of the model as it is."""

    model: CapturedModel
    samples: Sequence[Sample]
    exact: Sequence[Results]
    ranges: dict[str, Range]
    progress: Callable[[float], None]

    @staticmethod
    def of(model: CapturedModel, samples: Sequence[Sample], progress: Callable[[float], None]) -> Judge:
        """Runs the model as it is, and notes the ranges of what convolutions read."""
        ranges: dict[str, Range] = {}
        watched = {node.name for node in int8.candidates(model) if int8.needs_range(node)}

        def watch(node: Node, args: Arguments) -> None:
            if node.name in watched:
                low, high = (float(bound) for bound in args[0].aminmax())
                known = ranges.get(node.name, Range(0.0, 0.0))
                ranges[node.name] = known.with_values(low, high)

        exact = [run_as_kernels(model, sample, watch=watch) for sample in samples]
        return Judge(model, samples, exact, ranges, progress)

    def narrowed(self, passes: Sequence[Pass], residuals: bool) -> Narrowed:
        """The model rewritten by lossy passes, perhaps with residuals in bfloat16."""
        last = (NarrowResiduals(),) if residuals else ()
        model, rewrites = PassManager((*passes, CommonSubexpressions(), FoldScales(), *last)).run(self.model)
        return model, [r for r in rewrites if is_lossy(r.pass_name)]

    def error(self, options: Sequence[Option]) -> float:
        """The relative error of the options together, foreseen by rounding operands."""
        rounded = roundings(options)
        return relative_error((run_as_kernels(self.model, sample, rounded) for sample in self.samples), self.exact)

    def measured(self, model: CapturedModel) -> float:
        """The relative error of a rewritten model."""
        return relative_error((run_as_kernels(model, sample) for sample in self.samples), self.exact)


def chosen(
    model: CapturedModel, allowed: float, samples: Sequence[Sample], progress: Callable[[float], None]
) -> Narrowed:
    """The model with as much of its work in narrow types as `allowed` (relative error) admits, and what was rewritten.

    `progress` gets the fraction done. Nothing is rewritten if not even one node stays within the error.
    """
    options = options_of("bfloat16", model, {})
    judge = Judge.of(model, samples, progress)
    taken = _most(judge, [], options, allowed)
    if len(taken) == len(options):
        taken += _most(judge, taken, options_of("int8", model, judge.ranges), allowed)
    while taken:
        for residuals in (True, False):
            rewritten, rewrites = judge.narrowed(passes_of(taken), residuals)
            reached = judge.measured(rewritten)
            if reached <= allowed:
                return rewritten, [replace(rewrite, error=reached) for rewrite in rewrites]
            if all(rewrite.pass_name != NarrowResiduals.name for rewrite in rewrites):
                break
        taken = taken[: len(taken) * 3 // 4]
    return model, []


def forced(model: CapturedModel, scheme: Scheme, samples: Sequence[Sample]) -> tuple[Narrowed, float]:
    """The model with every candidate of a scheme rewritten, and the relative error of that, whatever it is."""
    judge = Judge.of(model, samples, lambda done: None)
    rewritten, rewrites = judge.narrowed(passes_of_all(scheme, model, judge.ranges), residuals=True)
    reached = judge.measured(rewritten)
    return (rewritten, [replace(rewrite, error=reached) for rewrite in rewrites]), reached


def _most(judge: Judge, base: list[Option], options: list[Option], allowed: float) -> list[Option]:
    """The options to take on top of `base`: all, or the best whose foreseen joint error leaves room for its own."""
    if judge.error(base + options) <= allowed * _FORESIGHT:
        return options
    ranked = _ranked(judge, options)
    good, bad = 0, len(ranked)
    while bad - good > 1:
        middle = (good + bad) // 2
        if judge.error(base + ranked[:middle]) <= allowed * _FORESIGHT:
            good = middle
        else:
            bad = middle
    return ranked[:good]


def _ranked(judge: Judge, options: list[Option]) -> list[Option]:
    """Options by squared error per gain, the cheapest error first."""
    costs = {}
    for number, option in enumerate(options):
        costs[option.node] = judge.error([option]) ** 2 / option.gain
        judge.progress((number + 1) / len(options))
    return sorted(options, key=lambda option: costs[option.node])
