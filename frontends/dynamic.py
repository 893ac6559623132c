"""Dynamic dimensions as they are asked for: friendly ranges become torch's `Dim`s, examples of size 1 are enlarged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ullage.errors import InputError

_SMALLEST_EXAMPLE = 2
"""torch.export treats sizes 0 and 1 as fixed, so that a dynamic dimension needs a larger example."""

_SHARED = "_axis"
"""How names begin that are made up for dimensions that were declared by their range alone."""

Minimums = Mapping[tuple[int, int], int]
"""Declared least sizes by (tensor leaf of (args, kwargs), axis)."""


@dataclass(frozen=True)
class Example:
    """A call to trace with, and its dynamic dimensions in torch.export's form."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any
    minimums: Minimums
    names: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """Names that dimensions were declared with, by (tensor leaf, axis)."""


def prepare(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Any) -> Example:
    """Make a call and its `dynamic_shapes` ready for torch.export; raises InputError if they do not fit."""
    if shapes is None:
        return Example(args, dict(kwargs), None, {})
    names = argument_names(forward, args, kwargs)
    resolved = _resolve(shapes, names)
    by_name = resolved if isinstance(resolved, Mapping) else dict(zip(names, resolved, strict=False))
    positional = [by_name.get(name) for name in names[: len(args)]] + [None] * (len(args) - len(names))
    asked = (positional, {name: by_name.get(name) for name in kwargs})
    larger = _enlarged((list(args), dict(kwargs)), asked)
    return Example(tuple(larger[0]), larger[1], resolved, _minimums(larger, asked), _names(larger, asked))


def argument_names(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """The names that torch.export gives the arguments of a call, in order; raises InputError if they do not fit."""
    signature = inspect.signature(forward)
    try:
        arguments = dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise InputError(f"the example inputs do not fit the model's signature {signature}: {error}.") from error
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    return list(arguments)


def shared_ranges(shapes: Any) -> Any:
    """{input: {axis: (minimum, maximum)}} with one `Dim` per axis and range, for inputs that share batch and length."""
    if not isinstance(shapes, Mapping):
        return shapes
    return {name: _shared_axes(axes) if isinstance(axes, Mapping) else axes for name, axes in shapes.items()}


def _shared_axes(axes: Mapping[Any, Any]) -> dict[Any, Any]:
    return {axis: _named(axis, *value) if _is_range(value) else value for axis, value in axes.items()}


def _named(axis: int, minimum: int, maximum: int) -> Any:
    return torch.export.Dim(f"{_SHARED}{axis}_{minimum}_{maximum}", min=minimum, max=maximum)


def _is_range(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(n, int) for n in value)


def _resolve(shapes: Any, names: Sequence[str]) -> Any:
    if not isinstance(shapes, Mapping):
        return _dims(shapes)
    unknown = [name for name in shapes if name not in names]
    if unknown:
        raise InputError(f"dynamic_shapes names {', '.join(map(str, unknown))}; the inputs are {', '.join(names)}.")
    return {name: _dims(shapes.get(name)) for name in names}


def _dims(shape: Any) -> Any:
    if isinstance(shape, Mapping):
        return {key: _dim(value) if isinstance(key, int) else _dims(value) for key, value in shape.items()}
    if isinstance(shape, (tuple, list)):
        return type(shape)(_dims(part) for part in shape)
    return shape


def _dim(value: Any) -> Any:
    if not _is_range(value):
        return value
    minimum, maximum = value
    if not 1 <= minimum <= maximum:
        raise InputError(f"the range {minimum}..{maximum} of a dynamic dimension must rise from at least 1.")
    return torch.export.Dim.DYNAMIC(min=minimum, max=maximum)


def _axes(shape: Any) -> list[tuple[int, Any]]:
    if not isinstance(shape, (Mapping, tuple, list)):
        return []
    pairs = shape.items() if isinstance(shape, Mapping) else enumerate(shape)
    return [(axis, dim) for axis, dim in pairs if dim is not None and not isinstance(dim, int)]


def _enlarged(value: Any, shape: Any) -> Any:
    """The example with every dynamic dimension of size 1 repeated to the least size that tracing keeps dynamic."""
    if isinstance(value, torch.Tensor):
        for axis, dim in _axes(shape):
            value = _repeated(value, axis, dim)
        return value
    if type(value) in (tuple, list, dict):
        parts = [_enlarged(part, inner) for part, inner in _children(value, shape)]
        return dict(zip(value, parts, strict=True)) if isinstance(value, dict) else type(value)(parts)
    return value


def _repeated(value: torch.Tensor, axis: int, dim: Any) -> torch.Tensor:
    maximum = getattr(dim, "max", None)
    if value.shape[axis] >= _SMALLEST_EXAMPLE or (maximum is not None and maximum < _SMALLEST_EXAMPLE):
        return value
    size = max(_SMALLEST_EXAMPLE, int(getattr(dim, "min", None) or 0))
    return value.narrow(axis, 0, 1).expand(*value.shape[:axis], size, *value.shape[axis + 1 :]).clone()


def _children(value: Any, shape: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return [(part, shape.get(key) if isinstance(shape, Mapping) else None) for key, part in value.items()]
    inner = list(shape) if isinstance(shape, (tuple, list)) else []
    return list(zip(value, inner + [None] * (len(value) - len(inner)), strict=True))


def _minimums(value: Any, shape: Any) -> dict[tuple[int, int], int]:
    leaves = enumerate(_tensors(value, shape))
    return {(i, axis): int(getattr(dim, "min", None) or 0) for i, (_, asked) in leaves for axis, dim in _axes(asked)}


def _names(value: Any, shape: Any) -> dict[tuple[int, int], str]:
    """Names that were given to `Dim`s (to their root, for multiples), and not by `shared_ranges`."""
    leaves = enumerate(_tensors(value, shape))
    roots = {(i, axis): getattr(dim, "root", dim) for i, (_, asked) in leaves for axis, dim in _axes(asked)}
    found = {place: getattr(root, "__name__", "") for place, root in roots.items()}
    return {place: name for place, name in found.items() if name and not name.startswith(_SHARED)}


def _tensors(value: Any, shape: Any) -> Iterator[tuple[torch.Tensor, Any]]:
    if isinstance(value, torch.Tensor):
        yield value, shape
    elif type(value) in (tuple, list, dict):
        for part, inner in _children(value, shape):
            yield from _tensors(part, inner)
