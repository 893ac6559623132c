"""Row epilogues beside row kernels of their own: where they pay.

`python -m benchmarks.row_epilogues [--shapes 128,384,384 …] [--rounds 60]`. A shape is rows, inner size and outputs of
four products with residuals, each with a layer norm behind it; both ways of running them are interleaved, and the
medians are of whole runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.ways import in_turns
from ullage.codegen.schedule import join_rows
from ullage.driver import Options, prepare
from ullage.flow import capture
from ullage.options import CompileOptions
from ullage.target import Target

SHAPES = (
    "1,768,768", "8,768,768", "32,768,768", "128,384,384", "128,1536,384", "128,768,768", "128,3072,768",
    "197,768,768", "384,384,384", "784,384,192", "3136,96,96",
)  # fmt: skip
_LAYERS = 4
Rule = Callable[..., bool]
WAYS: dict[str, Rule] = {"joined": lambda *_: True, "apart": lambda *_: False}


class Products(nn.Module):
    """Products with a residual and a norm, and products back to the inner size between them."""

    def __init__(self, inner: int, outputs: int) -> None:
        super().__init__()
        self.there = nn.ModuleList(nn.Linear(inner, outputs) for _ in range(_LAYERS))
        self.back = nn.ModuleList(nn.Linear(outputs, inner) for _ in range(_LAYERS))
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """x: [1, rows, inner]; total: [1, rows, outputs]."""
        for there, back in zip(self.there, self.back, strict=True):
            total = self.norm(total + there(x))
            x = F.relu(back(total))
        return x


def main() -> int:
    """Print a line per shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    print(f"{'rows, inner, outputs':>22} {'joined µs':>10} {'apart µs':>10} {'apart/joined':>13}  chosen")
    for shape in options.shapes:
        rows, inner, outputs = (int(size) for size in shape.split(","))
        joined, apart = measure(rows, inner, outputs, options.rounds)
        chosen = "joined" if _chosen(rows, inner, outputs) else "apart"
        print(f"{shape:>22} {1e6 * joined:10.0f} {1e6 * apart:10.0f} {apart / joined:13.3f}  {chosen}", flush=True)
    return 0


def _model(rows: int, inner: int, outputs: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return Products(inner, outputs).eval(), (torch.randn(1, rows, inner), torch.randn(1, rows, outputs))


def _chosen(rows: int, inner: int, outputs: int) -> bool:
    """Whether the compiler joins these."""
    module, inputs = _model(rows, inner, outputs)
    prepared = prepare(capture(module, inputs, {}, CompileOptions()), Options(Target.parse("cpu")))
    return any(getattr(spec, "rows", None) is not None for spec in prepared.scheduled.specs.values())


def measure(rows: int, inner: int, outputs: int, rounds: int) -> tuple[float, float]:
    """Median seconds of a run, joined and apart."""
    module, inputs = _model(rows, inner, outputs)
    ways = {name: partial(patch.object, join_rows, "pays", rule) for name, rule in WAYS.items()}
    joined, apart = in_turns(module, inputs, ways, rounds).values()
    return joined.median, apart.median


if __name__ == "__main__":
    sys.exit(main())
