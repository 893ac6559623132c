"""One configuration tried: made, captured, converted at a generous and at the least budget, run, judged.

Judged as `ullage check` does, against the module itself in float64: ours must be about as close to it as the module in
float32 is. Both budgets must give the same bits, and none may hold more than was planned.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.configurations.catalogue import Configuration
from benchmarks.zoo import Sample
from ullage.calling import Convention
from ullage.checking import CheckResult, compare
from ullage.driver import Prepared
from ullage.errors import UnsupportedOperator
from ullage.flow import capture, prepare
from ullage.graph.captured import CapturedModel
from ullage.graph.reference import run_captured
from ullage.options import CompileOptions
from ullage.plan.plan import Plan
from ullage.reference import as_tensor
from ullage.runtime.load import load
from ullage.scratch import Scratch

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Attempt:
    """What became of a configuration; `problem` is empty where all is right, bytes and seconds are of what was done."""

    name: str
    library: str
    architecture: str
    task: str
    parameters: int = 0
    least_bytes: int = 0
    generous_bytes: int = 0
    error: float = 0.0
    eager_error: float = 0.0
    truth: str = ""
    """What gave the float64 results: the module, or the graph where the module mixes types in float64."""
    seconds: float = 0.0
    stage: str = ""
    problem: str = ""
    cause: str = ""


class Wrong(Exception):
    """A promise that was not kept."""


class _Stages:
    """Says where an exception came from."""

    def __init__(self) -> None:
        self.current = "make"

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.current = name
        yield


def attempt(configuration: Configuration) -> Attempt:
    """Try it; every exception becomes a problem with its cause."""
    start, stages = time.perf_counter(), _Stages()
    base = Attempt(configuration.name, configuration.library, configuration.architecture, configuration.task)
    try:
        done = _tried(configuration, base, stages)
    except Exception as error:
        done = replace(base, stage=stages.current, problem=_line(error), cause=cause_of(stages.current, error))
    return replace(done, seconds=time.perf_counter() - start)


def _tried(configuration: Configuration, base: Attempt, stage: _Stages) -> Attempt:
    with stage("make"):
        sample = configuration.make()
        eager = _results(sample.module, sample)
    with stage("capture"):
        captured = capture(sample.module, sample.inputs, sample.kwargs, CompileOptions())
    with stage("convert"):
        prepared = prepare(captured, CompileOptions())
        plans = prepared.plan(prepared.minimum_bytes), prepared.plan(None)
    with stage("run"):
        inputs = Convention.of(captured, sample.module).bind(sample.inputs, sample.kwargs)
        least, generous = (_run(prepared, plan, captured, inputs) for plan in plans)
    with stage("judge"):
        checked, truth = _judged(captured, sample, eager, inputs, generous)
        _same_bits(least, generous)
    worst = max(checked.outputs, key=lambda output: output.error, default=None)
    return replace(
        base,
        parameters=sum(parameter.numel() for parameter in sample.module.parameters()),
        least_bytes=plans[0].peak_bytes,
        generous_bytes=plans[1].peak_bytes,
        error=worst.error if worst else 0.0,
        eager_error=worst.reference_error if worst else 0.0,
        truth=truth,
    )


def _results(module: nn.Module, sample: Sample) -> list[Tensor]:
    """Tensors that the module returns, in order."""
    with torch.no_grad():
        leaves = pytree.tree_leaves(module(*sample.inputs, **sample.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _run(prepared: Prepared, plan: Plan, captured: CapturedModel, inputs: Mapping[str, Tensor]) -> Tensors:
    scratch = Scratch()
    path = scratch.path / "model.ullage"
    prepared.write(plan, path)
    with load(path) as runner:
        found = runner.run(dict(inputs))
        if runner.measured_bytes() > plan.peak_bytes:
            raise Wrong("more is held than was planned")
    return {spec.name: as_tensor(found[spec.name], spec.dtype).clone() for spec in captured.outputs}


def _judged(
    captured: CapturedModel, sample: Sample, eager: list[Tensor], inputs: Mapping[str, Tensor], ours: Tensors
) -> tuple[CheckResult, str]:
    """Our results beside float32's, and what gave the truth; raises Wrong where ours are farther off."""
    names = [spec.name for spec in captured.outputs]
    if len(names) != len(eager):
        raise Wrong(f"the model gives {len(eager)} tensors, captured are {len(names)}")
    exact, source = _truth(captured, sample, inputs)
    framework, truth = dict(zip(names, eager, strict=True)), dict(zip(names, exact, strict=True))
    checked = compare(_finite(ours, framework), _finite(framework, framework), _finite(truth, framework), None)
    if not checked.passed:
        bad = next(output for output in checked.outputs if not output.passed)
        raise Wrong(f"{bad.name} is off by {bad.error:.1e}, the framework's own by {bad.reference_error:.1e}")
    return checked, source


def _truth(captured: CapturedModel, sample: Sample, inputs: Mapping[str, Tensor]) -> tuple[list[Tensor], str]:
    """Results in float64: the module's own, or its graph's where the module sets float32 in places and so fails."""
    double = Sample(copy.deepcopy(sample.module).double(), _double(sample.inputs), _double(sample.kwargs))
    torch.set_default_dtype(torch.float64)
    try:
        return _results(double.module, double), "module"
    except RuntimeError:
        return list(run_captured(captured, list(inputs.values()), torch.float64)), "graph"
    finally:
        torch.set_default_dtype(torch.float32)


def _double(tree: Any) -> Any:
    def cast(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return pytree.tree_map(cast, tree)


def _finite(values: Tensors, framework: Tensors) -> Tensors:
    """The values with zeros where the framework gives an infinity or NaN, and ours the same one."""
    kept = {}
    for name, value in values.items():
        same = torch.isfinite(framework[name]) | (value.to(framework[name].dtype) != framework[name]).logical_and(
            ~(value.isnan() & framework[name].isnan())
        )
        kept[name] = torch.where(same, value, torch.zeros_like(value)) if value.is_floating_point() else value
    return kept


def _same_bits(least: Tensors, generous: Tensors) -> None:
    for name, value in least.items():
        if not torch.equal(_bits(value), _bits(generous[name])):
            raise Wrong("bits differ between budgets")


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:400]}"


def cause_of(stage: str, error: BaseException) -> str:
    """What failures of one kind have in common: stage, type and message with names and numbers taken out."""
    if isinstance(error, UnsupportedOperator):
        return f"{stage}: no lowering for {', '.join(sorted(error.operators))}"
    text = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "…", _line(error))
    numberless = re.sub(r"-?\b[0-9][0-9.e+-]*|\b[su]\d+\b", "N", text)
    return f"{stage}: {numberless[:160]}"
