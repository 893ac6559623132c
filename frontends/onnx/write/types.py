"""Element types: those of torch as ONNX names them, and those that a graph computes in."""

from __future__ import annotations

import onnx_ir as ir
import torch

from ullage.errors import UnsupportedOperator

_TYPES: dict[torch.dtype, ir.DataType] = {
    torch.float32: ir.DataType.FLOAT, torch.float64: ir.DataType.DOUBLE, torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16, torch.int64: ir.DataType.INT64, torch.int32: ir.DataType.INT32,
    torch.int16: ir.DataType.INT16, torch.int8: ir.DataType.INT8, torch.uint8: ir.DataType.UINT8,
    torch.bool: ir.DataType.BOOL,
}  # fmt: skip
_NARROW = frozenset({torch.int8, torch.int16, torch.uint8})


def onnx_type(dtype: torch.dtype, where: str) -> ir.DataType:
    """ONNX's name of a dtype; raises UnsupportedOperator for those that models are not written with."""
    if dtype not in _TYPES:
        raise UnsupportedOperator({f"dtype {str(dtype).removeprefix('torch.')}": [where]})
    return _TYPES[dtype]


def form(dtype: torch.dtype) -> torch.dtype:
    """What values of a dtype are between operators: bfloat16 is computed in float32, as our kernels do.

    Constants, inputs and outputs keep bfloat16, and a conversion to it rounds. (ONNX Runtime has no bfloat16 arithmetic
    on CPUs.)
    """
    return torch.float32 if dtype == torch.bfloat16 else dtype


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """What arithmetic on a dtype is done in: integers of 8 and 16 bits, which few runtimes add, are int32 there."""
    return torch.int32 if dtype in _NARROW else form(dtype)
