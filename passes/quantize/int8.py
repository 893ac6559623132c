"""Products in int8: a quarter of the bytes of float32 weights, and sums of products that are exact.

Weights are int8 with a scale for each output. Activations are uint8: each row of a linear over its own range, found at
run time, inputs of convolutions over a range that was measured on samples. Scales, biases and all else are float32, and
so are weights of depthwise convolutions: these have few products for each value, and wait for memory to deliver them.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018;
ranges of rows at run time: Yao et al., "ZeroQuant", 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import torch
from torch.fx import Node

from ullage.errors import InputError
from ullage.graph.captured import CapturedModel
from ullage.graph.constants import ConstantRef
from ullage.graph.integers import INT8_LEVELS, IntegerWeight, integer_weight
from ullage.graph.operators import CONVOLUTION_INT8, DEPTHWISE_CODES, LINEAR_INT8
from ullage.graph.sources import InMemory
from ullage.passes.edit import Editor, argument, calls, is_call, value_of
from ullage.passes.manager import Pass, RewriteLog
from ullage.passes.quantize.bfloat16 import as_offsets, behind_views
from ullage.passes.quantize.widths import (
    filled,
    filled_input,
    filled_weight,
    fills,
    float_weight,
    is_depthwise,
    waits_for_values,
)

aten = torch.ops.aten
_LINEAR, _CONVOLUTION = aten.linear.default, aten.convolution.default
_LEVELS = 255
"""The largest uint8."""
_WORD = 4
_MOST_SUMMED = 1 << 16
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Range:
    """Values from `low` (at most 0) to `high` (at least 0) on the 256 values of a uint8."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        """What one step stands for."""
        return max(self.high - self.low, _TINY) / _LEVELS

    @property
    def zero(self) -> int:
        """The uint8 that stands for 0, which is exact."""
        return min(_LEVELS, max(0, round(-self.low / self.scale)))

    @property
    def is_finite(self) -> bool:
        """Whether both ends are numbers, which they are not once there was an infinity or NaN."""
        return isfinite(self.low) and isfinite(self.high)

    def with_values(self, low: float, high: float) -> Range:
        """The range that holds values from `low` to `high`, too; NaN stays."""
        return Range(low if low != low else min(self.low, low), high if high != high else max(self.high, high))

    def __str__(self) -> str:
        """`low:high`, digits enough to give the same numbers again."""
        return f"{self.low!r}:{self.high!r}"

    @staticmethod
    def parse(text: str) -> Range:
        """What `str` gave; raises InputError for anything else."""
        low, colon, high = text.partition(":")
        try:
            found = Range(float(low), float(high))
        except ValueError as error:
            raise InputError(f"a range is low:high, found {text!r}.") from error
        if not colon or not found.is_finite or not found.low <= 0 <= found.high:
            raise InputError(f"a range holds 0, found {text!r}.")
        return found


@dataclass(frozen=True)
class Int8(Pass):
    """Multiplies in int8 where `only` says: names of linears, and of convolutions with the range of their input.

    `only` is `name` or `name@low:high`, separated by spaces.
    """

    name = "int8"
    only: str = ""

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """Rewrite the chosen nodes in place."""
        parts = (text.partition("@") for text in self.only.split())
        chosen = {name: Range.parse(rest) if at else None for name, at, rest in parts}
        edit = Editor.of(model)
        for node in list(candidates(model)):
            if node.name in chosen and log.allow("multiply in int8", node.name):
                _rewrite(edit.at(node), node, chosen[node.name])
        edit.remove_dead()


def needs_range(node: Node) -> bool:
    """Whether a candidate's activations are quantized with a range that is known beforehand."""
    return is_call(node, _CONVOLUTION)


def candidates(model: CapturedModel) -> Iterator[Node]:
    """float32 linears and convolutions with constant weights, not transposed: depthwise, or sums of fours of values."""
    edit = Editor.of(model)
    for node in calls(model.module.graph):
        if is_call(node, _LINEAR, _CONVOLUTION) and _suits(edit, node):
            yield node


def _suits(edit: Editor, node: Node) -> bool:
    ref = float_weight(edit, node)
    if ref is None or (is_call(node, _CONVOLUTION) and argument(node, "transposed")):
        return False
    if is_depthwise(node, ref.shape):
        return waits_for_values(node, ref.shape)
    summed = filled(ref.shape[1], _WORD) * prod(ref.shape[2:])
    return fills(node, ref.shape[1], _WORD) and summed <= _MOST_SUMMED


def _rewrite(edit: Editor, node: Node, known: Range | None) -> None:
    x, weight, bias = node.args[:3] if len(node.args) > 2 else (*node.args, None)
    ref = edit.constant(weight)
    assert ref is not None and isinstance(x, Node)
    if known is None and needs_range(node):
        raise InputError(f"{node.name} needs the range of its input: {node.name}@low:high.")
    if known is not None and is_depthwise(node, ref.shape):
        result = _depthwise(edit, node, x, known)
    else:
        result = _summed(edit, node, x, ref, known)
    if bias is not None:
        result = edit.call(aten.add.Tensor, result, as_offsets(edit, node, bias))
    node.replace_all_uses_with(result)


def _depthwise(edit: Editor, node: Node, x: Node, known: Range) -> Node:
    """Each channel's codes convolved with its float32 weights."""
    codes = _in_range(edit, x, known)
    product = edit.call(DEPTHWISE_CODES, codes, node.args[1], None, *node.args[3:9], known.zero)
    return edit.call(aten.mul.Tensor, product, known.scale)


def _summed(edit: Editor, node: Node, x: Node, ref: ConstantRef, known: Range | None) -> Node:
    """Sums of products of codes."""
    whole = integer_weight(ref)
    codes = edit.add_constant(filled_weight(whole.codes, _WORD))
    rows = _in_rows(edit, x) if known is None else _Rows(_in_range(edit, x, known), known.scale, known.zero)
    inputs = filled_input(edit, rows.codes, node, ref.shape[1], _WORD)
    product = _product(edit, node, inputs, codes, rows.zero)
    return _unscaled(edit, node, product, rows, whole, ref.name)


def _unscaled(edit: Editor, node: Node, product: Node, rows: _Rows, whole: IntegerWeight, name: str) -> Node:
    """What sums of products of codes stand for: (sum − zero · Σ weights) · scale of the row · scale of the output."""
    extra = (1,) * (0 if is_call(node, _LINEAR) else value_of(node).dim() - 2)

    def constant(role: str, values: torch.Tensor) -> Node:
        shaped = values.reshape(-1, *extra).contiguous()
        return edit.add_constant(ConstantRef(f"{name}_{role}", torch.float32, tuple(shaped.shape), InMemory(shaped)))

    if isinstance(rows.zero, int):
        assert not isinstance(rows.scales, Node)
        above = product
        if rows.zero:
            above = edit.call(aten.sub.Tensor, product, constant("offsets", whole.sums * rows.zero))
        return edit.call(aten.mul.Tensor, above, constant("scales", whole.scales * rows.scales))
    zeros = edit.call(aten.mul.Tensor, constant("sums", whole.sums), rows.zero)
    scaled = edit.call(aten.mul.Tensor, edit.call(aten.sub.Tensor, product, zeros), rows.scales)
    return edit.call(aten.mul.Tensor, scaled, constant("scales", whole.scales))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Activations as uint8, what their steps stand for, and which code stands for 0: numbers, or nodes [..., 1]."""

    codes: Node
    scales: float | Node
    zero: int | Node


def _in_rows(edit: Editor, x: Node) -> _Rows:
    """Each row over its own range, with 0 in it."""
    low = edit.call(aten.clamp_max.default, edit.call(aten.amin.default, x, [-1], True), 0.0)
    high = edit.call(aten.clamp_min.default, edit.call(aten.amax.default, x, [-1], True), _TINY)
    scales = edit.call(aten.mul.Tensor, edit.call(aten.sub.Tensor, high, low), 1 / _LEVELS)
    steps = edit.call(aten.reciprocal.default, scales)
    zero = edit.call(aten.round.default, edit.call(aten.mul.Tensor, edit.call(aten.neg.default, low), steps))
    shifted = edit.call(aten.add.Tensor, edit.call(aten.mul.Tensor, x, steps), zero)
    return _Rows(_as_codes(edit, edit.call(aten.clamp_max.default, shifted, float(_LEVELS))), scales, zero)


def _in_range(edit: Editor, x: Node, known: Range) -> Node:
    """Values beyond the range become its ends; rounded before the views between `x` and what computes it."""

    def quantized(source: Node) -> Node:
        steps = edit.call(aten.mul.Tensor, source, 1 / known.scale)
        if known.zero:
            steps = edit.call(aten.add.Tensor, steps, float(known.zero))
        return _as_codes(edit, edit.call(aten.clamp.default, steps, 0.0, float(_LEVELS)))

    return behind_views(edit, x, quantized, zero=known.zero)


def _as_codes(edit: Editor, steps: Node) -> Node:
    """Numbers from 0 to 255 as the nearest uint8: rounded last, which takes one instruction with the conversion."""
    return edit.call(aten._to_copy.default, edit.call(aten.round.default, steps), dtype=torch.uint8)


def _product(edit: Editor, node: Node, x: Node, codes: Node, zero: int | Node) -> Node:
    if is_call(node, _LINEAR):
        return edit.call(LINEAR_INT8, x, codes)
    assert isinstance(zero, int)
    return edit.call(CONVOLUTION_INT8, x, codes, None, *node.args[3:9], zero)


def rounded(args: tuple[Any, ...], known: Range | None) -> tuple[Any, ...]:
    """Arguments of a product with activations and weights as what their codes stand for: what the rewrite computes."""
    x, weight, *rest = args
    if known is not None and args[8] > 1 and weight.shape[1] == 1:
        return (_rounded_in(x, known), weight, *rest)
    most = weight.reshape(weight.shape[0], -1).abs().amax(1).clamp_min(_TINY) / INT8_LEVELS
    scales = most.reshape(-1, *[1] * (weight.dim() - 1))
    return (_rounded_rows(x) if known is None else _rounded_in(x, known), (weight / scales).round() * scales, *rest)


def _rounded_rows(x: torch.Tensor) -> torch.Tensor:
    low, high = x.amin(-1, True).clamp_max(0.0), x.amax(-1, True).clamp_min(_TINY)
    scales = (high - low) * (1 / _LEVELS)
    zero = (-low / scales).round()
    return ((x / scales + zero).clamp_max(_LEVELS).round() - zero) * scales


def _rounded_in(x: torch.Tensor, known: Range) -> torch.Tensor:
    steps = (x * (1 / known.scale) + known.zero).clamp(0.0, float(_LEVELS)).round()
    return (steps - known.zero) * known.scale
