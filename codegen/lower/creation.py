"""Lowerings of operators that make tensors from numbers."""

from __future__ import annotations

from torch.fx import Node

from ullage.codegen.loops.ir import Const, Expr
from ullage.codegen.lower.builder import Builder
from ullage.codegen.lower.formulas import (
    op,
)
from ullage.codegen.lower.shapes import Index, shape_of
from ullage.codegen.lower.table import (
    TABLE,
    aten,
    fake,
    operand,
    result_dtype,
    scalar,
)
from ullage.codegen.lower.values import Lazy, cast, compute_dtype


@TABLE.register(
    "pointwise", aten.full, aten.full_like, aten.zeros, aten.zeros_like, aten.ones, aten.ones_like, aten.scalar_tensor,
    aten.new_zeros, aten.new_ones, aten.new_full, aten.fill,
)  # fmt: skip
def _full(builder: Builder, node: Node) -> Lazy:
    dtype = result_dtype(node)
    name = str(node.target)
    if "full" in name or "fill" in name:
        value = operand(builder, node.args[1])
    elif "scalar_tensor" in name:
        value = operand(builder, node.args[0])
    else:
        value = operand(builder, 1 if "ones" in name else 0)
    return Lazy(shape_of(fake(node)), dtype, lambda _i: cast(value.at(()), compute_dtype(dtype)))


@TABLE.register("pointwise", aten.arange)
def _arange(builder: Builder, node: Node) -> Lazy:
    dtype = result_dtype(node)
    compute = compute_dtype(dtype)
    numbers = [scalar(a) for a in node.args]
    start = numbers[0] if len(numbers) > 1 else Const(0)
    step = numbers[2] if len(numbers) > 2 else Const(1)
    assert start is not None and step is not None

    def at(index: Index) -> Expr:
        if dtype == "int64" and start.dtype == "int64":
            return builder.math.add(start, builder.math.mul(index[0], step))
        return op("add", cast(start, compute), op("mul", cast(index[0], compute), cast(step, compute)))

    return Lazy(shape_of(fake(node)), dtype, at)
