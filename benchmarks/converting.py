"""Memory of a conversion: resident bytes of this process after each stage, for MiniLM's folder at 16 MiB.

`python -m benchmarks.converting`. The first stage imports the libraries and exports a one-line module, so that what
torch loads lazily is not counted as the conversion's.
"""

from __future__ import annotations

import resource
import tempfile
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


def main() -> None:
    """Convert, and print the high-water mark after each stage."""
    import transformers

    from ullage.driver import Options, prepare
    from ullage.frontends.load import load_model
    from ullage.target import Target

    assert transformers.AutoModel
    torch.export.export(_Line(), (torch.ones(2),)).run_decompositions()
    _say("libraries imported")
    captured = load_model(minilm_folder())
    _say("model captured")
    prepared = prepare(captured, Options(Target.parse("cpu")))
    _say("kernels compiled")
    plan = prepared.plan(16 << 20)
    _say("planned")
    with tempfile.TemporaryDirectory() as folder:
        prepared.write(plan, Path(folder) / "model.ullage")
    _say("written")


def _say(stage: str) -> None:
    print(f"{stage:<20} {format_bytes(high_water_bytes())}", flush=True)


if __name__ == "__main__":
    main()
