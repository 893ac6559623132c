"""Products of one row with weights that no cache holds: how near each scheme is to the rate at which memory is read.

`python -m benchmarks.one_row [--width 4096] [--layers 10] [--rows 1] [--rounds 15] [--schemes exact,bfloat16,...]`. A
chain of square linears; a round is, for each scheme, a read of as many bytes of another buffer by as many threads and
a run. The rate of reading memory changes from second to second on shared machines: fractions are taken within rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.kernels import Function, aligned, compiled, limits
from ullage.driver import Options, prepare
from ullage.frontends.load import load_model
from ullage.passes.quantize.names import parse_scheme
from ullage.runtime.load import load
from ullage.runtime.runner import Runner
from ullage.scratch import Scratch
from ullage.target import Target, available_threads

SCHEMES = "exact,bfloat16,int8,int8-weights,int4-weights,int4-weights/128,int3-weights,int2-weights"


@dataclass(frozen=True)
class Case:
    """A compiled chain and the bytes of its weights."""

    name: str
    runner: Runner
    weight_bytes: int


class Reader:
    """Reads a buffer by several threads, each a contiguous part."""

    def __init__(self, size_bytes: int, threads: int) -> None:
        self.memory = aligned(size_bytes // 4, 1.0)
        self.threads = threads
        self.function: Function = compiled(limits(), Target.parse("cpu"))["limit_read"]

    def seconds(self, size_bytes: int) -> float:
        """Wall seconds of reading so many bytes."""
        share = size_bytes // 4 // self.threads // 256 * 256
        jobs = [threading.Thread(target=self._read, args=(i * share, share)) for i in range(self.threads)]
        start = time.perf_counter()
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        return time.perf_counter() - start

    def _read(self, first: int, floats: int) -> None:
        pointer = (ctypes.c_void_p * 1)(self.memory.ctypes.data + 4 * first)
        args = (ctypes.c_void_p * 4)(ctypes.addressof(pointer), None, None, None)
        self.function(ctypes.addressof(args), 0, floats)


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--schemes", default=SCHEMES)
    options = parser.parse_args()
    scratch = Scratch()
    module = nn.Sequential(*[nn.Linear(options.width, options.width, bias=False) for _ in range(options.layers)])
    x = torch.randn(options.rows, options.width)
    cases = [
        case_of(name, module.eval().requires_grad_(False), x, options.threads, scratch.path)
        for name in options.schemes.split(",")
    ]
    print(f"{'scheme':18} {'MiB':>7} {'ms':>8} {'GB/s':>6} {'read GB/s':>9} {'of the read rate':>17}")
    for line in measure(cases, x, options.rounds, options.threads):
        print(line)
    return 0


def case_of(name: str, module: nn.Module, x: torch.Tensor, threads: int, folder: Path) -> Case:
    """The chain in one scheme, loaded with everything in memory."""
    scheme = parse_scheme(name)
    captured = load_model(module, (x,))
    samples = ({captured.inputs[0].name: x},)
    prepared = prepare(captured, Options(Target.parse("cpu", threads), quantize=scheme, samples=samples))
    path = folder / f"{name.replace('/', '_')}.ullage"
    prepared.write(prepared.plan(None), path)
    return Case(name, load(path), prepared.weight_bytes)


def measure(cases: Sequence[Case], x: torch.Tensor, rounds: int, threads: int) -> list[str]:
    """One line per case: medians over the rounds."""
    reader = Reader(max(case.weight_bytes for case in cases), threads)
    values = np.ascontiguousarray(x.numpy())
    took: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
    for _ in range(rounds + 1):
        for case in cases:
            read = reader.seconds(case.weight_bytes)
            start = time.perf_counter()
            case.runner(values)
            seconds = time.perf_counter() - start
            again = reader.seconds(case.weight_bytes)
            took[case.name].append(((read + again) / 2, seconds))
    return [_line(case, took[case.name][1:]) for case in cases]


def _line(case: Case, took: Sequence[tuple[float, float]]) -> str:
    seconds = statistics.median(s for _, s in took)
    read = statistics.median(r for r, _ in took)
    fraction = statistics.median(r / s for r, s in took)
    rates = f"{case.weight_bytes / seconds / 1e9:6.1f} {case.weight_bytes / read / 1e9:9.1f}"
    return f"{case.name:18} {case.weight_bytes / 2**20:7.0f} {1e3 * seconds:8.2f} {rates} {fraction:16.0%}"


if __name__ == "__main__":
    sys.exit(main())
