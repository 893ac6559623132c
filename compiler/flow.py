"""From a model to a written artifact: the steps that the function, the decorator and the command line share."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ullage.budget import Budget
from ullage.calling import Convention
from ullage.errors import BudgetTooSmall
from ullage.facts import Facts, notes
from ullage.graph.captured import CapturedModel
from ullage.options import CompileOptions
from ullage.plan.plan import Plan
from ullage.scratch import Scratch

if TYPE_CHECKING:
    from ullage.driver import Options, Prepared
    from ullage.passes.manager import Rewrite
    from ullage.runtime.runner import Runner


_RANDOM = "rewrites are judged on random inputs, since the model brings none; give calibration inputs like its own."


@dataclass(frozen=True)
class Source:
    """How a captured model is called, and the example arguments that it came with (both None: none)."""

    convention: Convention
    example_args: tuple[Any, ...] | None = None
    example_kwargs: dict[str, Any] | None = None

    @property
    def has_examples(self) -> bool:
        """Whether there are example arguments."""
        return self.example_args is not None or self.example_kwargs is not None

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional example arguments."""
        return self.example_args or ()

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword example arguments."""
        return self.example_kwargs or {}


@dataclass(frozen=True)
class Built:
    """A written artifact with its plan; `scratch` keeps a temporary file alive."""

    path: Path
    plan: Plan
    facts: Facts
    scratch: Scratch | None = None

    def open(self) -> Runner:
        """Load the artifact at the budget that it was planned for."""
        from ullage.runtime.load import load

        return load(self.path)


def capture(
    model: Any,
    args: tuple[Any, ...] | None,
    kwargs: dict[str, Any] | None,
    options: CompileOptions,
    dynamic_shapes: object = None,
) -> CapturedModel:
    """The model as a graph; `args` may be None for files that know their own inputs.

    `dynamic_shapes` stand in for those of the options where these name none.
    """
    from ullage.frontends.load import load_model

    return load_model(model, args, kwargs, options.input_specs, options.dynamic_shapes or dynamic_shapes)


def prepare(captured: CapturedModel, options: CompileOptions, source: Source | None = None) -> Prepared:
    """Rewrite, schedule and generate code: all that does not depend on the budget.

    `source` says what lossy rewrites are judged on where the options name no calibration inputs.
    """
    from ullage.driver import prepare as run

    return run(captured, _for_driver(captured, options, source))


def _for_driver(captured: CapturedModel, options: CompileOptions, source: Source | None) -> Options:
    """The driver's options, with samples where rewrites are to be judged."""
    if not options.is_lossy:
        return options.for_driver()
    from ullage.calibration import samples_of

    known = source or Source(Convention.of(captured, None))
    examples = known.convention.bind(known.args, known.kwargs) if known.has_examples else None
    if options.calibration is None and examples is None:
        warnings.warn(_RANDOM, UserWarning, stacklevel=2)
    return options.for_driver(samples_of(captured, known.convention, options.calibration, examples))


def plan(prepared: Prepared, options: CompileOptions) -> Plan:
    """The plan at the asked budget; raises BudgetTooSmall before anything is written."""
    _check_disk(prepared, options.limits)
    return prepared.plan(options.budget_bytes())


def _check_disk(prepared: Prepared, limits: Budget | None) -> None:
    if limits is not None and limits.disk is not None and prepared.weight_bytes > limits.disk:
        raise BudgetTooSmall({"disk": limits.disk}, {"disk": prepared.weight_bytes})


def build(captured: CapturedModel, options: CompileOptions, source: Source | None = None) -> Built:
    """Everything from a captured model to an artifact in a scratch folder."""
    prepared = prepare(captured, options, source)
    planned = plan(prepared, options)
    scratch = Scratch()
    path = scratch.path / "model.ullage"
    prepared.write(planned, path)
    return Built(path, planned, facts_of(prepared, planned, options), scratch)


def open_model(text: str, options: CompileOptions) -> tuple[CapturedModel, Source]:
    """Capture a model file, folder or factory; factories bring their own example arguments."""
    from ullage.frontends.factory import call_factory, is_factory

    if not is_factory(text) or options.input_specs is not None:
        captured = capture(text, None, None, options)
        return captured, Source(Convention.of(captured, None))
    model, args, kwargs = call_factory(text)
    captured = capture(model, args, kwargs, options)
    return captured, Source(Convention.of(captured, model), args, kwargs)


def convert(model: str, options: CompileOptions, path: Path) -> Plan:
    """Write the artifact of a model file (or factory) to `path`, which appears only when it is complete."""
    captured, source = open_model(model, options)
    prepared = prepare(captured, options, source)
    planned = plan(prepared, options)
    prepared.write(planned, path)
    return planned


@dataclass(frozen=True)
class Exported:
    """A written ONNX model: its files (the model first), their bytes, and what was rewritten."""

    paths: tuple[Path, ...]
    bytes: int
    rewrites: tuple[Rewrite, ...]


def export(captured: CapturedModel, options: CompileOptions, source: Source | None, path: Path) -> Exported:
    """Write the rewritten graph as an ONNX model; raises UnsupportedOperator for operators that ONNX has no form of."""
    from ullage.driver import rewritten
    from ullage.frontends.load import write_onnx

    options.check_for_onnx()
    chosen = _for_driver(captured, options, source)
    model, rewrites = rewritten(captured, chosen)
    chosen.report("write", 0.5)
    paths = write_onnx(model, path)
    chosen.report("done", 1.0)
    return Exported(paths, sum(file.stat().st_size for file in paths), tuple(rewrites))


def convert_to_onnx(model: str, options: CompileOptions, path: Path) -> Exported:
    """Write the ONNX form of a model file (or factory) to `path`, which appears only when it is complete."""
    options.check_for_onnx()
    captured, source = open_model(model, options)
    return export(captured, options, source, path)


def facts_of(prepared: Prepared, planned: Plan, options: CompileOptions) -> Facts:
    """What reports tell about a plan."""
    return Facts(
        plan=planned,
        target=str(options.machine),
        accuracy=str(options.accuracy),
        weight_bytes=prepared.weight_bytes,
        rewrites=notes(prepared.rewrites),
        tuning=prepared.tuning,
    )


def ladder(minimum_bytes: int, maximum_bytes: int, rungs: int = 6) -> Iterable[int]:
    """Budgets from the least to the one that needs no streaming, evenly spread, page-aligned, both ends included."""
    span = max(0, maximum_bytes - minimum_bytes)
    steps = {minimum_bytes + span * rung // (rungs - 1) // 4096 * 4096 for rung in range(rungs - 1)}
    return sorted({*steps, minimum_bytes, maximum_bytes})
