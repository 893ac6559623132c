"""Pools inside convolutions beside pools of their own.

`python -m benchmarks.window_epilogues [--rounds 60] [--only TEXT]`

Each line is a convolution with ReLU, a max-pool, and a 1×1 convolution down to 8 channels. Both ways of running it are
interleaved; the medians are of whole runs, the bytes are the least budget's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.ways import in_turns
from ullage.codegen.schedule.join_windows import WindowJoiner


@dataclass(frozen=True)
class Case:
    """Images, channels, size; outputs, kernel and stride of the convolution; kernel, stride and padding of the pool."""

    name: str
    images: int
    channels: int
    size: int
    outputs: int
    kernel: int
    stride: int
    pool: tuple[int, int, int]


CASES = (
    Case("ResNet, stem", 1, 3, 224, 64, 7, 2, (3, 2, 1)),
    Case("ResNet, stem, 8 images", 8, 3, 224, 64, 7, 2, (3, 2, 1)),
    Case("VGG, first", 1, 64, 224, 64, 3, 1, (2, 2, 0)),
    Case("VGG, third", 1, 256, 56, 256, 3, 1, (2, 2, 0)),
    Case("VGG, last", 1, 512, 14, 512, 3, 1, (2, 2, 0)),
    Case("SqueezeNet, stem", 1, 3, 224, 96, 7, 2, (3, 2, 0)),
    Case("DenseNet, transition", 1, 256, 56, 128, 1, 1, (2, 2, 0)),
)


class Pooled(nn.Module):
    """A convolution, a pool, and what reads it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.first = nn.Conv2d(case.channels, case.outputs, case.kernel, case.stride, case.kernel // 2)
        self.last, self.pool = nn.Conv2d(case.outputs, 8, 1), case.pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[images, channels, h, w]."""
        y: torch.Tensor = self.last(F.max_pool2d(F.relu(self.first(x)), *self.pool))
        return y


def main() -> int:
    """Print a line per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", default="", help="cases with this text in their name")
    options = parser.parse_args()
    print(f"{'':>24} {'joined µs':>10} {'apart µs':>10} {'apart/joined':>13} {'joined KiB':>11} {'apart KiB':>10}")
    apart_way = partial(patch.object, WindowJoiner, "run", lambda _: None)
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {"joined": nullcontext, "apart": apart_way}
    for case in (case for case in CASES if options.only in case.name):
        x = torch.randn(case.images, case.channels, case.size, case.size)
        found = in_turns(Pooled(case).eval(), (x,), ways, options.rounds)
        joined, apart = found["joined"], found["apart"]
        times = f"{1e6 * joined.median:10.0f} {1e6 * apart.median:10.0f} {apart.median / joined.median:13.3f}"
        print(f"{case.name:>24} {times} {joined.least_bytes >> 10:11} {apart.least_bytes >> 10:10}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
