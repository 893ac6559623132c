"""Memory and time of a conversion, after and of each stage, for MiniLM's folder at 16 MiB.

`python -m benchmarks.converting`. The first stage imports the libraries and exports a one-line module, so that what
torch loads lazily is not counted as the conversion's. Run it twice: the second time kernels come from the cache.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.zoo import minilm_folder
from ullage.budget import format_bytes


class _Line(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def high_water_bytes() -> int:
    """The most that this process had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Stages:
    """Prints the high-water mark after each stage, and how long it took."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def done(self, stage: str) -> None:
        """A stage has ended."""
        now = time.perf_counter()
        print(f"{stage:<20} {format_bytes(high_water_bytes()):>10} {now - self._start:6.2f} s", flush=True)
        self._start = now


def main() -> None:
    """Convert, and print memory and time of each stage."""
    import transformers

    from ullage.driver import Options, prepare
    from ullage.frontends.load import load_model
    from ullage.target import Target

    assert transformers.AutoModel
    stages = _Stages()
    torch.export.export(_Line(), (torch.ones(2),)).run_decompositions()
    stages.done("libraries imported")
    captured = load_model(minilm_folder())
    stages.done("model captured")
    prepared = prepare(captured, Options(Target.parse("cpu")))
    stages.done("kernels compiled")
    plan = prepared.plan(16 << 20)
    stages.done("planned")
    with tempfile.TemporaryDirectory() as folder:
        prepared.write(plan, Path(folder) / "model.ullage")
    stages.done("written")


if __name__ == "__main__":
    main()
