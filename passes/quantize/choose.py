"""Where narrower arithmetic is allowed: the most work whose measured error stays within what was asked.

If all candidates together stay within the error, all are taken. Else each one's error alone is foreseen; errors of
independent roundings add in squares, so candidates are ranked by squared error per gain, and the longest prefix of
that order whose joint error is within bounds is found by bisection. What is reported is measured on the graph that is
used; should that be more than was foreseen and allowed, the last ones are taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch.fx import Node

from ullage.graph.captured import CapturedModel
from ullage.passes.clean.common_subexpressions import CommonSubexpressions
from ullage.passes.edit import is_call, static_shape, value_of
from ullage.passes.manager import PassManager, Rewrite
from ullage.passes.quantize.bfloat16 import Bfloat16, candidates
from ullage.passes.quantize.measure import Results, Sample, relative_error, run_as_kernels

_MULTIPLICATIONS_OF_AN_ELEMENT = 16
"""Reading four bytes from memory takes about as long as so many multiplications (a machine's balance)."""
_FORESIGHT = 0.999
"""Of the allowed error: what is foreseen differs from what is measured in the order of a few float32 roundings."""
Narrowed = tuple[CapturedModel, list[Rewrite]]


@dataclass(frozen=True)
class Judge:
    """Errors of choices on samples; `exact` are the outputs of the model as it is."""

    model: CapturedModel
    samples: Sequence[Sample]
    exact: Sequence[Results]
    progress: Callable[[float], None]

    def narrowed(self, names: Sequence[str]) -> Narrowed:
        """The model with the named nodes in bfloat16."""
        passes = (Bfloat16(" ".join(names)), CommonSubexpressions())
        model, rewrites = PassManager(passes).run(self.model)
        return model, [r for r in rewrites if r.pass_name == Bfloat16.name]

    def error(self, names: Sequence[str]) -> float:
        """The relative error of the named nodes in bfloat16 together, foreseen by rounding their operands."""
        return relative_error((run_as_kernels(self.model, sample, names) for sample in self.samples), self.exact)

    def measured(self, model: CapturedModel) -> float:
        """The relative error of a rewritten model."""
        return relative_error((run_as_kernels(model, sample) for sample in self.samples), self.exact)


def narrow(
    model: CapturedModel, allowed: float, samples: Sequence[Sample], progress: Callable[[float], None]
) -> Narrowed:
    """The model with as much of its work in bfloat16 as `allowed` (relative error) admits, and what was rewritten.

    `progress` gets the fraction done. Nothing is rewritten if not even one node stays within the error.
    """
    nodes = list(candidates(model))
    if not nodes:
        return model, []
    exact = [run_as_kernels(model, sample) for sample in samples]
    judge = Judge(model, samples, exact, progress)
    names = _most(judge, nodes, allowed)
    while names:
        rewritten, rewrites = judge.narrowed(names)
        reached = judge.measured(rewritten)
        if reached <= allowed:
            return rewritten, [replace(rewrite, error=reached) for rewrite in rewrites]
        names = names[: len(names) * 3 // 4]
    return model, []


def _most(judge: Judge, nodes: Sequence[Node], allowed: float) -> list[str]:
    """Names of the nodes to narrow: all of them, or the best whose foreseen joint error leaves room for its own."""
    names = [node.name for node in nodes]
    if judge.error(names) <= allowed * _FORESIGHT:
        return names
    ranked = _ranked(judge, nodes)
    good, bad = 0, len(ranked)
    while bad - good > 1:
        middle = (good + bad) // 2
        if judge.error(ranked[:middle]) <= allowed * _FORESIGHT:
            good = middle
        else:
            bad = middle
    return ranked[:good]


def _ranked(judge: Judge, nodes: Sequence[Node]) -> list[str]:
    """Names by squared error per gain, the cheapest error first."""
    costs = {}
    for number, node in enumerate(nodes):
        costs[node.name] = judge.error([node.name]) ** 2 / gain(node)
        judge.progress((number + 1) / len(nodes))
    return sorted(costs, key=costs.__getitem__)


def gain(node: Node) -> float:
    """What narrowing saves: multiplications of a product, and elements of a weight as so many of them.

    Dynamic sizes are taken at their hints.
    """
    is_table = is_call(node, torch.ops.aten.embedding.default)
    weight = static_shape(node.args[0 if is_table else 1])  # type: ignore[arg-type]
    assert weight is not None
    stored = _MULTIPLICATIONS_OF_AN_ELEMENT * prod(weight)
    if is_table:
        return stored
    results = prod(n if isinstance(n, int) else n.node.hint or 1 for n in value_of(node).shape)
    return stored + results * prod(weight[1:])
