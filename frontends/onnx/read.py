"""Reading ONNX files: one-line errors for what is no model, and weights outside of the file only from its folder."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass

from ullage.errors import CaptureError, InputError
from ullage.graph.sources import FileSlice, FileStamp

_DTYPES = {
    "FLOAT": torch.float32, "DOUBLE": torch.float64, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16,
    "INT64": torch.int64, "INT32": torch.int32, "INT16": torch.int16, "INT8": torch.int8, "UINT8": torch.uint8,
    "UINT16": torch.uint16, "UINT32": torch.uint32, "UINT64": torch.uint64, "BOOL": torch.bool,
    "COMPLEX64": torch.complex64, "COMPLEX128": torch.complex128,
}  # fmt: skip


def read_model(path: Path) -> ir.Model:
    """The model of a file; raises InputError or CaptureError with the reason in one line."""
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    try:
        model = ir.load(path)
    except Exception as error:
        raise CaptureError(f"{path} is no ONNX model: {_reason(error)}") from error
    check_model(model, path)
    return model


def from_proto(proto: Any) -> ir.Model:
    """The model of an `onnx.ModelProto` in memory."""
    try:
        model = ir.serde.deserialize_model(proto)
    except Exception as error:
        raise CaptureError(f"the ModelProto is no valid model: {_reason(error)}") from error
    check_model(model, Path.cwd() / "model.onnx")
    return model


def check_model(model: ir.Model, path: Path) -> None:
    """Refuse weights outside of the model's folder and nodes that need each other, and inline functions."""
    if not model.graph.opset_imports:
        raise CaptureError(f"{path} is no ONNX model: it names no operator set.")
    folder = path.resolve().parent
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            _check_place(folder, str(name), value.const_value)
    _inline(model, path)
    try:
        model.graph.sort()
    except ValueError as error:
        raise CaptureError(f"{path}: nodes of the graph need each other's results in a circle.") from error


def _inline(model: ir.Model, path: Path) -> None:
    """Put the bodies of functions where they are called."""
    if not model.functions:
        return
    try:
        InlinePass()(model)
    except Exception as error:
        raise CaptureError(f"{path}: its functions cannot be inlined: {_reason(error)}") from error


def _check_place(folder: Path, name: str, tensor: Any) -> None:
    if not isinstance(tensor, ir.ExternalTensor):
        return
    place = (folder / str(tensor.location)).resolve()
    if not place.is_relative_to(folder):
        raise CaptureError(f"initializer {name!r} lies in {tensor.location}, outside of the model's folder.")
    if not place.is_file():
        raise CaptureError(f"initializer {name!r} lies in {tensor.location}, which does not exist.")


def external_source(tensor: ir.ExternalTensor, dtype: torch.dtype) -> FileSlice:
    """Where the values of an initializer lie; raises CaptureError if the file is too short for them."""
    path, offset = Path(tensor.path), int(tensor.offset or 0)
    shape = tuple(int(str(n)) for n in tensor.shape)
    stamp, needed = FileStamp.of(path), prod(shape) * dtype.itemsize
    if tensor.length is not None and tensor.length != needed:
        raise CaptureError(f"initializer {tensor.name!r} of shape {shape} does not fit its {tensor.length} bytes.")
    if offset < 0 or offset + needed > stamp.size:
        raise CaptureError(f"{path} is cut short: {tensor.name!r} ends at byte {offset + needed} of {stamp.size}.")
    return FileSlice(path, offset, dtype, shape, stamp)


def torch_dtype(dtype: ir.DataType | None, what: str) -> torch.dtype:
    """The dtype of torch for one of ONNX; raises CaptureError for those that torch does not compute with."""
    name = "UNDEFINED" if dtype is None else dtype.name
    if name not in _DTYPES:
        raise CaptureError(f"{what} is of type {name.lower()}, which is not supported.")
    return _DTYPES[name]


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
