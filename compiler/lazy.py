"""Models that are compiled when they are called: functions and module classes under the decorator, pieces of graphs."""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from ullage.calling import Convention, signature_of
from ullage.compiled import Alone, Compiled
from ullage.errors import BudgetTooSmall, CaptureError, InputError, MutationFound, UllageError
from ullage.flow import Built, Source, build, capture
from ullage.frontends.wrap import as_module
from ullage.graph.captured import FROZEN_NONE, CapturedModel, TensorSpec
from ullage.group import Group
from ullage.options import CompileOptions
from ullage.state import StateWatch

ShapeClass = tuple[Hashable, ...]
_MOST_KEYS = 256
"""Calls whose shape class is found without asking each compiled class; forgotten all at once when there are more."""


class Bounds(Protocol):
    """Chooses the dynamic dimensions to compile with from the arguments that ask for it."""

    def choices(self, args: tuple[Any, ...]) -> Iterable[object]:
        """`dynamic_shapes` to try in turn while the budget refuses, the best one first."""
        ...


class Declared:
    """The dynamic dimensions that the options name."""

    def __init__(self, dynamic_shapes: object) -> None:
        self._dynamic_shapes = dynamic_shapes

    def choices(self, args: tuple[Any, ...]) -> Iterable[object]:
        """What was declared, whatever comes."""
        return (self._dynamic_shapes,)


class LazyCompiled:
    """Captures at the first call and at each new shape class; all classes share one budget.

    A shape class is the structure of the arguments, the dtypes and shapes of tensors (with `dynamic_shapes`: all
    shapes in the bounds), and every other value. Calls from several threads take turns. Raises InputError for more
    classes than `recompile_limit`, and when the weights are no longer those that were compiled.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        options: CompileOptions,
        group: Group | None = None,
        bounds: Bounds | None = None,
        name: str | None = None,
    ) -> None:
        self._model = model
        self._options = options
        self._name: str = name or getattr(model, "__qualname__", None) or type(model).__name__
        self._group = group or Group(options.budget_bytes(), self._name)
        self._bounds = bounds or Declared(options.dynamic_shapes)
        self._signature = signature_of(model)
        self._lock = threading.RLock()
        self._made: dict[ShapeClass, Compiled] = {}
        self._classes: list[Compiled] = []
        self._current: Compiled | None = None
        self._watch: StateWatch | None = None
        if not isinstance(model, torch.nn.Module):
            functools.update_wrapper(self, model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, compiling it first if these shapes, dtypes and constants are new."""
        with self._lock:
            if self._watch is not None:
                self._watch.check(self._name)
            self._current = self._for(args, kwargs)
            return self._current(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """As a method: one compiled model for each instance."""
        if instance is None:
            return self
        key = f"_ullage_{self._name.rpartition('.')[2]}"
        bound = instance.__dict__.get(key)
        if bound is None:
            method = types.MethodType(self._model, instance)
            bound = instance.__dict__.setdefault(key, LazyCompiled(method, self._options))
        return bound

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies start with nothing compiled."""
        return LazyCompiled, (self._model, self._options)

    def reset(self) -> None:
        """Forget all that was compiled; the next call compiles anew, with the weights that the model has then."""
        with self._lock:
            self._made.clear()
            self._classes.clear()
            self._current = self._watch = None
            self._group.close()

    def explain(self) -> str:
        """The budget and its pieces, and what was done to the model in the class that ran last."""
        return self._last("explain").explain()

    @property
    def group(self) -> Group:
        """The budget that all shape classes live in."""
        return self._group

    def _for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Compiled:
        key = shape_class(*self._ordered(args, kwargs))
        found = self._made.get(key)
        if found is None:
            found = next((made for made in self._classes if made.accepts(args, kwargs)), None)
            found = found or self._compile(args, kwargs)
            if len(self._made) >= _MOST_KEYS:
                self._made.clear()
            self._made[key] = found
        return found

    def _ordered(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call as its signature orders it, defaults filled in, so that one call written in two ways is one."""
        if self._signature is None:
            return args, kwargs
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"{self._name}{self._signature} cannot be called so: {error}.") from error
        bound.apply_defaults()
        return bound.args, bound.kwargs

    def _compile(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Compiled:
        self._refuse_beyond_limit()
        self._watch = self._watch or StateWatch([as_module(self._model)])
        refusal: UllageError | None = None
        for shapes in self._bounds.choices(args):
            try:
                return self._compiled(args, kwargs, shapes)
            except MutationFound:
                raise
            except (BudgetTooSmall, CaptureError) as error:
                refusal = error
        raise refusal or InputError(f"{self._name} has no bounds to be compiled with.")

    def _compiled(self, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: object) -> Compiled:
        captured = capture(self._model, args, kwargs, self._options, shapes)
        convention = Convention.of(captured, self._model)

        def make() -> Built:
            return build(captured, self._options, Source(convention, args, kwargs))

        made = Compiled(self._group.add(f"{self._name}({class_name(captured)})", make), convention)
        self._drop_covered(made)
        self._classes.append(made)
        return made

    def _drop_covered(self, made: Compiled) -> None:
        """Let go of classes whose every call the new one serves as well."""
        self._classes = [old for old in self._classes if not made.covers(old)]
        self._made = {key: old for key, old in self._made.items() if old in self._classes}

    def _refuse_beyond_limit(self) -> None:
        limit = self._options.recompile_limit
        if len(self._classes) >= limit:
            raise InputError(
                f"{self._name} is compiled for {len(self._classes)} classes of shapes and constants already; declare "
                "dynamic_shapes, pass what varies as a tensor, or raise recompile_limit."
            )

    def _last(self, name: str) -> Compiled:
        if self._current is None:
            raise AttributeError(f"{name}: nothing is compiled yet; call the model once, or give example_inputs.")
        return self._current

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._last(name), name)


def shape_class(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ShapeClass:
    """What a capture depends on: the structure, the dtypes and shapes of tensors, and every other value."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return (str(spec), *(_leaf_class(leaf) for leaf in leaves))


def class_name(captured: CapturedModel) -> str:
    """A shape class for people: dtypes, shapes with their bounds, and plain values; cut after 80 characters."""
    bounds = {dim.symbol: f"{dim.minimum}..{dim.maximum}" for dim in captured.dims}
    tensors = (_tensor_name(spec, bounds) for spec in captured.inputs)
    leaves = (
        next(tensors) if leaf is None else repr(None if leaf is FROZEN_NONE else leaf) for leaf in captured.input_leaves
    )
    text = ", ".join(leaves)
    return text if len(text) <= 80 else text[:77] + "..."


def _tensor_name(spec: TensorSpec, bounds: Mapping[str, str]) -> str:
    sizes = ", ".join(bounds.get(str(size), str(size)) for size in spec.shape)
    return f"{str(spec.dtype).removeprefix('torch.')}[{sizes}]"


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
    return Compiled(Alone(build(captured, options, Source(convention, args, kwargs))), convention)


def compiled_class(cls: type[torch.nn.Module], options: CompileOptions) -> type[torch.nn.Module]:
    """A subclass whose instances compile themselves at their first call."""

    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        state, thread = self.__dict__, threading.get_ident()
        busy: set[int] = state.setdefault("_ullage_busy", set())
        if thread in busy:
            return cls.__call__(self, *args, **kwargs)
        lazy = state.setdefault("_ullage", LazyCompiled(self, options)) if "_ullage" not in state else state["_ullage"]
        busy.add(thread)
        try:
            return lazy(*args, **kwargs)
        finally:
            busy.discard(thread)

    def without_compiled(self: torch.nn.Module) -> Any:
        state = cls.__getstate__(self)  # type: ignore[no-untyped-call]
        return {k: v for k, v in state.items() if not k.startswith("_ullage")} if isinstance(state, dict) else state

    body = {name: getattr(cls, name) for name in ("__module__", "__doc__", "__qualname__")}
    body |= {"__call__": call, "__getstate__": without_compiled}
    return type(cls.__name__, (cls,), body)
