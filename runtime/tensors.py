"""Arrays at the border: the callers' inputs as addresses, and results as views of memory that the runtime holds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from ctypes import string_at
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ullage.errors import InputError
from ullage.plan.plan import DimensionInfo, TensorInfo
from ullage.plan.sizes import Size
from ullage.plan.tables import OUTPUT_ALIGNMENT_BYTES, output_set_bytes, output_sets, round_up, tensor_bytes
from ullage.runtime.memory import Region, present_bytes

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a tensor's dtype name; bfloat16 travels as the uint16 that holds its bits."""
    return np.dtype("uint16" if name == "bfloat16" else name)


class Inputs:
    """Matches what a caller passes against the declared inputs; raises InputError naming what was wanted and found."""

    def __init__(self, tensors: Sequence[TensorInfo], dimensions: Sequence[DimensionInfo]) -> None:
        self._tensors = tuple(tensors)
        self._dimensions = tuple(dimensions)
        self._names = tuple(t.name for t in tensors)
        self._dtypes = tuple(numpy_dtype(t.dtype) for t in tensors)
        self._fixed = tuple((i, t.fixed) for i, t in enumerate(tensors) if t.fixed is not None)

    def order(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Sequence[object]:
        """The values in input order, given by position or by name."""
        if not kwargs and len(args) == len(self._names):
            return args
        given = dict(zip(self._names, args, strict=False))
        unknown = [name for name in kwargs if name not in self._names]
        twice = [name for name in kwargs if name in given]
        missing = [name for name in self._names if name not in given and name not in kwargs]
        if len(args) > len(self._names) or unknown or twice or missing:
            raise InputError(self._mismatch(len(args), unknown, twice, missing))
        given.update(kwargs)
        return [given[name] for name in self._names]

    def bind(self, values: Sequence[object]) -> tuple[list[int], tuple[Shape, ...], list[object]]:
        """Addresses, shapes, and what must be kept alive while the addresses are used."""
        addresses: list[int] = []
        shapes: list[Shape] = []
        alive: list[object] = []
        for number, value in enumerate(values):
            address, shape, owner = self._bind_one(number, value)
            addresses.append(address)
            shapes.append(shape)
            alive.append(owner)
        for number, fixed in self._fixed:
            self._check_fixed(number, fixed, addresses[number], shapes[number])
        return addresses, tuple(shapes), alive

    def dims(self, shapes: Sequence[Shape]) -> dict[str, int]:
        """The dimensions that shapes stand for, all checked against their bounds and against every input."""
        for tensor, shape in zip(self._tensors, shapes, strict=True):
            if len(shape) != len(tensor.shape):
                raise InputError(self._wrong_shape(tensor, shape))
        dims = {d.name: self._extent(d, shapes) for d in self._dimensions}
        for tensor, shape in zip(self._tensors, shapes, strict=True):
            if tensor.shape_at(dims) != shape:
                raise InputError(self._wrong_shape(tensor, shape))
        return dims

    def _extent(self, dimension: DimensionInfo, shapes: Sequence[Shape]) -> int:
        found = shapes[dimension.input][dimension.axis]
        extent, rest = divmod(found, dimension.scale)
        if rest or not dimension.minimum <= extent <= dimension.maximum:
            scale = f" times {dimension.scale}" if dimension.scale != 1 else ""
            raise InputError(
                f"input {self._names[dimension.input]}: axis {dimension.axis} wanted within "
                f"{dimension.minimum}..{dimension.maximum}{scale}, found {found}."
            )
        return extent

    def _check_fixed(self, number: int, wanted: bytes, address: int, shape: Shape) -> None:
        """Raises InputError if an input that the plan was made for has another value."""
        dtype = self._dtypes[number]
        if prod(shape) * dtype.itemsize == len(wanted) and string_at(address, len(wanted)) == wanted:
            return
        values = np.frombuffer(wanted, dtype).tolist()
        raise InputError(
            f"input {self._names[number]}: sizes follow from its values, which are fixed at {values} in this model; "
            "compile again for others."
        )

    def _bind_one(self, number: int, value: object) -> tuple[int, Shape, object]:
        if not isinstance(value, np.ndarray):
            if hasattr(value, "data_ptr"):
                return self._bind_torch(number, value)
            value = self._converted(number, value)
        if value.dtype != self._dtypes[number] and not self._same_bits(number, value):
            raise InputError(self._wrong_dtype(number, str(value.dtype)))
        flags = value.flags
        array = value if flags.c_contiguous and flags.aligned else value.copy(order="C")
        return array.__array_interface__["data"][0], value.shape, array

    def _bind_torch(self, number: int, value: Any) -> tuple[int, Shape, object]:
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype != self._tensors[number].dtype:
            raise InputError(self._wrong_dtype(number, dtype))
        if value.device.type != "cpu" or str(value.layout) != "torch.strided":
            raise InputError(
                f"input {self._names[number]}: a dense CPU tensor wanted, found {value.layout} on {value.device}."
            )
        dense = value.detach().resolve_neg().contiguous()
        return dense.data_ptr(), tuple(dense.shape), dense

    def _converted(self, number: int, value: object) -> Array:
        try:
            return np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"input {self._names[number]}: an array wanted, found {type(value).__name__}.") from error

    def _same_bits(self, number: int, value: Array) -> bool:
        return self._tensors[number].dtype == "bfloat16" and value.dtype.name == "bfloat16"

    def _wrong_dtype(self, number: int, found: str) -> str:
        return f"input {self._names[number]}: dtype {self._tensors[number].dtype} wanted, found {found}."

    def _wrong_shape(self, tensor: TensorInfo, found: Shape) -> str:
        wanted = ", ".join(str(Size(program)) for program in tensor.shape)
        return f"input {tensor.name}: shape [{wanted}] wanted, found {list(found)}."

    def _mismatch(self, count: int, unknown: list[str], twice: list[str], missing: list[str]) -> str:
        parts = [f"inputs wanted: {', '.join(self._names) or 'none'}"]
        if count > len(self._names):
            parts.append(f"{count} positional ones found")
        parts += [f"{label}: {', '.join(names)}" for label, names in (
            ("unknown", unknown), ("given twice", twice), ("missing", missing)
        ) if names]  # fmt: skip
        return "; ".join(parts) + "."


@dataclass(frozen=True, slots=True)
class OutputSet:
    """Memory for one set of results; `memory` is the array that all views are based on."""

    memory: Array
    address: int


class Outputs:
    """Memory for results, held from the start.

    Results are views of it and never change: memory that a caller still looks into is given up to that caller, and
    fresh memory takes its place.
    """

    def __init__(self, tensors: Sequence[TensorInfo], dimensions: Sequence[DimensionInfo]) -> None:
        self._tensors = tuple(tensors)
        self._dtypes = tuple(numpy_dtype(t.dtype) for t in tensors)
        self._offsets = _offsets(self._tensors, {d.name: d.maximum for d in dimensions})
        self._set_bytes = output_set_bytes(self._tensors, tuple(dimensions))
        self._sets = [self._new_set() for _ in range(output_sets(self._set_bytes))]
        self._free_references = sys.getrefcount(self._sets[0].memory)
        self._shapes: tuple[Shape, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes held for results."""
        return self._set_bytes * len(self._sets)

    def measured_bytes(self) -> int:
        """Bytes held for results that are present in memory now."""
        return sum(present_bytes(s.address, self._set_bytes) for s in self._sets) if self._set_bytes else 0

    def resize(self, dims: dict[str, int]) -> None:
        """Use the shapes at other dimensions from now on."""
        self._shapes = tuple(t.shape_at(dims) for t in self._tensors)

    def take(self) -> OutputSet:
        """Memory that nobody looks into, last in turn to be taken again."""
        for number in range(len(self._sets)):
            if sys.getrefcount(self._sets[number].memory) <= self._free_references:
                self._sets.append(self._sets.pop(number))
                return self._sets[-1]
        self._sets.pop(0)
        self._sets.append(self._new_set())
        return self._sets[-1]

    def addresses(self, taken: OutputSet) -> list[int]:
        """Where each output goes."""
        return [taken.address + offset for offset in self._offsets]

    def views(self, taken: OutputSet) -> list[Array]:
        """The results as arrays."""
        return [
            np.ndarray(shape, dtype, taken.memory, offset)
            for shape, dtype, offset in zip(self._shapes, self._dtypes, self._offsets, strict=True)
        ]

    def _new_set(self) -> OutputSet:
        region = Region(self._set_bytes, "results")
        return OutputSet(np.frombuffer(region.map, np.uint8), region.address)


def _offsets(tensors: Sequence[TensorInfo], dims: dict[str, int]) -> tuple[int, ...]:
    offsets: list[int] = []
    position = 0
    for tensor in tensors:
        offsets.append(position)
        position = round_up(position + tensor_bytes(tensor, dims), OUTPUT_ALIGNMENT_BYTES)
    return tuple(offsets)
