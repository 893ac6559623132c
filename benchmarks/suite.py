"""Everything in memory, side by side over the suite: Ullage, PyTorch, Inductor, ONNX Runtime, OpenVINO, llama.cpp.

`python -m benchmarks.suite [--models a,b] [--batch 1] [--threads 2] [--against ...] [--rounds 7] [--accuracy E]
[--quantize S] [--kernels] [--json FILE] [--plot FILE]`. float32, each system in a process of its own, in turns,
medians; `best ÷ Ullage` compares with the fastest of the others. Peak is resident memory over what the system's
libraries take. With an accuracy Ullage and OpenVINO compute in bfloat16; with int8 ONNX Runtime's quantizer makes the
models of the others. llama.cpp runs only `llama_1b`, so it is asked for by name: `--models llama_1b --against
llamacpp,eager`. `--kernels` adds the fraction of the roofline and the launches that lose most.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import suite_models
from benchmarks.launches import profile
from benchmarks.suite_models import SUITE, factory_name
from ullage.bench import Row, Table, bench
from ullage.bench_worker import SYSTEMS
from ullage.budget import format_bytes
from ullage.options import CompileOptions

OTHERS = tuple(name for name in SYSTEMS if name != "llamacpp")
"""What is run by default; llama.cpp knows decoders alone."""
SMALL = tuple(name for name in SUITE if name != "llama_1b")
"""What is run by default; the model of 1.1e9 weights takes 4.4 GB in each of five systems."""

_HIGHEST = 4.0
"""The plot's bars end here; higher ones have a number."""


@dataclass(frozen=True)
class Result:
    """One model at one batch: the rows of all systems, Ullage first."""

    model: str
    batch: int
    rows: tuple[Row, ...]
    right: bool

    @property
    def ratio(self) -> float | None:
        """How many times as long as Ullage the fastest other system takes."""
        ours = self.rows[0].seconds_median
        others = [row.seconds_median for row in self.rows[1:] if row.seconds_median is not None]
        return min(others) / ours if ours and others else None

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {"model": self.model, "batch": self.batch, "right": self.right, "ratio": self.ratio,
                "rows": [row.to_json() for row in self.rows]}  # fmt: skip


def main() -> int:
    """Print a line per model as it is measured, then the geometric mean; exit 1 if a result was wrong."""
    options = _options()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    against = [name for name in options.against.split(",") if name]
    print(
        f"{'model':<18}" + "".join(f"{name:>13}" for name in ("ullage", *against)) + "   best ÷ Ullage   peak",
        flush=True,
    )
    results = []
    for model in options.models.split(","):
        result = measure(model, options.batch, against, options.rounds, options.accuracy, options.quantize)
        print(line(result), flush=True)
        results.append(result)
        if options.kernels:
            print("\n".join(kernels(model, options)), flush=True)
    print(f"geometric mean of best ÷ Ullage: {geometric_mean([r.ratio for r in results if r.ratio]):.3f}")
    if options.json:
        document = {"threads": options.threads, "results": [result.to_json() for result in results]}
        Path(options.json).write_text(json.dumps(document, indent=1))
    if options.plot:
        plot(results, Path(options.plot))
    return 0 if all(result.right for result in results) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(SMALL))
    parser.add_argument("--against", default=",".join(OTHERS), help=f"of {', '.join(SYSTEMS)}; empty: none")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--accuracy", type=float, default=None, help="relative error allowed; OpenVINO in bfloat16")
    parser.add_argument(
        "--quantize", default=None, help="a scheme; with int8 the others run ONNX Runtime's int8 models"
    )
    parser.add_argument("--kernels", action="store_true", help="the fraction of the roofline, and what loses most")
    parser.add_argument("--json", default="")
    parser.add_argument("--plot", default="")
    options = parser.parse_args()
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'ullage[plots]'")
    return options


def measure(
    model: str,
    batch: int,
    against: Sequence[str],
    rounds: int,
    accuracy: float | None = None,
    quantize: str | None = None,
) -> Result:
    """One model beside the others."""
    allowed = "exact" if accuracy is None else accuracy
    table: Table = bench(
        factory_name(model, batch), against, None, None, None, rounds, accuracy=allowed, quantize=quantize
    )
    return Result(model, batch, table.rows, table.passed)


def kernels(model: str, options: argparse.Namespace) -> list[str]:
    """The model's fraction of the roofline and the ten launches that lose most against the machine's limits."""
    module, inputs = getattr(suite_models, f"{model}_b{options.batch}")()
    allowed = "exact" if options.accuracy is None else options.accuracy
    asked = CompileOptions(threads=options.threads, accuracy=allowed, quantize=options.quantize)
    found = profile(model, module, inputs, {}, asked, 3 * options.rounds)
    return [f"  {text}" for text in (found.summary(), *found.worst(10))]


def line(result: Result) -> str:
    """The medians in milliseconds, the ratio, and the peaks of Ullage and of the thriftiest other."""
    cells = "".join(f"{_milliseconds(row):>13}" for row in result.rows)
    ratio = "–" if result.ratio is None else f"{result.ratio:.2f}"
    peaks = [row.peak_bytes for row in result.rows[1:] if row.peak_bytes is not None]
    ours = result.rows[0].peak_bytes
    memory = "" if ours is None or not peaks else f"{format_bytes(ours)} / {format_bytes(min(peaks))}"
    return f"{result.model:<18}{cells}   {ratio:>13}   {memory}{'' if result.right else '  WRONG'}"


def _milliseconds(row: Row) -> str:
    return row.status.partition(":")[0] if row.seconds_median is None else f"{1e3 * row.seconds_median:.2f} ms"


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean; NaN of nothing."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def plot(results: Sequence[Result], path: Path) -> None:
    """Bars of each system's time over Ullage's, by model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    systems = [row.system for row in results[0].rows[1:]]
    figure, axes = pyplot.subplots(figsize=(1.2 + 0.9 * len(results), 4))
    width = 0.8 / len(systems)
    for number, system in enumerate(systems):
        heights = [_relative(result, number + 1) for result in results]
        places = [i + (number - (len(systems) - 1) / 2) * width for i in range(len(results))]
        axes.bar(places, [min(height, _HIGHEST) for height in heights], width, label=system)
        for place, height in zip(places, heights, strict=True):
            if height > _HIGHEST:
                axes.annotate(f"{height:.1f}", (place, _HIGHEST), ha="center", va="bottom", fontsize=7)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks(range(len(results)), [result.model for result in results], rotation=45, ha="right")
    axes.set_ylim(0, 1.05 * _HIGHEST)
    axes.set_ylabel("time ÷ Ullage's")
    axes.set_title(f"float32, batch {results[0].batch}: higher bars are slower than Ullage")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def _relative(result: Result, number: int) -> float:
    ours, other = result.rows[0].seconds_median, result.rows[number].seconds_median
    return other / ours if ours and other else 0.0


if __name__ == "__main__":
    sys.exit(main())
