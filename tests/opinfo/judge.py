"""Compiling many calls as one model, and judging what comes out against float64."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from tests.opinfo.catalogue import Case
from ullage.driver import Options, prepare
from ullage.frontends.load import load_model
from ullage.runtime.load import load
from ullage.target import Target

UNITS = {torch.float32: 25.0, torch.float64: 1e3, torch.float16: 3.0, torch.bfloat16: 3.0}
"""Units in the last place of the largest value of a result that are always allowed, beside twice eager's error."""


class Calls(torch.nn.Module):
    """All cases as one module: the inputs are those of the cases, one after another."""

    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__()
        self.cases = tuple(cases)

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """All inputs."""
        return tuple(t.clone() for case in self.cases for t in case.inputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The results of all cases."""
        position, results = 0, list[torch.Tensor]()
        for case in self.cases:
            count = len(case.inputs)
            results += case(*tensors[position : position + count])
            position += count
        return tuple(results)


def run(model: Calls, path: Path) -> list[torch.Tensor]:
    """The results of all cases from a written artifact."""
    captured = load_model(model, model.inputs)
    prepared = prepare(captured, Options(Target.parse("cpu", threads=2)))
    prepared.write(prepared.plan(None), path)
    with load(path) as runner:
        given = zip(captured.inputs, model.inputs, strict=True)
        found = runner.run({spec.name: spec_value(tensor) for spec, tensor in given})
    return [tensor_of(value) for value in found.values()]


def spec_value(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as numpy holds it: bfloat16 by its bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype is torch.bfloat16 else tensor.numpy()


def tensor_of(value: object) -> torch.Tensor:
    """A result of a run as a tensor."""
    array = np.array(value)
    return torch.from_numpy(array)


def judged(cases: Sequence[Case]) -> Iterator[tuple[Case, str | None]]:
    """What is wrong with each case, None if nothing is; what fails as a whole is halved until the culprit is alone.

    Calls that change their arguments are left out: models may not.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = run(Calls(cases), Path(folder, "calls.ullage"))
    except Exception as error:
        if len(cases) == 1:
            if "changes its state" in str(error):
                return
            yield cases[0], f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            return
        middle = len(cases) // 2
        yield from judged(cases[:middle])
        yield from judged(cases[middle:])
        return
    rest = iter(results)
    for case in cases:
        eager = case(*(t.clone() for t in case.inputs))
        yield case, fault(case, eager, [next(rest) for _ in eager])


def fault(case: Case, eager: Sequence[torch.Tensor], results: Sequence[torch.Tensor]) -> str | None:
    """What is wrong with the results of a case, None if nothing is.

    Images of bytes may differ by one: PyTorch rounds them between rows and columns, too. Among equal values any order
    will do.
    """
    wide = [t.double() if t.is_floating_point() else t for t in case.inputs]
    try:
        truths: Sequence[torch.Tensor] = case(*wide)
    except RuntimeError:
        truths = eager
    if case.dtype is torch.uint8 and "upsample" in case.operator:
        results = [torch.where((r.int() - e.int()).abs() > 1, r, e) for r, e in zip(results, eager, strict=True)]
    if case.operator in ("sort", "topk") and _points_at(case.inputs[0], *results):
        results = [results[0], eager[1]]
    faults = (_fault(*one) for one in zip(eager, truths, results, strict=True))
    return next((found for found in faults if found is not None), None)


def _points_at(x: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> bool:
    """Whether values of `x` lie at positions along some dimension, each in a place of its own."""
    for dim in range(x.dim()):
        others = [n for d, n in enumerate(x.shape) if d != dim]
        if others != [n for d, n in enumerate(positions.shape) if d != dim] or positions.numel() == 0:
            continue
        distinct = bool((positions.sort(dim).values.diff(dim=dim) > 0).all())
        if distinct and int(positions.max()) < x.shape[dim] and torch.equal(x.gather(dim, positions), values):
            return True
    return False


def _fault(eager: torch.Tensor, truth: torch.Tensor, result: torch.Tensor) -> str | None:
    if result.dtype is torch.uint16 and eager.dtype is torch.bfloat16:
        result = result.view(torch.bfloat16)
    if result.shape != eager.shape or result.dtype != eager.dtype:
        return f"{result.dtype}{list(result.shape)} instead of {eager.dtype}{list(eager.shape)}"
    if not eager.is_floating_point():
        return None if torch.equal(result, eager) else f"other values: {_difference(result, eager)}"
    if not eager.numel():
        return None
    truth = truth.double() if truth.shape == eager.shape else eager.double()
    known = torch.isfinite(truth) & torch.isfinite(eager)
    if not torch.equal(torch.nan_to_num(result[~known]), torch.nan_to_num(eager[~known])):
        return f"other places are infinite or undefined: {_difference(result, eager)}"
    if not bool(known.any()):
        return None
    scale = truth[known].abs().max()
    units = UNITS[eager.dtype] * torch.finfo(eager.dtype).eps
    allowed = 2 * (eager.double() - truth)[known].abs().max() + units * scale
    reached = (result.double() - truth)[known].abs().max()
    return None if reached <= allowed else f"error {reached:.3g}, allowed {allowed:.3g}"


def _difference(result: torch.Tensor, eager: torch.Tensor) -> str:
    wrong = (result != eager).flatten()
    return f"{result.flatten()[wrong][:3].tolist()} for {eager.flatten()[wrong][:3].tolist()}"
