"""The whole flow: captured graph → clean graph → schedule → kernels → plan → artifact.

Everything but the plan is independent of the budget, so it is done once (`prepare`), and a plan's figures are exact
because the code that it counts exists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from ullage.artifact.manifest import About
from ullage.artifact.manifest import Rewrite as RewriteNote
from ullage.artifact.writer import ArtifactWriter
from ullage.codegen.cache import Cache
from ullage.codegen.cpp.toolchain import build_library, native_sources
from ullage.codegen.schedule.build import Scheduled, build_schedule
from ullage.codegen.schedule.packing import RowPacker
from ullage.codegen.tune.tuner import Tuning
from ullage.doctor import rates_file, rates_key
from ullage.errors import AccuracyNotMet
from ullage.graph.captured import CapturedModel
from ullage.graph.collector import resting_collector
from ullage.graph.threads import one_torch_thread
from ullage.machine import rates_for
from ullage.passes.manager import Rewrite
from ullage.passes.pipelines import run_clean, run_portable
from ullage.passes.plan.planner import Planner, PlanRequest
from ullage.passes.quantize.choose import Narrowed, chosen, forced
from ullage.passes.quantize.measure import Sample
from ullage.passes.quantize.names import Scheme
from ullage.plan.plan import Held, Plan
from ullage.plan.simulate import Rates
from ullage.plan.tables import stack_bytes
from ullage.runtime.library import Library, code_bytes
from ullage.target import Target, available_threads
from ullage.tuning import tuned, tuning_notes

Progress = Callable[[str, float], None]
_LADDER_RUNGS = 5
"""Plans that an artifact holds for other budgets than its own: each takes a fraction of a second to make."""


@dataclass(frozen=True)
class Options:
    """What the flow needs to know beside the model and the budget."""

    target: Target
    accuracy: Literal["exact"] | float = "exact"
    """A number: the relative error of the outputs that lossy rewrites may cause on `samples`."""
    quantize: Scheme | None = None
    """A scheme of `passes.quantize` that is used wherever it can be, whatever the error."""
    samples: tuple[Sample, ...] = ()
    progress: Progress | None = None
    tune_seconds: float | None = None
    """Seconds of measuring tilings; 0 takes those that are kept for this machine, None the templates' own."""
    overhead_bytes: int = 0
    """What an interpreter with the runtime's libraries takes; recorded in artifacts for `ullage inspect`."""

    def report(self, stage: str, fraction: float) -> None:
        """Tell the progress callable, if there is one."""
        if self.progress is not None:
            self.progress(stage, fraction)


@resting_collector()
def prepare(captured: CapturedModel, options: Options) -> Prepared:
    """Rewrite, schedule and generate code; raises UnsupportedOperator and ToolchainError."""
    options.report("rewrite", 0.0)
    clean, rewrites = _quantized(*run_clean(captured), options)
    options.report("schedule", 0.1)
    scheduled = build_schedule(clean, options.target)
    tuning = None
    if options.tune_seconds is not None:
        scheduled, tuning = tuned(scheduled, options.target, options.tune_seconds, options.report)
    options.report("compile kernels", 0.2)
    symbols = sorted(scheduled.kernels)
    kernels = [scheduled.kernels[symbol] for symbol in symbols]
    code = build_library(kernels, options.target, native_sources(), Cache.default())
    return Prepared(scheduled, tuple(rewrites), code, options, tuning)


@resting_collector()
def rewritten(captured: CapturedModel, options: Options) -> Narrowed:
    """The model as other runtimes get it: cleaned, and in narrow types as far as the options allow."""
    options.report("rewrite", 0.0)
    return _quantized(*run_portable(captured), options)


def _quantized(model: CapturedModel, rewrites: Sequence[Rewrite], options: Options) -> Narrowed:
    """The model in narrow types as far as the options allow, and all rewrites.

    Raises AccuracyNotMet if an asked scheme errs too much.
    """
    if options.quantize is not None:
        (narrow, lossy), reached = forced(model, options.quantize, options.samples)
        if options.accuracy != "exact" and reached > options.accuracy:
            raise AccuracyNotMet(reached, options.accuracy)
        return narrow, [*rewrites, *lossy]
    if options.accuracy == "exact":
        return model, list(rewrites)
    narrow, lossy = chosen(model, options.accuracy, options.samples, lambda done: options.report("judge", done / 10))
    return narrow, [*rewrites, *lossy]


@dataclass(frozen=True)
class Prepared:
    """A model ready to be planned at any budget and written."""

    scheduled: Scheduled
    rewrites: tuple[Rewrite, ...]
    code: bytes = field(repr=False)
    options: Options
    tuning: Tuning | None = None

    @cached_property
    def planner(self) -> Planner:
        """The planner of this model."""
        threads = self.options.target.threads
        held = (Held("code", code_bytes(self.code)), Held("stacks", stack_bytes(threads)))
        schedule = self.scheduled
        return Planner(PlanRequest(schedule.schedule, schedule.inputs, schedule.outputs, held, threads, self._rates()))

    def _rates(self) -> Rates:
        return rates_for(self.options.target, rates_file(), rates_key(), available_threads())

    @property
    def minimum_bytes(self) -> int:
        """The least budget (RAM) for which there is a plan."""
        return self.planner.minimum_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of all packed constants."""
        return sum(constant.bytes for constant in self.scheduled.schedule.constants)

    @resting_collector()
    def plan(self, budget_bytes: int | None) -> Plan:
        """The best plan within a budget (None: everything resident); raises BudgetTooSmall."""
        self.options.report("plan", 0.6)
        return self.planner.plan(budget_bytes)

    @resting_collector()
    def write(self, plan: Plan, path: str | os.PathLike[str]) -> None:
        """Write an artifact with this plan and plans for smaller and larger budgets beside it."""
        self.options.report("other budgets", 0.65)
        plans = self._ladder(plan)
        library = Library(self.code)
        try:
            with ArtifactWriter(Path(path), library.crc32c) as writer:
                self._write_constants(writer, plan)
                writer.finish(self._about(), plans, self.code, plans.index(plan))
        finally:
            library.close()
        self.options.report("done", 1.0)

    def _ladder(self, plan: Plan) -> tuple[Plan, ...]:
        others = [p for p in self.planner.ladder(_LADDER_RUNGS) if p.peak_bytes != plan.peak_bytes]
        return tuple(sorted((plan, *others), key=lambda p: p.peak_bytes))

    def _write_constants(self, writer: ArtifactWriter, plan: Plan) -> None:
        total = max(1, sum(c.tiles * c.tile_bytes for c in plan.constants))
        done = 0
        with one_torch_thread():
            for info in sorted(plan.constants, key=lambda c: c.file_offset):
                self.options.report("pack weights", 0.7 + 0.3 * done / total)
                writer.add_constant(info, self._runs(info.name, info.tiles))
                done += info.tiles * info.tile_bytes

    def _runs(self, name: str, count: int) -> Iterable[bytes]:
        packer = self.scheduled.packers[name]
        return packer.runs() if isinstance(packer, RowPacker) else (packer.tile(index) for index in range(count))

    def _about(self) -> About:
        target, kernels = self.options.target, self.scheduled.kernels.values()
        return About(
            ullage_version=version("ullage"),
            target=str(target),
            cpu_features=tuple(sorted(target.cpu_features.union(*(k.features for k in kernels)))),
            accuracy=self.options.accuracy,
            rewrites=tuple(RewriteNote(r.pass_name, r.what, r.where, r.error) for r in self.rewrites),
            runtime_overhead_bytes=self.options.overhead_bytes,
            tuning=tuning_notes(self.tuning),
        )
