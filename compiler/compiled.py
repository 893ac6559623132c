"""Compiled models: what `ullage.compile` returns, for one set of shapes or for whatever shapes come."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from ullage.calling import Convention
from ullage.errors import InputError
from ullage.flow import Built, Source, build, capture
from ullage.options import CompileOptions
from ullage.plan.plan import Plan
from ullage.plan.view import PlanView
from ullage.report import explain, html_page

if TYPE_CHECKING:
    from ullage.runtime.runner import Runner

ShapeClass = tuple[Hashable, ...]


class Compiled:
    """A model inside its budget: call it like the original. Everything it holds is allocated when it is made."""

    def __init__(self, built: Built, convention: Convention) -> None:
        self._built = built
        self._convention = convention
        self._runner: Runner | None = built.open()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; raises InputError for other shapes, dtypes or structures than it was compiled for."""
        inputs = self._convention.bind(args, kwargs)
        outputs = self._opened().run(inputs)
        tensors = [as_torch(v, d) for v, d in zip(outputs.values(), self._convention.output_dtypes, strict=True)]
        return self._convention.restore(tensors)

    def accepts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the arguments have the captured structure, dtypes and shapes within the declared bounds."""
        try:
            inputs = self._convention.bind(args, kwargs)
        except InputError:
            return False
        return fits(self._built.plan, inputs)

    def _opened(self) -> Runner:
        if self._runner is None:
            self._runner = self._built.open()
        return self._runner

    @property
    def plan(self) -> PlanView:
        """Where every byte is, and what is predicted."""
        return PlanView(self._built.plan)

    def explain(self) -> str:
        """What was done to the model and why, as text."""
        return explain(self._built.facts)

    def report(self, path: str | Path) -> None:
        """Write one self-contained HTML page: memory over time, rewrites, kernels, predictions."""
        Path(path).write_text(html_page(self._built.facts), encoding="utf-8")

    def save(self, path: str | Path) -> None:
        """Write the artifact; `ullage.load(path)` runs it without torch."""
        partial = Path(f"{path}.partial")
        try:
            shutil.copyfile(self._built.path, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def stats(self) -> dict[str, Any]:
        """The last run: wall time, bytes read per tier, stalls, high-water mark of every arena."""
        return dict(self._opened().stats())

    def close(self) -> None:
        """Give the memory back; the next call takes it again."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None


class LazyCompiled:
    """Captures at the first call and at each new shape class; one class is in memory at a time, within one budget."""

    def __init__(self, model: Callable[..., Any], options: CompileOptions) -> None:
        self._model = model
        self._options = options
        self._made: dict[ShapeClass, Compiled] = {}
        self._current: Compiled | None = None
        if not isinstance(model, torch.nn.Module):
            functools.update_wrapper(self, model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, compiling it first if these shapes, dtypes and constants are new."""
        compiled = self._for(args, kwargs)
        if compiled is not self._current:
            if self._current is not None:
                self._current.close()
            self._current = compiled
        return compiled(*args, **kwargs)

    def _for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Compiled:
        key = shape_class(args, kwargs)
        if key not in self._made:
            if self._current is not None:
                self._current.close()
            self._made[key] = self._reuse(args, kwargs) or compile_now(self._model, args, kwargs, self._options)
        return self._made[key]

    def _reuse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Compiled | None:
        """With dynamic shapes, the class that was compiled first serves all that fit its bounds."""
        if self._options.dynamic_shapes is None:
            return None
        return next((made for made in self._made.values() if made.accepts(args, kwargs)), None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._current is None:
            raise AttributeError(f"{name}: nothing is compiled yet; call the model once, or give example_inputs.")
        return getattr(self._current, name)


def shape_class(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ShapeClass:
    """What a capture depends on: the structure, the dtypes and shapes of tensors, and every other value."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return (str(spec), *(_leaf_class(leaf) for leaf in leaves))


def _leaf_class(leaf: object) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        return ("tensor", str(leaf.dtype), tuple(leaf.shape))
    if not isinstance(leaf, Hashable):
        raise InputError(f"an argument of type {type(leaf).__name__} is neither a tensor nor a plain value.")
    return (type(leaf).__name__, leaf)


def compile_now(
    model: object, args: tuple[Any, ...] | None, kwargs: dict[str, Any] | None, options: CompileOptions
) -> Compiled:
    """Capture, plan, write to a scratch folder and load."""
    captured = capture(model, args, kwargs, options)
    convention = Convention.of(captured, model)
    return Compiled(build(captured, options, Source(convention, args, kwargs)), convention)


def compiled_class(cls: type[torch.nn.Module], options: CompileOptions) -> type[torch.nn.Module]:
    """A subclass whose instances compile themselves at their first call."""

    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        state = self.__dict__
        if state.get("_ullage_busy"):
            return cls.__call__(self, *args, **kwargs)
        lazy = state.setdefault("_ullage", LazyCompiled(self, options))
        state["_ullage_busy"] = True
        try:
            return lazy(*args, **kwargs)
        finally:
            state["_ullage_busy"] = False

    body = {"__call__": call, "__module__": cls.__module__, "__doc__": cls.__doc__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), body)


def fits(plan: Plan, inputs: dict[str, torch.Tensor]) -> bool:
    """Whether inputs have the dtypes of a plan, and its shapes with dimensions inside their bounds."""
    if any(inputs[i.name].dim() != len(i.shape) or _dtype_name(inputs[i.name]) != i.dtype for i in plan.inputs):
        return False
    dims = {d.name: inputs[plan.inputs[d.input].name].shape[d.axis] // d.scale for d in plan.dimensions}
    within = all(d.minimum <= dims[d.name] <= d.maximum for d in plan.dimensions)
    return within and all(tuple(inputs[i.name].shape) == i.shape_at(dims) for i in plan.inputs)


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def as_torch(value: Any, dtype: torch.dtype) -> torch.Tensor:
    """An output array as a tensor of the model's own dtype; 16-bit floats that numpy lacks come as raw bits."""
    tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(value)
    if tensor.dtype == dtype:
        return tensor
    return tensor.view(dtype) if tensor.dtype.itemsize == dtype.itemsize else tensor.to(dtype)
