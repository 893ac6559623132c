"""The Python interface: `compile`, `load`, `minimum_budget`, `frontier`, `export_onnx`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ullage.budget import Budget, parse_budget
from ullage.errors import InputError
from ullage.options import BudgetLike, CompileOptions, InputSpecs, Progress

if TYPE_CHECKING:
    from ullage.calling import Convention
    from ullage.compiled import Compiled
    from ullage.driver import Prepared
    from ullage.flow import Source
    from ullage.frontiers import Frontier
    from ullage.graph.captured import CapturedModel
    from ullage.lazy import Bounds, LazyCompiled
    from ullage.runtime.runner import Runner


def compile(
    model: Any = None,
    example_inputs: tuple[Any, ...] | None = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    budget: BudgetLike = None,
    target: str = "cpu",
    accuracy: str | float = "exact",
    quantize: object = None,
    sparsify: object = None,
    calibration: Iterable[object] | None = None,
    dynamic_shapes: object = None,
    input_specs: InputSpecs | None = None,
    progress: Progress | bool | None = None,
    threads: int | None = None,
    tune: float | None = None,
    recompile_limit: int = 8,
) -> Any:
    """Compile a module, a function or a model file inside a byte budget; without a model, return a decorator.

    With example inputs (or a file that knows its inputs) the work is done now; without, a module, function or module
    class is captured at its first call. With `tune`, tilings are measured on this machine for at most so many seconds,
    and those that are kept from earlier times are used. What is compiled at its calls has at most `recompile_limit`
    classes of shapes and constants, all within the one budget. Raises BudgetTooSmall, UnsupportedOperator, CaptureError
    or InputError.
    """
    options = CompileOptions(
        budget,
        target,
        accuracy,
        quantize,
        sparsify,
        calibration,
        dynamic_shapes,
        input_specs,
        progress,
        threads,
        tune,
        recompile_limit,
    )
    if model is None:
        return lambda decorated: _compile(decorated, example_inputs, example_kwargs, options)
    return _compile(model, example_inputs, example_kwargs, options)


def _compile(
    model: Any, inputs: tuple[Any, ...] | None, kwargs: Mapping[str, Any] | None, options: CompileOptions
) -> Any:
    import torch

    from ullage.lazy import LazyCompiled, compile_now, compiled_class

    if inspect.isclass(model):
        if not issubclass(model, torch.nn.Module):
            raise InputError(f"only torch.nn.Module classes can be compiled, found class {model.__name__}.")
        return compiled_class(model, options)
    if inputs is not None or kwargs is not None:
        return compile_now(model, _as_tuple(inputs), dict(kwargs or {}), options)
    return LazyCompiled(model, options) if callable(model) else compile_now(model, None, None, options)


class Pieces:
    """Modules that are compiled when they are called and share the budget that the options of `compile` name."""

    def __init__(self, name: str, **options: Any) -> None:
        from ullage.group import Group

        self._options = CompileOptions(**options)
        self.group = Group(self._options.budget_bytes(), name)

    def lazy(self, module: Any, name: str, bounds: Bounds | None = None) -> LazyCompiled:
        """One of the modules; `bounds` choose its dynamic dimensions from the arguments of the call at hand."""
        from ullage.lazy import LazyCompiled

        return LazyCompiled(module, self._options, self.group, bounds, name)


def compile_captured(captured: CapturedModel, **options: Any) -> Compiled:
    """Compile an already captured graph, with the options of `compile`; takes positional inputs as captured."""
    from ullage.calling import Convention
    from ullage.compiled import Alone, Compiled
    from ullage.flow import build

    return Compiled(Alone(build(captured, CompileOptions(**options))), Convention.of(captured, None))


def _as_tuple(inputs: Any) -> tuple[Any, ...]:
    if inputs is None:
        return ()
    if not isinstance(inputs, tuple | list):
        raise InputError(f"example_inputs must be a tuple of arguments, found {type(inputs).__name__}.")
    return tuple(inputs)


def load(path: str | Path, budget: BudgetLike = None, threads: int | None = None) -> Runner:
    """Open an artifact and allocate all it needs; runs without torch.

    `threads` is at most what the artifact was compiled for, the default as many of those as this process may use.
    Raises ArtifactError, BudgetTooSmall, or InputError for a bad number of threads.
    """
    from ullage.runtime.load import load as open_artifact

    return open_artifact(path, budget, threads)


def export_onnx(
    model: Any, path: str | Path, example_inputs: tuple[Any, ...] | None = None, **options: Any
) -> tuple[Path, ...]:
    """Write a module, a function or a model file as an ONNX model, after all rewrites that `compile` would make.

    `options` are those of `compile` that say something about the model: `example_kwargs`, `accuracy`, `quantize`,
    `calibration`, `dynamic_shapes`, `input_specs`, `progress`. Returns the files that were written: `path`, and one
    beside it with the weights if they take more than 2 GiB. Raises UnsupportedOperator for operators that ONNX has no
    form of, CaptureError, InputError or AccuracyNotMet.
    """
    from ullage.flow import export

    captured, source, chosen = _captured(model, example_inputs, **options)
    return export(captured, chosen, source, writable(Path(path))).paths


def writable(path: Path) -> Path:
    """The path itself; InputError if no file can be written there."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: its folder does not exist, or it is a folder itself.")
    return path


def minimum_budget(model: Any, example_inputs: tuple[Any, ...] | None = None, **options: Any) -> Budget:
    """The least budget that `compile` accepts with the same arguments."""
    prepared, _ = _prepare(model, example_inputs, **options)
    return Budget(ram=prepared.minimum_bytes)


def frontier(
    model: Any,
    example_inputs: tuple[Any, ...] | None = None,
    budgets: Iterable[BudgetLike] | None = None,
    *,
    measure: bool = False,
    **options: Any,
) -> Frontier:
    """Budget × time: planned at each budget (a ladder of six without any), and run there with `measure=True`."""
    from ullage.frontiers import measured, predicted

    if measure and example_inputs is None:
        raise InputError("measuring a frontier needs example_inputs to run with.")
    prepared, convention = _prepare(model, example_inputs, **options)
    points = predicted(prepared, None if budgets is None else [_bytes(budget) for budget in budgets])
    if not measure:
        return points
    inputs = convention.bind(_as_tuple(example_inputs), options.get("example_kwargs") or {})
    return measured(prepared, points, inputs)


def _prepare(
    model: Any,
    example_inputs: tuple[Any, ...] | None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[Prepared, Convention]:
    from ullage.flow import prepare

    captured, source, chosen = _captured(model, example_inputs, example_kwargs=example_kwargs, **options)
    return prepare(captured, chosen, source if source.has_examples else None), source.convention


def _captured(
    model: Any,
    example_inputs: tuple[Any, ...] | None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[CapturedModel, Source, CompileOptions]:
    from ullage.calling import Convention
    from ullage.flow import Source, capture

    chosen = CompileOptions(**options)
    given = example_inputs is not None or example_kwargs is not None
    captured = capture(
        model,
        _as_tuple(example_inputs) if given else None,
        dict(example_kwargs or {}) if given else None,
        chosen,
    )
    convention = Convention.of(captured, model)
    if not given:
        return captured, Source(convention), chosen
    return captured, Source(convention, _as_tuple(example_inputs), dict(example_kwargs or {})), chosen


def _bytes(budget: BudgetLike) -> int:
    ram = None if budget is None else parse_budget(budget).ram
    if ram is None:
        raise InputError(f"a frontier needs budgets in bytes of memory, found {budget!r}.")
    return ram
