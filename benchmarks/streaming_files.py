"""Files for the streaming benchmark: artifacts at two budgets, inputs, and the weights in the frameworks' formats."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import offload_state_dict

from benchmarks.zoo import sample
from ullage.arrays import write_arrays
from ullage.bench import as_array
from ullage.budget import parse_bytes
from ullage.calling import Convention
from ullage.flow import capture, prepare
from ullage.options import CompileOptions


def make(model: str, budget: str, folder: Path) -> dict[str, Any]:
    """Write everything; returns budgets and byte counts."""
    chosen = sample(model)
    captured = capture(chosen.module, chosen.inputs, chosen.kwargs, CompileOptions())
    prepared = prepare(captured, CompileOptions())
    limit = prepared.weight_bytes // 2 if budget == "half" else parse_bytes(budget)
    small, large = prepared.plan(limit), prepared.plan(None)
    prepared.write(small, folder / "small.ullage")
    prepared.write(large, folder / "large.ullage")
    inputs = Convention.of(captured, chosen.module).bind(chosen.inputs, chosen.kwargs)
    write_arrays(folder / "inputs.npz", {name: as_array(tensor) for name, tensor in inputs.items()})
    torch.save(chosen.inputs, folder / "inputs.pt")
    torch.save(chosen.module.state_dict(), folder / "weights.pt")
    offload_state_dict(str(folder / "offload"), chosen.module.state_dict())
    return {
        "weight_bytes": prepared.weight_bytes,
        "small_budget_bytes": small.budget_bytes,
        "large_budget_bytes": large.peak_bytes,
        "streamed_bytes_per_run": small.streamed_bytes_per_run,
    }


if __name__ == "__main__":
    print(json.dumps(make(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
