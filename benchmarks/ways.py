"""One model prepared in several ways, run in turns: medians that a busy machine disturbs alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ullage.calling import Convention
from ullage.driver import Options, prepare
from ullage.flow import capture
from ullage.options import CompileOptions
from ullage.runtime.load import load
from ullage.runtime.runner import Runner
from ullage.scratch import Scratch
from ullage.target import Target


@dataclass
class Way:
    """One artifact with everything in memory: its runs, and the bytes of its least budget and of its peak."""

    runner: Runner
    least_bytes: int
    peak_bytes: int
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of a run."""
        return statistics.median(self.seconds)


def in_turns(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    ways: Mapping[str, Callable[[], AbstractContextManager[object]]],
    rounds: int,
) -> dict[str, Way]:
    """Each way prepared within its context, and run twice a round (the second run counts)."""
    found: dict[str, Way] = {}
    scratch = Scratch()
    with ExitStack() as stack:
        for name, context in ways.items():
            captured = capture(module, inputs, {}, CompileOptions())
            with context():
                prepared = prepare(captured, Options(Target.parse("cpu")))
            path, plan = Path(scratch.path) / f"{name}.ullage", prepared.plan(None)
            prepared.write(plan, path)
            found[name] = Way(stack.enter_context(load(path)), prepared.minimum_bytes, plan.peak_bytes)
        arrays = {name: x.numpy() for name, x in Convention.of(captured, module).bind(inputs, {}).items()}
        for _ in range(rounds):
            for way in found.values():
                way.runner.run(arrays)
                way.runner.run(arrays)
                way.seconds.append(way.runner.stats()["seconds"])
    return found
