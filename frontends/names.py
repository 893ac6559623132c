"""Public names of inputs and outputs, from the forward's signature and from the keys inside pytrees."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch.utils import _pytree as pytree

Path = tuple[str, ...]


def leaf_paths(spec: pytree.TreeSpec) -> list[Path]:
    """One path of keys (or positions, as text) per leaf, in flattening order."""
    if spec.is_leaf():
        return [()]
    keys = _child_keys(spec)
    return [(key, *rest) for key, child in zip(keys, spec.children(), strict=True) for rest in leaf_paths(child)]


def _child_keys(spec: pytree.TreeSpec) -> list[str]:
    context = spec.context
    fields = getattr(context, "_fields", context)
    if isinstance(fields, (list, tuple)) and len(fields) == spec.num_children:
        return [str(field) for field in fields]
    return [str(i) for i in range(spec.num_children)]


def input_names(forward: Callable[..., Any], in_spec: pytree.TreeSpec) -> list[str]:
    """Names of all leaves of (args, kwargs): the parameter, then `_key` per level of a pytree, made unique."""
    positional, variadic = _positional_parameters(forward)
    return unique(_input_name(path, positional, variadic) for path in leaf_paths(in_spec))


def _positional_parameters(forward: Callable[..., Any]) -> tuple[list[str], str]:
    parameters = inspect.signature(forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    variadic = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), "input")
    return [p.name for p in parameters if p.kind in kinds], variadic


def _input_name(path: Path, positional: Sequence[str], variadic: str) -> str:
    group, key, *rest = path
    if group == "1":
        return "_".join((key, *rest))
    index = int(key)
    if index < len(positional):
        return "_".join((positional[index], *rest))
    return "_".join((variadic, str(index - len(positional)), *rest))


def output_names(out_spec: pytree.TreeSpec) -> list[str]:
    """Keys where the outputs have them, otherwise `output`, `output_1`, `output_2`, ..., made unique."""
    paths = leaf_paths(out_spec)
    return unique("_".join(p) if any(not key.isdigit() for key in p) else _numbered(i) for i, p in enumerate(paths))


def _numbered(index: int) -> str:
    return f"output_{index}" if index else "output"


def apart(outputs: Sequence[str], inputs: Iterable[str]) -> list[str]:
    """The output names, with `_out` appended (as often as it takes) to those that an input has, too."""
    taken = {*inputs}
    result = []
    for name in outputs:
        while name in taken:
            name = f"{name}_out"
        taken.add(name)
        result.append(name)
    return result


def unique(names: Iterable[str]) -> list[str]:
    """The names in order, with `_1`, `_2`, ... appended where one was taken already."""
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, count = name, 0
        while candidate in taken:
            count += 1
            candidate = f"{name}_{count}"
        taken.add(candidate)
        result.append(candidate)
    return result
