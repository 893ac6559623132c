"""Linears on the same input become one with stacked weights; each result is a slice of the last dimension.

The stacked weight is a recipe, so nothing is read. Only results that are looked at through views are merged: a result
that goes straight into arithmetic is better off with that arithmetic in the epilogue of its own linear.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar

import torch
from torch.fx import Node

from ullage.graph import recipes
from ullage.graph.captured import CapturedModel
from ullage.graph.constants import ConstantRef
from ullage.graph.elementwise import literal
from ullage.passes.clean.rules import replace_node
from ullage.passes.edit import Editor, args_of, argument, calls, is_call, shape_of, value_of
from ullage.passes.manager import Pass, RewriteLog

aten = torch.ops.aten
_FREE = (aten.slice.Tensor, aten.permute.default, aten.scaled_dot_product_attention.default)


@dataclass(frozen=True)
class MergeLinear(Pass):
    """Merge linears that share their input; `outputs` is the least number of outputs of each one."""

    name: ClassVar[str] = "merge_linear"
    outputs: int = 1

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """One sweep: merged linears share no input any more."""
        edit = Editor.of(model)
        groups: dict[Hashable, list[Node]] = {}
        for node in calls(edit.graph):
            if is_call(node, aten.linear.default) and self._is_candidate(edit, node):
                groups.setdefault((args_of(node)[0], value_of(args_of(node)[1]).dtype), []).append(node)
        for group in groups.values():
            names = ", ".join(node.name for node in group)
            if len(group) > 1 and log.allow(f"merge {names}", group[0].name):
                _merge(edit, group)
        edit.remove_dead()

    def _is_candidate(self, edit: Editor, node: Node) -> bool:
        weight, bias = argument(node, "weight"), argument(node, "bias")
        constants = edit.constant(weight) is not None and (bias is None or edit.constant(bias) is not None)
        is_private = set(weight.users) == {node} and weight_rows(weight) >= self.outputs
        return constants and is_private and all(_is_free(node, user) for user in node.users)


def weight_rows(weight: Node) -> int:
    """Outputs of a linear with this weight."""
    return int(shape_of(weight)[0])


def _is_free(linear: Node, user: Node) -> bool:
    """Whether a user of a linear can read a strided slice of a wider result at no cost."""
    return is_call(user, *_FREE) or (is_call(user, aten.reshape.default) and _splits_last(linear, user))


def _splits_last(source: Node, view: Node) -> bool:
    """Whether a reshape keeps rows apart: its last dimensions together are the last one of the source."""
    wanted, size = shape_of(source)[-1], 1
    for n in reversed(shape_of(view)):
        if not isinstance(n, int):
            return False
        size *= n
        if size == wanted:
            return True
    return False


def _merge(edit: Editor, group: list[Node]) -> None:
    at = edit.at(group[0])
    weight = _stacked(at, [ref for node in group if (ref := at.constant(args_of(node)[1])) is not None])
    merged = at.call(aten.linear.default, args_of(group[0])[0], weight, _merged_bias(at, group))
    dim = len(shape_of(merged)) - 1
    stops = list(accumulate(weight_rows(args_of(node)[1]) for node in group))
    spans = zip([0, *stops], stops, strict=False)
    slices = [at.call(aten.slice.Tensor, merged, dim, start, stop, 1) for start, stop in spans]
    for node, part in zip(group, slices, strict=True):
        replace_node(edit, node, part, "merge")


def _merged_bias(edit: Editor, group: list[Node]) -> Node | None:
    biases = [argument(node, "bias") for node in group]
    if all(bias is None for bias in biases):
        return None
    refs = [_bias_or_zeros(edit, node, bias) for node, bias in zip(group, biases, strict=True)]
    return _stacked(edit, refs)


def _stacked(edit: Editor, refs: list[ConstantRef]) -> Node:
    return edit.add_constant(replace(recipes.concatenate(refs, 0), name=f"{refs[0].name}+{len(refs) - 1}"))


def _bias_or_zeros(edit: Editor, node: Node, bias: Node | None) -> ConstantRef:
    ref = edit.constant(bias)
    if ref is not None:
        return ref
    rows = weight_rows(args_of(node)[1])
    return literal(f"{node.name}_zero_bias", torch.zeros(rows, dtype=value_of(node).dtype))
