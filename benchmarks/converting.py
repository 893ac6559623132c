"""Time and memory of a conversion by stage: cold (no kernel in the cache), then warm, each in a process of its own.

`python -m benchmarks.converting [--model NAME] [--batch 1] [--budget 16MiB] [--inductor]`. NAME is one of the suite or
the zoo; `minilm`, the default, is converted from its folder. The budget is raised to the model's least one. What
imports the libraries, makes the model and exports a one-line module first is printed, but is no part of the total.
`--inductor` adds what torch.compile takes to a first result, with an empty cache as well.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.suite_models import SUITE, factory_name
from benchmarks.zoo import minilm_folder
from ullage.budget import format_bytes, parse_bytes

OURS = {
    "rewrite": "rewritten",
    "schedule": "scheduled",
    "compile kernels": "kernels compiled",
    "plan": "planned",
    "other budgets": "other budgets planned",
    "pack weights": "packed and written",
}
"""What ends with each stage that the flow reports."""


class _Line(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def high_water_bytes() -> int:
    """The most that this process had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Stages:
    """Prints for each stage the time that it took, and the high-water mark after it."""

    def __init__(self) -> None:
        self._start = self._zero = time.perf_counter()
        self._running = ""

    def done(self, stage: str, without_seconds: float = 0.0) -> None:
        """A stage has ended; `without_seconds` of it were printed already."""
        now = time.perf_counter()
        self.line(stage, now - self._start - without_seconds)
        self._start = now

    def reported(self, stage: str, fraction: float) -> None:
        """The flow begins a stage: the one before has ended."""
        if stage == self._running:
            return
        if self._running:
            self.done(OURS[self._running])
        self._running = stage

    def reset(self) -> None:
        """The total counts from here."""
        self._start = self._zero = time.perf_counter()

    def total(self) -> None:
        """Print the sum."""
        self.line("total", time.perf_counter() - self._zero)

    @staticmethod
    def line(stage: str, seconds: float) -> None:
        """Print one line."""
        print(f"  {stage:<24} {seconds:7.2f} s {format_bytes(high_water_bytes()):>12}", flush=True)


def _timed_export() -> list[float]:
    """Lets torch.export.export note its seconds in the list."""
    seconds: list[float] = []
    export: Callable[..., Any] = torch.export.export

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return export(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - start)

    torch.export.export = timed
    return seconds


def _source(model: str, batch: int) -> tuple[Any, ...]:
    """What to convert: MiniLM's folder, or a module with its inputs."""
    if model == "minilm":
        from transformers import BertModel

        assert BertModel
        return (minilm_folder(),)
    return _module(model, batch)


def _module(model: str, batch: int) -> tuple[Any, ...]:
    from ullage.frontends.factory import call_factory

    made: tuple[Any, ...] = call_factory(factory_name(model, batch) if model in SUITE else f"benchmarks.zoo:{model}")
    return made


def convert(model: str, batch: int, budget_bytes: int) -> None:
    """Convert, and print every stage."""
    from ullage.driver import Options, prepare
    from ullage.frontends.load import load_model
    from ullage.target import Target

    stages = _Stages()
    source = _source(model, batch)
    torch.export.export(_Line(), (torch.ones(2),)).run_decompositions()
    exporting = _timed_export()
    stages.done("libraries and model")
    stages.reset()
    captured = load_model(*source)
    stages.line("torch.export", sum(exporting))
    stages.done("captured otherwise", sum(exporting))
    prepared = prepare(captured, Options(Target.parse("cpu"), progress=stages.reported))
    stages.reported("plan", 0.0)
    plan = prepared.plan(max(budget_bytes, prepared.minimum_bytes))
    with tempfile.TemporaryDirectory() as folder:
        prepared.write(plan, Path(folder) / "model.ullage")
    stages.total()


def compile_with_inductor(model: str, batch: int) -> None:
    """Print what torch.compile takes to a first result."""
    module, inputs, kwargs = _module(model, batch)
    with torch.no_grad():
        torch.compile(_Line())(torch.ones(2))
        start = time.perf_counter()
        torch.compile(module)(*inputs, **(kwargs or {}))
        _Stages.line("torch.compile", time.perf_counter() - start)


def main() -> None:
    """Print a table for a cold conversion and one for a warm one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--budget", default="16MiB")
    parser.add_argument("--inductor", action="store_true")
    parser.add_argument("--worker", choices=("convert", "inductor"))
    options = parser.parse_args()
    if options.worker == "convert":
        convert(options.model, options.batch, parse_bytes(options.budget))
    elif options.worker == "inductor":
        compile_with_inductor(options.model, options.batch)
    else:
        _both(options.inductor)


def _both(inductor: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        for name in ("cold", "warm"):
            print(name, flush=True)
            _worker("convert", folder)
        if inductor:
            print("cold", flush=True)
            _worker("inductor", folder)


def _worker(kind: str, folder: str) -> None:
    """This program once more, with its caches in a folder that is empty at first."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--inductor"]
    caches = {"XDG_CACHE_HOME": folder, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.converting", *arguments, "--worker", kind]
    subprocess.run(command, env={**os.environ, **caches}, check=True)


if __name__ == "__main__":
    main()
