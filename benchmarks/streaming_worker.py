"""One framework on weights that stay on disk: `streaming_worker accelerate|mapped MODEL FOLDER [--libraries]`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from accelerate import disk_offload, init_empty_weights

from benchmarks.streaming import RUNS
from benchmarks.zoo import ZOO, quiet_transformers
from ullage.overhead import resident_high_water_bytes
from ullage.target import available_threads


def empty_model(name: str) -> torch.nn.Module:
    """The model without memory for its parameters."""
    quiet_transformers()
    with init_empty_weights():
        return ZOO[name].build(False).module.eval()


def mapped(name: str, folder: Path) -> torch.nn.Module:
    """Parameters mapped from the file: the kernel reads and drops pages as it likes."""
    model = empty_model(name)
    weights = torch.load(folder / "weights.pt", mmap=True, weights_only=True)
    model.load_state_dict(weights, assign=True)
    return model


def offloaded(name: str, folder: Path) -> torch.nn.Module:
    """accelerate's hooks, which fetch each layer's weights before it runs."""
    model: torch.nn.Module = disk_offload(
        empty_model(name), str(folder / "offload"), execution_device=torch.device("cpu")
    )
    return model


def main(system: str, name: str, folder: Path) -> None:
    """Run and print seconds; the first run warms up."""
    torch.set_num_threads(available_threads())
    torch.set_grad_enabled(False)
    inputs = torch.load(folder / "inputs.pt", weights_only=True)
    model = {"mapped": mapped, "accelerate": offloaded}[system](name, folder)
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        model(*inputs)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    if "--libraries" in sys.argv:
        empty_model(sys.argv[2])
        print(json.dumps({"resident_bytes": resident_high_water_bytes()}))
    else:
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
