"""Weights of linears as codes of few bits in groups; activations keep 16 bits, sums stay float32.

Activations are fixed point over the range of their row, which rounds less than float16 does but where a row's values
differ by more than a thousandfold, and is multiplied exactly. For products that wait for their weights: of few rows, or
where weights stream from disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ullage.errors import InputError
from ullage.graph.captured import CapturedModel
from ullage.graph.constants import ConstantRef
from ullage.graph.integers import grouped_weight
from ullage.graph.operators import LINEAR_CODES, PLANES_OFFSET, decoded
from ullage.graph.sources import InMemory
from ullage.passes.edit import Editor, calls, is_call
from ullage.passes.manager import Pass, RewriteLog
from ullage.passes.quantize.widths import float_weight

aten = torch.ops.aten
BITS = (8, 4, 3, 2)
GROUPS = (32, 64, 128, 256)
_TINY = 1e-30


@dataclass(frozen=True)
class WeightOnly(Pass):
    """Keeps constant float32 weights of linears as codes of `bits` with a float16 scale for each `group` values.

    `only` names the nodes to rewrite, separated by spaces; empty: all candidates.
    """

    name = "weight_only"
    bits: int = 4
    group: int = 32
    only: str = ""

    def __post_init__(self) -> None:
        if self.bits not in BITS or self.group not in GROUPS:
            raise InputError(f"weights are kept in {BITS} bits by {GROUPS}, not in {self.bits} by {self.group}.")

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """Rewrite the chosen nodes in place."""
        chosen = frozenset(self.only.split())
        edit = Editor.of(model)
        for node in list(candidates(model, self.group)):
            if (chosen and node.name not in chosen) or not log.allow(f"keep weights in {self.bits} bits", node.name):
                continue
            _rewrite(edit.at(node), node, self.bits, self.group)
        edit.remove_dead()


def candidates(model: CapturedModel, group: int) -> Iterator[Node]:
    """float32 linears with constant weights whose rows are whole groups."""
    edit = Editor.of(model)
    for node in calls(model.module.graph):
        if is_call(node, aten.linear.default) and _suits(edit, node, group):
            yield node


def _suits(edit: Editor, node: Node, group: int) -> bool:
    ref = float_weight(edit, node)
    return ref is not None and ref.shape[1] % group == 0


def _rewrite(edit: Editor, node: Node, bits: int, group: int) -> None:
    x, weight, bias = node.args if len(node.args) > 2 else (*node.args, None)
    ref = edit.constant(weight)
    assert ref is not None
    codes, scales = (edit.add_constant(part) for part in grouped_weight(ref, bits, group))
    planes, steps = _in_planes(edit, x)
    result = edit.call(aten.mul.Tensor, edit.call(LINEAR_CODES, planes, codes, scales, bits), steps)
    if bias is not None:
        result = edit.call(aten.add.Tensor, result, bias)
    node.replace_all_uses_with(result)


def _in_planes(edit: Editor, x: object) -> tuple[Node, Node]:
    """Rows of x as 16-bit fixed point over ± their largest magnitude: bytes [..., 2 k], and what a step is [..., 1]."""
    most = edit.call(aten.amax.default, edit.call(aten.abs.default, x), [-1], True)
    steps = edit.call(aten.mul.Tensor, edit.call(aten.clamp_min.default, most, _TINY), 1 / (PLANES_OFFSET - 1))
    fixed = edit.call(aten.round.default, edit.call(aten.mul.Tensor, x, edit.call(aten.reciprocal.default, steps)))
    shifted = edit.call(aten.add.Tensor, fixed, float(PLANES_OFFSET))
    high = edit.call(aten.floor.default, edit.call(aten.mul.Tensor, shifted, 1 / 256))
    low = edit.call(aten.sub.Tensor, shifted, edit.call(aten.mul.Tensor, high, 256.0))
    planes = [edit.call(aten._to_copy.default, plane, dtype=torch.uint8) for plane in (high, low)]
    return edit.call(aten.cat.default, planes, -1), steps


def rounded(args: tuple[Any, ...], bits: int, group: int) -> tuple[Any, ...]:
    """Arguments of a linear with the weight that its codes stand for (what activations lose is far less)."""
    x, weight, *rest = args
    held = ConstantRef("weight", weight.dtype, tuple(weight.shape), InMemory(weight))
    codes, scales = (part.read() for part in grouped_weight(held, bits, group))
    return (x, decoded(codes, scales, bits), *rest)
