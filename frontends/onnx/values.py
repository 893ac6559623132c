"""Values while an ONNX graph is walked: tensors that are traced, and arrays that are known before anything runs.

Sizes are numbers, not tensors: `Shape` gives a known array (of symbolic integers where a dimension is dynamic), and
what models compute from it (Gather, Concat, Mul …) stays one, so that `Reshape` or `Slice` find plain integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from ullage.errors import CaptureError
from ullage.frontends.onnx.narrow import Narrow

KNOWN_ELEMENTS = 1 << 12
"""Most elements of an initializer whose values are looked at while the graph is walked."""
_NUMPY = {
    torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64,
    torch.int32: np.int32, torch.int16: np.int16, torch.int8: np.int8, torch.uint8: np.uint8, torch.bool: np.bool_,
    torch.uint16: np.uint16, torch.uint32: np.uint32, torch.uint64: np.uint64, torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}  # fmt: skip
TORCH = {np.dtype(kind): dtype for dtype, kind in _NUMPY.items()}


class NotAhead(Exception):
    """Values that the model computes, not the walk: they are too many, or symbolic."""


def within_limit(shape: Sequence[Any]) -> None:
    """Raise NotAhead if an array of this shape is not to be computed while the graph is walked."""
    if prod(shape) > KNOWN_ELEMENTS:
        raise NotAhead


@dataclass(frozen=True, eq=False)
class Known:
    """Values known while the graph is walked: a numpy array, of Python objects where some are symbolic integers."""

    array: np.ndarray
    dtype: torch.dtype
    tensor: torch.Tensor | None = None
    """The tensor that holds them, if there is one already."""

    @property
    def symbolic(self) -> bool:
        """Whether there are symbolic integers among the values."""
        return self.array.dtype == object and any(isinstance(x, torch.SymInt) for x in self.array.flat)

    def numbers(self) -> list[Any]:
        """All values in row-major order, as Python numbers or symbolic integers."""
        return [x if isinstance(x, torch.SymInt) else _plain(x) for x in self.array.flat]

    def as_tensor(self) -> torch.Tensor:
        """The values as a tensor of their dtype."""
        if self.tensor is not None:
            return self.tensor
        if not self.symbolic:
            return tensor_of(self.array, self.dtype)
        flat = [torch.scalar_tensor(x, dtype=self.dtype) for x in self.numbers()]
        return torch.stack(flat).reshape(self.array.shape) if flat else torch.empty(self.array.shape, dtype=self.dtype)


Value = torch.Tensor | Known | Narrow
"""What an edge of the graph carries (sequences are lists of such values)."""


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def known(values: Any, dtype: torch.dtype) -> Known:
    """Values of any form as a known array: numbers, nested sequences, or numpy arrays."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return Known(values.astype(_NUMPY.get(dtype, values.dtype), copy=False), dtype)
    array = np.empty(np.shape(values), dtype=object)
    if isinstance(values, np.ndarray):
        array[...] = values
    elif array.shape:
        array[...] = np.array(values, dtype=object).reshape(array.shape)
    else:
        array[()] = values
    if any(isinstance(x, torch.SymInt | torch.SymBool | torch.SymFloat) for x in array.flat):
        return Known(array, dtype)
    return Known(array.astype(_NUMPY[dtype]), dtype)


def sizes(values: Sequence[Any]) -> Known:
    """A shape as a known array of int64."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return known(array, torch.int64)


def tensor_of(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """A torch tensor with the values of a numpy array; raises CaptureError for dtypes that torch does not have."""
    if array.dtype == object:
        array = array.astype(_NUMPY[dtype])
    if array.dtype in TORCH:
        return torch.from_numpy(np.array(array, order="C", copy=True)).to(dtype)
    if dtype == torch.bfloat16:
        bits = np.ascontiguousarray(array).view(np.int16).reshape(array.shape)
        return torch.from_numpy(bits.copy()).view(torch.bfloat16)
    raise CaptureError(f"arrays of {array.dtype} have no form in torch.")
