"""Capture through torch.export: a module or function with example inputs becomes a `CapturedModel`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Graph
from torch.utils import _pytree as pytree

from ullage.errors import CaptureError, UllageError
from ullage.frontends.by_operator import NotFunctional, decompose_by_operator
from ullage.frontends.convert import Names, from_exported
from ullage.frontends.decompositions import decomposition_table
from ullage.frontends.dims import named
from ullage.frontends.dynamic import Example, prepare
from ullage.frontends.known_scalars import known_scalars
from ullage.frontends.lean import lean
from ullage.frontends.names import input_names
from ullage.frontends.quiet import quiet
from ullage.frontends.wrap import as_module
from ullage.graph.captured import CapturedModel
from ullage.graph.constants import Source


def capture(
    model: nn.Module | Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    sources: Mapping[str, Source] | None = None,
    names: Names | None = None,
) -> CapturedModel:
    """Trace `model(*args, **kwargs)` in eval mode; `sources` gives the values of parameters that are fake tensors.

    Inputs and outputs are called as the signature and the results' keys say, or as `names` does.

    The model is left as it was. `dynamic_shapes` is as for torch.export, or {input: {axis: (minimum, maximum)}};
    every dynamic dimension needs an upper bound. Raises CaptureError with the reason and a hint.
    """
    module = as_module(model)
    distinct = _distinct(module, (tuple(args), dict(kwargs or {})))
    example = prepare(module.forward, *distinct, dynamic_shapes)
    with _evaluating(module):
        exported = _export(module, example)
        if names is None:
            structure = pytree.tree_structure((example.args, example.kwargs))
            names = Names(input_names(module.forward, structure))
        captured = from_exported(*decompose(exported), names, sources or {}, example.minimums)
    captured.dims = named(captured.dims, captured.inputs, example.names)
    return captured


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _distinct(module: nn.Module, call: Call) -> Call:
    """The call with copies of tensors that come twice or belong to the module: tracing tells inputs by identity."""
    leaves, spec = pytree.tree_flatten(call)
    seen = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    fresh = []
    for leaf in leaves:
        fresh.append(leaf.clone() if isinstance(leaf, torch.Tensor) and id(leaf) in seen else leaf)
        seen.add(id(leaf))
    return pytree.tree_unflatten(fresh, spec)  # type: ignore[no-any-return]


def decompose(exported: ExportedProgram) -> tuple[ExportedProgram, Graph]:
    """Run our decompositions: the graph, and the program that describes it; CaptureError if an operator resists."""
    try:
        with quiet(), lean():
            return _decomposed(exported)
    except Exception as error:
        raise CaptureError(f"the captured graph could not be decomposed: {reason(error)}") from error


def _decomposed(exported: ExportedProgram) -> tuple[ExportedProgram, Graph]:
    """By operator, which is fast, or, where there is mutation or a dynamic shape, by tracing all again."""
    try:
        return exported, decompose_by_operator(exported)
    except NotFunctional:
        program: ExportedProgram = exported.run_decompositions(decomposition_table())
        return program, program.graph


def reason(error: BaseException) -> str:
    """The first line of an error that says something, cut to 200 characters, and torch's suggested fixes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    start = lines.index("Suggested fixes:") + 1 if "Suggested fixes:" in lines else len(lines)
    fixes = [line for line in lines[start:] if " = " in line]
    text = text.split(" For more information, run with")[0]
    short = text if len(text) <= 200 else text[:197] + "..."
    return f"{short} Suggested fixes: {'; '.join(fixes[:3])}." if fixes else short


def _export(module: nn.Module, example: Example) -> ExportedProgram:
    failures = []
    for strict in (False, True):
        try:
            with quiet(), lean(), known_scalars():
                return torch.export.export(
                    module, example.args, example.kwargs, dynamic_shapes=example.dynamic_shapes, strict=strict
                )
        except UllageError:
            raise
        except Exception as error:
            failures.append(error)
    first = failures[0]
    raise CaptureError(f"torch.export could not capture the model: {reason(first)} {_hint(first)}") from first


_HINTS = (
    ("specialized", "Give an example input whose dynamic dimensions are at least 2, or make that dimension static."),
    ("Constraints violated", "Adjust dynamic_shapes to what the model allows."),
    ("data-dependent", "Values of tensors cannot steer Python code; use torch.where or torch.cond."),
    ("GuardOnDataDependent", "Values of tensors cannot steer Python code; use torch.where or torch.cond."),
    ("Could not guard", "Values of tensors cannot steer Python code; use torch.where or torch.cond."),
    ("missing", "Give example inputs for every required argument of forward."),
)


def _hint(error: BaseException) -> str:
    found = next((hint for key, hint in _HINTS if key in str(error)), None)
    return f"Hint: {found or 'torch.export.export(module, args, kwargs) alone shows the whole story.'}"


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; every submodule's own mode is put back afterwards."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for child, training in modes:
            child.training = training
