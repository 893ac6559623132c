"""One way in: whatever names or holds a model becomes a `CapturedModel`. One way out: ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ullage.errors import CaptureError, InputError
from ullage.frontends.dynamic import shared_ranges
from ullage.frontends.export import capture
from ullage.frontends.factory import call_factory, is_factory
from ullage.frontends.hf import capture_folder
from ullage.frontends.hf_inputs import InputSpecs, example_inputs
from ullage.frontends.pt2 import capture_pt2
from ullage.graph.captured import CapturedModel
from ullage.graph.collector import resting_collector

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@resting_collector()
def load_model(
    source: str | Path | nn.Module | Callable[..., Any],
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    input_specs: InputSpecs | None = None,
    dynamic_shapes: Any = None,
) -> CapturedModel:
    """Capture a Hugging Face folder, an ONNX, GGUF or `.pt2` file, `package.module:factory`, a module or a function.

    Inputs to capture with are `args` and `kwargs`, or tensors made after `input_specs` ({name: (dtype, shape)}),
    or those that the source knows itself. Dynamic dimensions are given as for torch.export, or as
    {input: {axis: (minimum, maximum)}}. Raises CaptureError or InputError.
    """
    if type(source).__name__ == "ModelProto":
        return _onnx(source, args, kwargs, input_specs, dynamic_shapes)
    if not isinstance(source, (str, Path)):
        return capture(source, *_arguments(args, kwargs, input_specs), dynamic_shapes)
    path = Path(source)
    if path.is_dir():
        return capture_folder(path, args, kwargs, input_specs, dynamic_shapes)
    if path.suffix == ".pt2":
        return _file(path, input_specs, dynamic_shapes)
    if path.suffix == ".gguf":
        return _gguf(path, args, kwargs, input_specs, dynamic_shapes)
    if path.suffix == ".onnx":
        return _onnx(path, args, kwargs, input_specs, dynamic_shapes)
    if is_factory(str(source)):
        return _factory(str(source), args, kwargs, input_specs, dynamic_shapes)
    what = "is no model file that is known" if path.exists() else "does not exist"
    raise InputError(
        f"{path} {what}; use a Hugging Face folder, an .onnx, .gguf or .pt2 file, or package.module:factory."
    )


def _arguments(args: tuple[Any, ...] | None, kwargs: Mapping[str, Any] | None, specs: InputSpecs | None) -> Arguments:
    if args is not None or kwargs is not None:
        return args or (), dict(kwargs or {})
    if specs is None:
        raise InputError("example inputs are needed to capture a module; give them, or input specs.")
    return (), dict(example_inputs(specs))


def _factory(
    source: str,
    args: tuple[Any, ...] | None,
    kwargs: Mapping[str, Any] | None,
    specs: InputSpecs | None,
    dynamic_shapes: Any,
) -> CapturedModel:
    model, own_args, own_kwargs = call_factory(source)
    if args is None and kwargs is None and specs is None:
        args, kwargs = own_args, own_kwargs
    return capture(model, *_arguments(args, kwargs, specs), dynamic_shapes)


def _onnx(
    source: Any,
    args: tuple[Any, ...] | None,
    kwargs: Mapping[str, Any] | None,
    specs: InputSpecs | None,
    dynamic_shapes: Any,
) -> CapturedModel:
    try:
        from ullage.frontends.onnx.capture import capture_onnx
    except ImportError as error:
        raise CaptureError("reading ONNX models needs onnx-ir: pip install 'ullage[onnx]'.") from error
    return capture_onnx(source, args, kwargs, specs, shared_ranges(dynamic_shapes))


def _gguf(
    path: Path,
    args: tuple[Any, ...] | None,
    kwargs: Mapping[str, Any] | None,
    specs: InputSpecs | None,
    dynamic_shapes: Any,
) -> CapturedModel:
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    from ullage.frontends.gguf.capture import capture_gguf

    return capture_gguf(path, args, kwargs, specs, dynamic_shapes)


def write_onnx(model: CapturedModel, path: Path) -> tuple[Path, ...]:
    """Write a graph as an ONNX model; returns its files, the model first. Raises UnsupportedOperator."""
    try:
        from ullage.frontends.onnx.write.file import write_file
        from ullage.frontends.onnx.write.model import onnx_model
    except ImportError as error:
        raise CaptureError("writing ONNX models needs onnx-ir: pip install 'ullage[onnx]'.") from error
    return write_file(onnx_model(model), path)


def _file(path: Path, specs: InputSpecs | None, dynamic_shapes: Any) -> CapturedModel:
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    if specs or dynamic_shapes:
        raise InputError(f"{path} fixes its inputs; give shapes and dynamic dimensions to torch.export.export instead.")
    return capture_pt2(path)
