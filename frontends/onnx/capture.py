"""Capture of ONNX models: example inputs from the graph's own types, then the same tracing as for PyTorch modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch.fx.traceback import preserve_node_meta

from ullage.errors import CaptureError, InputError, UllageError
from ullage.frontends.convert import Names
from ullage.frontends.dims import named
from ullage.frontends.export import capture
from ullage.frontends.hf_inputs import InputSpecs, example_inputs
from ullage.frontends.onnx.fixed import with_fixed_inputs
from ullage.frontends.onnx.module import OnnxModule, leaf_names
from ullage.frontends.onnx.narrow import narrow_type
from ullage.frontends.onnx.ranges import declared, open_dimensions
from ullage.frontends.onnx.read import from_proto, read_model, torch_dtype
from ullage.graph.captured import CapturedModel


def capture_onnx(
    source: Path | Any,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    specs: InputSpecs | None = None,
    dynamic_shapes: Any = None,
) -> CapturedModel:
    """The captured graph of an ONNX file or ModelProto; its inputs and outputs keep their names.

    Inputs of open shape need a size: by example inputs, by specs, or by the range of a dynamic dimension. Inputs
    whose values sizes follow from are fixed at the example's. Raises InputError or CaptureError.
    """
    with _in_one_line():
        return _captured(source, args, kwargs, specs, dynamic_shapes)


def _captured(
    source: Path | Any,
    args: tuple[Any, ...] | None,
    kwargs: Mapping[str, Any] | None,
    specs: InputSpecs | None,
    dynamic_shapes: Any,
) -> CapturedModel:
    module = OnnxModule(read_model(source) if isinstance(source, Path) else from_proto(source))
    names = [str(value.name) for value in module.inputs]
    given = _given(names, args, kwargs)
    examples = given | {name: x for name, x in example_inputs(specs or {}).items() if _known_name(name, names)}
    ranges = _by_name(names, dynamic_shapes) if examples or dynamic_shapes else declared(module.model, module.inputs)
    inputs = tuple(
        examples[name] if name in examples else _example(value, ranges.get(name, {}))
        for name, value in zip(names, module.inputs, strict=True)
    )
    shapes = (
        {own: ranges.get(name) for own, name in zip(module.parameter_names, names, strict=True)} if ranges else None
    )
    public = Names(leaf_names(names, inputs), module.output_names)
    with preserve_node_meta():
        captured = with_fixed_inputs(
            module, given, lambda: capture(module, inputs, None, shapes, sources=module.sources, names=public)
        )
    own = {(i, axis): name for i, value in enumerate(module.inputs) for axis, name in open_dimensions(value).items()}
    captured.dims = named(captured.dims, captured.inputs, {place: n for place, n in own.items() if n.isidentifier()})
    return captured


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Errors inside say what they say in one line, whatever names a file holds."""
    try:
        yield
    except UllageError as error:
        error.args = (" ".join(str(error).split()),)
        raise


def _known_name(name: str, names: list[str]) -> bool:
    if name not in names:
        raise InputError(f"the model has no input {name!r}; its inputs are {', '.join(names)}.")
    return True


def _given(names: list[str], args: tuple[Any, ...] | None, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    if len(args or ()) > len(names):
        raise InputError(f"{len(args or ())} example inputs for a model of {len(names)}: {', '.join(names)}.")
    found = dict(zip(names, args or (), strict=False))
    found |= {name: value for name, value in (kwargs or {}).items() if _known_name(name, names)}
    return found


def _by_name(names: list[str], shapes: Any) -> dict[str, Any]:
    if shapes is None:
        return {}
    if isinstance(shapes, Mapping):
        return {name: axes for name, axes in shapes.items() if _known_name(name, names)}
    return dict(zip(names, shapes, strict=False))


def _example(value: ir.Value, ranges: Any) -> torch.Tensor:
    """A tensor of an input's type, of any values; a dynamic dimension has a size amid its bounds."""
    if not isinstance(value.type, ir.TensorType):
        raise InputError(
            f"input {value.name!r} is no tensor; give an example: a list for a sequence, None or a tensor."
        )
    kind = narrow_type(value.dtype)
    dtype = kind.carrier if kind is not None else torch_dtype(value.dtype, f"input {value.name!r}")
    if value.shape is None:
        raise InputError(
            f"input {value.name!r} has no shape in the model; give one: --input {value.name}=dtype[sizes]."
        )
    sizes = [_size(value, axis, dim, ranges) for axis, dim in enumerate(value.shape)]
    try:
        return torch.empty(sizes, dtype=dtype)  # no memory is touched: only its type and shape matter
    except RuntimeError as error:
        raise InputError(f"input {value.name!r} of shape {sizes} is too large for this machine.") from error


def _between(dim: Any) -> int:
    """A size amid the bounds of a `Dim`: at the upper one, tracing takes what is cut to a table's length for fixed."""
    root = getattr(dim, "root", None)
    if root is not None:
        return int(dim.fn(_between(root)))
    return (int(dim.min or 0) + int(dim.max) + 1) // 2


def _size(value: ir.Value, axis: int, dim: Any, ranges: Any) -> int:
    asked = ranges.get(axis) if isinstance(ranges, Mapping) else None
    if getattr(asked, "max", None) is not None:
        return _between(asked)
    if isinstance(dim, int) and dim < 0:
        raise CaptureError(f"input {value.name!r} has a dimension of {dim} in the model.")
    if isinstance(dim, int):
        return dim
    named = getattr(dim, "value", None)
    raise InputError(
        f"dimension {axis} of input {value.name!r} is open{f' ({named})' if named else ''}; give its size with "
        f"--input {value.name}=dtype[sizes], or a range with --dynamic."
    )
