"""Tilings change no bit of any result: all kinds of tiled kernels, on all targets, streamed panel by panel or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.codegen.templates.template_runner import host_targets
from tests.codegen.tune.tuning_cases import FewLayers, NarrowLayers, layers, layers_inputs, scheduled
from ullage.codegen.cache import Cache
from ullage.codegen.cpp.toolchain import build_library, native_sources
from ullage.codegen.schedule.build import Scheduled, build_schedule
from ullage.codegen.templates import Conv2d, Gemm, PackedDepthwise
from ullage.codegen.tiling import AnyTiling, DepthwiseTiling, Tiling
from ullage.codegen.tune.candidates import candidates
from ullage.codegen.tune.retile import with_tilings
from ullage.driver import Options, Prepared, prepare
from ullage.frontends.load import load_model
from ullage.passes.pipelines import run_clean
from ullage.passes.quantize.names import parse_scheme
from ullage.plan.steps import Step
from ullage.runtime.load import load
from ullage.target import Target

DENSE = (
    Tiling(rows=5, block_rows=24, tiles_first=True, prefetch=True, from_registers=True, ahead=True),
    Tiling(rows=3, block_rows=1024, tiles_first=True),
)
DEPTHWISE = (
    DepthwiseTiling(columns=3, pair_columns=1, block_rows=1, block_vectors=1),
    DepthwiseTiling(pairs=False, columns=5, block_rows=64, block_vectors=64),
)
TARGETS = [t for t in host_targets() if t.isa in ("generic", "avx2", "avx512")]


def tiled(found: Scheduled, number: int, target: Target) -> Scheduled:
    """All template kernels with one of the tilings above."""
    choices: dict[str, AnyTiling] = {}
    for symbol, spec in found.specs.items():
        if isinstance(spec, Gemm | Conv2d):
            choices[symbol] = (DEPTHWISE if is_depthwise(spec) else DENSE)[number]
    return with_tilings(found, choices, target)


def is_depthwise(spec: Gemm | Conv2d) -> bool:
    return isinstance(spec, Conv2d) and isinstance(spec.weight, PackedDepthwise)


def prepared(found: Scheduled, target: Target) -> Prepared:
    """A schedule with its code."""
    kernels = [found.kernels[symbol] for symbol in sorted(found.kernels)]
    return Prepared(found, (), build_library(kernels, target, native_sources(), Cache.default()), Options(target))


def outputs(model: Prepared, folder: Path, batches: tuple[int, ...] = (3,)) -> Iterator[list[np.ndarray]]:
    """Results at the least budget and with everything in memory."""
    for budget in (model.minimum_bytes, None):
        path = folder / "model.ullage"
        model.write(model.plan(budget), path)
        with load(path, budget) as runner:
            yield [np.array(y) for b in batches for y in runner(*layers_inputs(b))]


@cache
def reference(target: Target) -> Prepared:
    return prepared(scheduled(target), target)


CASES = [(target, number) for target in TARGETS for number in range(2) if number == 0 or target.lanes == 16]


@pytest.mark.parametrize(("target", "number"), CASES, ids=[f"{target}-{number}" for target, number in CASES])
def test_tilings_keep_all_bits(target: Target, number: int, tmp_path: Path) -> None:
    wanted = next(outputs(reference(target), tmp_path))
    model = prepared(tiled(scheduled(target), number, target), target)
    changed = set(model.scheduled.kernels) - set(scheduled(target).kernels)
    assert len(changed) >= 8
    for found in outputs(model, tmp_path):
        for x, y in zip(found, wanted, strict=True):
            assert np.array_equal(x, y)
            assert np.isfinite(x).all()


def test_tilings_keep_all_bits_of_every_length(tmp_path: Path) -> None:
    target = TARGETS[-1]
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=4)}}
    clean, _ = run_clean(load_model(layers(FewLayers), layers_inputs(2), dynamic_shapes=shapes))
    found = build_schedule(clean, target)
    wanted = next(outputs(prepared(found, target), tmp_path, (1, 4)))
    for results in outputs(prepared(tiled(found, 0, target), target), tmp_path, (1, 4)):
        assert all(np.array_equal(x, y) for x, y in zip(results, wanted, strict=True))


@pytest.mark.parametrize("scheme", ["bfloat16", "int8", "int4-weights"])
def test_tilings_keep_all_bits_of_narrow_arithmetic(scheme: str, tmp_path: Path) -> None:
    target = Target.parse("cpu", 2)
    x = torch.randn(1, 16, 9, 11, generator=torch.Generator().manual_seed(4))
    captured = load_model(layers(NarrowLayers), (x,))
    samples = ({captured.inputs[0].name: x},)
    own = prepare(captured, Options(target, quantize=parse_scheme(scheme), samples=samples))
    found = tiled(own.scheduled, 0, target)
    assert not set(found.kernels) & {s for s, spec in own.scheduled.specs.items() if isinstance(spec, Gemm | Conv2d)}
    results = []
    for model in (own, prepared(found, target)):
        model.write(model.plan(None), tmp_path / "model.ullage")
        with load(tmp_path / "model.ullage") as runner:
            results.append(np.array(runner(x)))
    assert np.array_equal(*results)


def pairs_of(again: Scheduled, target: Target) -> tuple[list[Step], list[Step]]:
    """The steps of the schedule without tilings, and of one with."""
    both = (scheduled(target).schedule.steps, again.schedule.steps)
    before, after = ([step for step in steps if isinstance(step, Step)] for steps in both)
    return before, after


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_every_candidate_makes_a_kernel_with_the_same_operands(target: Target) -> None:
    for symbol, spec in scheduled(target).specs.items():
        if not isinstance(spec, Gemm | Conv2d):
            continue
        own = scheduled(target).kernels[symbol]
        proposed = candidates(spec, target, {})
        assert proposed and spec.tiling not in proposed
        for tiling in proposed:
            again = with_tilings(scheduled(target), {symbol: tiling}, target)
            (step,) = (new for old, new in zip(*pairs_of(again, target), strict=True) if old.kernel == symbol)
            kernel = again.kernels[step.kernel]
            needs = (kernel.tasks, kernel.shared_bytes, kernel.thread_bytes)
            assert (step.tasks, step.shared_bytes, step.thread_bytes) == needs
            assert (kernel.buffers, kernel.dims, kernel.tiled) == (own.buffers, own.dims, own.tiled)


def test_a_tiling_of_the_templates_own_changes_nothing() -> None:
    target = TARGETS[-1]
    found = scheduled(target)
    own = {
        symbol: DepthwiseTiling() if is_depthwise(spec) else Tiling()
        for symbol, spec in found.specs.items()
        if isinstance(spec, Gemm | Conv2d)
    }
    again = with_tilings(found, own, target)
    assert again.schedule == found.schedule
    assert {s: k.source for s, k in again.kernels.items()} == {s: k.source for s, k in found.kernels.items()}
    assert replace(again, specs=found.specs) == found
