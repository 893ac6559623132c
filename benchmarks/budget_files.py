"""Write one model of the zoo at several budgets, with inputs, eager results and float64 truth; prints what it wrote.

A process of its own per model, so that memory is given back: `python -m benchmarks.budget_files resnet50 FOLDER 3`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from benchmarks.zoo import sample
from ullage.arrays import write_arrays
from ullage.bench import as_array
from ullage.calling import Convention
from ullage.flow import capture, ladder, prepare
from ullage.graph.captured import CapturedModel
from ullage.graph.reference import run_captured
from ullage.options import CompileOptions


def write_model(name: str, folder: Path, rungs: int) -> dict[str, Any]:
    """Artifacts `0.ullage` … from the least budget to the generous one, `inputs.npz`, `eager.npz`, `truth.npz`."""
    chosen = sample(name)
    options = CompileOptions()
    start = time.perf_counter()
    captured = capture(chosen.module, chosen.inputs, chosen.kwargs, options)
    prepared = prepare(captured, options)
    budgets = list(ladder(prepared.minimum_bytes, prepared.plan(None).peak_bytes, rungs))
    for index, budget in enumerate(budgets):
        prepared.write(prepared.plan(budget), folder / f"{index}.ullage")
    seconds = time.perf_counter() - start
    inputs = Convention.of(captured, chosen.module).bind(chosen.inputs, chosen.kwargs)
    _save(folder / "inputs.npz", inputs)
    with torch.no_grad():
        eager = pytree.tree_leaves(chosen.module(*chosen.inputs, **chosen.kwargs))
    _save(folder / "eager.npz", _named(captured, [leaf for leaf in eager if isinstance(leaf, torch.Tensor)]))
    _save(folder / "truth.npz", _named(captured, run_captured(captured, list(inputs.values()), torch.float64)))
    return {"budgets": budgets, "weight_bytes": prepared.weight_bytes, "convert_seconds": seconds}


def _named(captured: CapturedModel, outputs: Any) -> dict[str, torch.Tensor]:
    return dict(zip((spec.name for spec in captured.outputs), outputs, strict=True))


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write_arrays(path, {name: as_array(tensor) for name, tensor in tensors.items()})


if __name__ == "__main__":
    print(json.dumps(write_model(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
