"""Nodes under construction: operators with named results, and small constants, each once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ullage.frontends.onnx.write.types import onnx_type

Value = Any
"""An `onnx_ir.Value`, which type checkers do not see."""


class NameScope:
    """Names that are given once in a model."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def new(self, wanted: str) -> str:
        """The name itself, or with the least number behind it that makes it new."""
        name, count = wanted, self._counts.get(wanted, 0)
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._counts[wanted] = count
        self._taken.add(name)
        return name


class Constants:
    """Small constants of a model by their values."""

    def __init__(self, names: NameScope) -> None:
        self._names = names
        self._known: dict[tuple[Any, ...], Value] = {}

    def of(self, array: np.ndarray) -> Value:
        """The value that holds an array (types that numpy has)."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = self._names.new("constant")
            self._known[key] = ir.Value(name=name, const_value=ir.Tensor(np.array(array, order="C"), name=name))
            self._known[key].type = ir.TensorType(self._known[key].const_value.dtype)
            self._known[key].shape = ir.Shape(array.shape)
        return self._known[key]

    @property
    def values(self) -> list[Value]:
        """All of them, in the order in which they were made."""
        return list(self._known.values())


class Block:
    """A list of nodes in the order in which they run: those of a graph, or of a body inside it."""

    def __init__(self, names: NameScope, constants: Constants) -> None:
        self.names = names
        self.constants = constants
        self.nodes: list[Value] = []

    def inner(self) -> Block:
        """An empty block for the body of a loop; it may read whatever is computed before the loop."""
        return Block(self.names, self.constants)

    def op(self, name: str, *inputs: Value | None, domain: str = "", **attributes: Any) -> Value:
        """Append an operator with one result."""
        return self.ops(name, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, name: str, *inputs: Value | None, outputs: int, domain: str = "", **attributes: Any
    ) -> tuple[Value, ...]:
        """Append an operator with several results."""
        results = [ir.Value(name=self.names.new(name.lower())) for _ in range(outputs)]
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(ir.node(name, given, kept, domain=domain, outputs=results, name=self.names.new(f"/{name}")))
        return tuple(results)

    def number(self, value: float, dtype: torch.dtype) -> Value:
        """A constant without dimensions."""
        return self.tensor(torch.tensor(value, dtype=dtype))

    def tensor(self, values: torch.Tensor) -> Value:
        """A small constant."""
        return self.constants.of(values.numpy())

    def ints(self, *values: int) -> Value:
        """A vector of int64."""
        return self.constants.of(np.array(values, dtype=np.int64))

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        """A value in another dtype."""
        return self.op("Cast", value, to=int(onnx_type(dtype, "a conversion")))
