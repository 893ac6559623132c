"""Sizes that depend on inputs: expressions over symbols as ONNX nodes, each computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import sympy
import torch

from ullage.errors import UnsupportedOperator
from ullage.frontends.onnx.write.block import Block, Value
from ullage.graph.captured import CapturedModel, DimBounds, TensorSpec

_QUOTIENTS = ("FloorDiv", "CleanDiv", "IntTrueDiv")


class Sizes:
    """Sizes as vectors of one int64, read off the inputs' shapes."""

    def __init__(self, block: Block, model: CapturedModel, inputs: Mapping[str, Value]) -> None:
        self._block = block
        self._known: dict[Any, Value] = {}
        self._places = {
            str(size.node.expr): (inputs[spec.name], axis)
            for spec in reversed(model.inputs)
            for axis, size in enumerate(spec.shape)
            if isinstance(size, torch.SymInt)
        }
        self._names = symbol_names(model.inputs, model.dims)
        self._solved = _solved(model)

    def vector(self, *sizes: Any) -> Value:
        """A vector of int64 of sizes: a constant where all are known."""
        if all(isinstance(size, int) for size in sizes):
            return self._block.ints(*sizes)
        parts = [self._one(size) for size in sizes]
        return parts[0] if len(parts) == 1 else self._block.op("Concat", *parts, axis=0)

    def scalar(self, size: Any) -> Value:
        """A size without dimensions."""
        if isinstance(size, int):
            return self._block.number(size, torch.int64)
        return self._block.op("Squeeze", self._one(size), self._block.ints(0))

    def text(self, size: Any) -> int | str:
        """A size as a shape shows it: a number, or an expression of named dimensions."""
        if isinstance(size, int):
            return size
        expression = size.node.expr
        named = {s: sympy.Symbol(self._names.get(str(s), str(s)), integer=True) for s in expression.free_symbols}
        return str(expression.xreplace(named))

    def _one(self, size: Any) -> Value:
        return self._block.ints(size) if isinstance(size, int) else self._of(size.node.expr)

    def _of(self, expression: Any) -> Value:
        if expression.is_Integer:
            return self._block.ints(int(expression))
        if expression not in self._known:
            self._known[expression] = self._computed(expression)
        return self._known[expression]

    def _computed(self, expression: Any) -> Value:
        op, name = self._block.op, type(expression).__name__
        if str(expression) in self._places:
            source, axis = self._places[str(expression)]
            return op("Shape", source, start=axis, end=axis + 1)
        if expression.is_Symbol and expression in self._solved:
            whole, factor, term = self._solved[expression]
            return op("Div", op("Sub", self._of(whole), self._block.ints(term)), self._block.ints(factor))
        if expression.is_Pow and expression.exp.is_Integer and expression.exp > 0:
            return reduce(lambda a, b: op("Mul", a, b), [self._of(expression.base)] * int(expression.exp))
        if name == "CeilDiv":
            dividend, divisor = expression.args
            return op("Div", self._of(dividend + divisor - 1), self._of(divisor))
        known = {"Add": "Add", "Mul": "Mul", "Max": "Max", "Min": "Min", "Mod": "Mod", "PythonMod": "Mod"}
        known |= {quotient: "Div" for quotient in _QUOTIENTS}
        if name not in known or not expression.args:
            raise UnsupportedOperator({f"size expression {expression}": ["dynamic shapes"]})
        parts = [self._of(part) for part in expression.args]
        return reduce(lambda a, b: op(known[name], a, b), parts)


def _solved(model: CapturedModel) -> dict[Any, tuple[Any, int, int]]:
    """Symbols by sizes of inputs that are `factor` times them and a `term`: (size, factor, term)."""
    found: dict[Any, tuple[Any, int, int]] = {}
    sizes = [size.node.expr for spec in model.inputs for size in spec.shape if isinstance(size, torch.SymInt)]
    for size in sizes:
        for symbol in size.free_symbols if len(size.free_symbols) == 1 else ():
            factor, term = size.coeff(symbol), size.subs(symbol, 0)
            if factor.is_Integer and term.is_Integer and size == factor * symbol + term:
                found.setdefault(symbol, (size, int(factor), int(term)))
    return found


def symbol_names(inputs: Sequence[TensorSpec], dims: Sequence[DimBounds]) -> dict[str, str]:
    """A name for each symbol: the one that it was declared with, else the first input and axis of its size."""
    found: dict[str, str] = {}
    declared = {dim.symbol: dim.name for dim in dims if dim.name}
    for spec in inputs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                symbol = str(size.node.expr)
                found.setdefault(symbol, declared.get(symbol, f"{spec.name}_{axis}"))
    return {dim.symbol: dim.name or dim.symbol for dim in dims} | found
