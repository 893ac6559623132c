"""Compiled models: what `ullage.compile` returns for one set of shapes, alone in its budget or a piece of a group."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ullage.calling import Convention
from ullage.errors import InputError
from ullage.facts import Facts
from ullage.flow import Built
from ullage.plan.plan import Plan
from ullage.plan.view import PlanView
from ullage.report import explain, html_page

if TYPE_CHECKING:
    from ullage.runtime.runner import Runner


class Home(Protocol):
    """Where a compiled model runs."""

    @property
    def built(self) -> Built:
        """What was written."""
        ...

    @property
    def plan(self) -> Plan:
        """The plan that it runs by."""
        ...

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Run once with named inputs."""
        ...

    def stats(self) -> dict[str, Any]:
        """The last run."""
        ...

    def explain(self) -> str:
        """What is to be said beside the model itself; may be empty."""
        ...

    def close(self) -> None:
        """Give the memory back until the next run."""


class Alone:
    """A model that has its budget for itself; everything that it holds is allocated when this is made."""

    def __init__(self, built: Built) -> None:
        self.built = built
        self._runner: Runner | None = built.open()

    @property
    def plan(self) -> Plan:
        """The plan that it was built with."""
        return self.built.plan

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Run once with named inputs."""
        return self._opened().run(inputs)

    def stats(self) -> dict[str, Any]:
        """The last run."""
        return dict(self._opened().stats())

    def explain(self) -> str:
        """Nothing."""
        return ""

    def close(self) -> None:
        """Give the memory back; the next run takes it again."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def _opened(self) -> Runner:
        if self._runner is None:
            self._runner = self.built.open()
        return self._runner


class Compiled:
    """A model inside its budget: call it like the original."""

    def __init__(self, home: Home, convention: Convention) -> None:
        self._home = home
        self._convention = convention

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; raises InputError for other shapes, dtypes or structures than it was compiled for."""
        inputs = self._convention.bind(args, kwargs)
        outputs = self._home.run(inputs)
        tensors = [as_torch(v, d) for v, d in zip(outputs.values(), self._convention.output_dtypes, strict=True)]
        return self._convention.restore(tensors)

    def accepts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the arguments have the captured structure, dtypes and shapes within the declared bounds."""
        try:
            inputs = self._convention.bind(args, kwargs)
        except InputError:
            return False
        return fits(self._home.built.plan, inputs)

    def covers(self, other: Compiled) -> bool:
        """Whether this serves every call that the other one serves: the same structure and constants, wider bounds."""
        mine, theirs = self._convention, other._convention
        same = mine.in_spec == theirs.in_spec and mine.input_leaves == theirs.input_leaves
        return same and encloses(self._home.built.plan, other._home.built.plan)

    @property
    def plan(self) -> PlanView:
        """Where every byte is, and what is predicted."""
        return PlanView(self._home.plan)

    def explain(self) -> str:
        """What was done to the model and why, as text."""
        return "\n".join(text for text in (self._home.explain(), explain(self._facts())) if text)

    def report(self, path: str | Path) -> None:
        """Write one self-contained HTML page: memory over time, rewrites, kernels, predictions."""
        Path(path).write_text(html_page(self._facts()), encoding="utf-8")

    def save(self, path: str | Path) -> None:
        """Write the artifact; `ullage.load(path)` runs it without torch."""
        if Path(path).suffix == ".onnx":
            raise InputError("an artifact is no ONNX model; ullage.export_onnx(model, path) writes one.")
        partial = Path(f"{path}.partial")
        try:
            shutil.copyfile(self._home.built.path, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def stats(self) -> dict[str, Any]:
        """The last run: wall time, bytes read per tier, stalls, high-water mark of every arena."""
        return self._home.stats()

    def close(self) -> None:
        """Give the memory back; the next call takes it again."""
        self._home.close()

    def _facts(self) -> Facts:
        return replace(self._home.built.facts, plan=self._home.plan)


def fits(plan: Plan, inputs: dict[str, torch.Tensor]) -> bool:
    """Whether inputs have the dtypes of a plan, and its shapes with dimensions inside their bounds."""
    if any(inputs[i.name].dim() != len(i.shape) or _dtype_name(inputs[i.name]) != i.dtype for i in plan.inputs):
        return False
    return _takes(plan, [tuple(inputs[i.name].shape) for i in plan.inputs])


def encloses(wide: Plan, narrow: Plan) -> bool:
    """Whether a wide plan takes all inputs of a narrow one, from its least to its largest dimensions."""
    if [(i.dtype, len(i.shape)) for i in wide.inputs] != [(i.dtype, len(i.shape)) for i in narrow.inputs]:
        return False
    ends = ({d.name: d.minimum for d in narrow.dimensions}, {d.name: d.maximum for d in narrow.dimensions})
    return all(_takes(wide, [info.shape_at(end) for info in narrow.inputs]) for end in ends)


def _takes(plan: Plan, shapes: Sequence[tuple[int, ...]]) -> bool:
    dims = {d.name: shapes[d.input][d.axis] // d.scale for d in plan.dimensions}
    within = all(d.minimum <= dims[d.name] <= d.maximum for d in plan.dimensions)
    return within and all(shape == info.shape_at(dims) for shape, info in zip(shapes, plan.inputs, strict=True))


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def as_torch(value: Any, dtype: torch.dtype) -> torch.Tensor:
    """An output array as a tensor of the model's own dtype; 16-bit floats that numpy lacks come as raw bits."""
    tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(value)
    if tensor.dtype == dtype:
        return tensor
    return tensor.view(dtype) if tensor.dtype.itemsize == dtype.itemsize else tensor.to(dtype)
