"""Dynamic dimensions as they are asked for: friendly ranges become torch's `Dim`s, examples of size 1 are enlarged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ullage.errors import InputError

_SMALLEST_EXAMPLE = 2
"""torch.export treats sizes 0 and 1 as fixed, so that a dynamic dimension needs a larger example."""


def resolve(shapes: Any, names: Sequence[str]) -> Any:
    """`dynamic_shapes` for torch.export: (minimum, maximum) pairs become dimensions, unnamed arguments are static.

    Raises InputError for an argument that does not exist.
    """
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
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return torch.export.Dim.DYNAMIC(min=int(value[0]), max=int(value[1]))
    return value


def argument_names(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """The names that torch.export gives the arguments of a call, in order."""
    signature = inspect.signature(forward)
    try:
        arguments = dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise InputError(f"the example inputs do not fit the model's signature {signature}: {error}.") from error
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    return list(arguments)


def enlarged(value: Any, shape: Any) -> Any:
    """The example with every dynamic dimension of size 1 repeated to the least size that tracing keeps dynamic."""
    if isinstance(value, torch.Tensor):
        for axis, dim in _axes(shape):
            if value.shape[axis] < _SMALLEST_EXAMPLE <= _maximum(dim):
                size = max(_SMALLEST_EXAMPLE, int(getattr(dim, "min", None) or 0))
                value = value.narrow(axis, 0, 1).expand(*value.shape[:axis], size, *value.shape[axis + 1 :]).clone()
        return value
    if isinstance(value, Mapping) and isinstance(shape, Mapping):
        return {key: enlarged(part, shape.get(key)) for key, part in value.items()}
    if isinstance(value, (tuple, list)) and isinstance(shape, (tuple, list)):
        return type(value)(enlarged(part, inner) for part, inner in zip(value, shape, strict=False))
    return value


def _axes(shape: Any) -> list[tuple[int, Any]]:
    pairs = shape.items() if isinstance(shape, Mapping) else enumerate(shape) if isinstance(shape, (tuple, list)) else ()
    return [(axis, dim) for axis, dim in pairs if dim is not None and not isinstance(dim, int)]


def _maximum(dim: Any) -> float:
    bound = getattr(dim, "max", None)
    return float("inf") if bound is None else float(bound)


def with_examples(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """The call and its `dynamic_shapes` made ready for torch.export; raises InputError if they do not fit."""
    if shapes is None:
        return args, kwargs, None
    names = argument_names(forward, args, kwargs)
    resolved = resolve(shapes, names)
    by_name = resolved if isinstance(resolved, Mapping) else dict(zip(names, resolved, strict=False))
    new_args = tuple(
        enlarged(value, by_name.get(names[i]) if i < len(names) else None) for i, value in enumerate(args)
    )
    return new_args, {name: enlarged(value, by_name.get(name)) for name, value in kwargs.items()}, resolved
