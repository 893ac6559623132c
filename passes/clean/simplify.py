"""Simplify: algebra that is exact bit for bit, for every value including infinities, NaN and -0.

`x + 0.0` stays (it turns -0 into +0) and `x · 0` stays (it may be NaN); `x + (-0.0)` goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ullage.passes.clean.canonical_arithmetic import is_number
from ullage.passes.clean.rules import Match, Rule, RulePass, RuleTable, fits, use
from ullage.passes.clean.sizes import expand_sizes
from ullage.passes.edit import Editor, args_of, is_call, is_tensor, shape_of, static_shape, target_of, value_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Simplify(RulePass):
    """Exact algebraic simplifications."""

    name: ClassVar[str] = "simplify"

    def table(self) -> RuleTable:
        """All algebra rules."""
        return _TABLE


def _neutral(what: str, is_neutral: Any) -> Rule:
    def rule(edit: Editor, node: Node) -> Match | None:
        left, right = args_of(node)[:2]
        is_plain = not node.kwargs and is_number(right) and is_tensor(left)
        if not is_plain or not is_neutral(right, value_of(left).dtype):
            return None
        return use(what, left) if fits(node, left) else None

    return rule


def _is_added_nothing(value: float, dtype: torch.dtype) -> bool:
    return value == 0 and (not dtype.is_floating_point or math.copysign(1.0, value) < 0)


def _is_one(value: float, dtype: torch.dtype) -> bool:
    return value == 1


def chosen(edit: Editor, node: Node) -> Match | None:
    """`where` with one condition everywhere, or with equal choices, is that choice, broadcast."""
    condition, first, second = args_of(node)
    if first is second:
        return _broadcast_to(edit, node, first, "take the only choice of where")
    if is_call(condition, aten.full.default):
        choice = first if args_of(condition)[1] else second
        return _broadcast_to(edit, node, choice, "take the only choice of where")
    return None


def _broadcast_to(edit: Editor, node: Node, choice: Node, what: str) -> Match | None:
    if value_of(choice).dtype != value_of(node).dtype:
        return None
    if fits(node, choice):
        return use(what, choice)
    shape = static_shape(node)
    if is_call(choice, aten.full.default) and shape is not None:
        value, dtype = args_of(choice)[1], value_of(node).dtype
        full = aten.full.default
        return Match(what, lambda: edit.call(full, list(shape), value, dtype=dtype))
    sizes = expand_sizes(edit, shape_of(choice), shape_of(node))
    if sizes is None:
        return None
    return Match(what, lambda: edit.call(aten.expand.default, choice, sizes))


def negated_condition(edit: Editor, node: Node) -> Match | None:
    """`where(not c, a, b)` is `where(c, b, a)`."""
    condition, first, second = args_of(node)
    if not is_call(condition, aten.logical_not.default, aten.bitwise_not.default):
        return None
    source = args_of(condition)[0]
    if value_of(source).dtype != torch.bool:
        return None
    return Match("swap the choices of where", lambda: edit.call(aten.where.self, source, second, first))


def involution(edit: Editor, node: Node) -> Match | None:
    """Two negations are none."""
    inner = args_of(node)[0]
    if not is_call(inner, node.target) or not fits(node, args_of(inner)[0]):
        return None
    return use("remove a double negation", args_of(inner)[0])


def idempotent(edit: Editor, node: Node) -> Match | None:
    """Doing it twice is doing it once."""
    inner = args_of(node)[0]
    return use("remove a repeated operator", inner) if is_call(inner, node.target) else None


def _with_mask(is_and: bool) -> Rule:
    """`and`/`or` of booleans with a uniform operand."""

    def rule(edit: Editor, node: Node) -> Match | None:
        left, right = args_of(node)[:2]
        return _masked(edit, node, left, right, is_and) or _masked(edit, node, right, left, is_and)

    return rule


def _masked(edit: Editor, node: Node, mask: Any, uniform: Any, is_and: bool) -> Match | None:
    value, shape = _uniform_bool(uniform), static_shape(node)
    if value is None or not is_tensor(mask) or value_of(mask).dtype != torch.bool:
        return None
    if value is is_and:
        return _broadcast_to(edit, node, mask, "remove a neutral mask")
    full, dtype = aten.full.default, torch.bool
    return Match("a mask decides", lambda: edit.call(full, list(shape), value, dtype=dtype)) if shape else None


def _uniform_bool(value: object) -> bool | None:
    if is_call(value, aten.full.default) and value_of(value).dtype == torch.bool:
        return bool(args_of(value)[1])
    return value if isinstance(value, bool) else None


def cast_chain(edit: Editor, node: Node) -> Match | None:
    """A cast after one that lost nothing is a cast from the start."""
    inner, dtype = args_of(node)[0], value_of(node).dtype
    if not is_call(inner, aten._to_copy.default):
        return None
    source = args_of(inner)[0]
    if not _is_lossless(value_of(source).dtype, value_of(inner).dtype):
        return None
    if value_of(source).dtype == dtype:
        return use("remove casts there and back", source)
    return Match("compose casts", lambda: edit.call(aten._to_copy.default, source, dtype=dtype))


_WIDER: dict[torch.dtype, frozenset[torch.dtype]] = {
    torch.bool: frozenset({torch.uint8, torch.int8, torch.int32, torch.int64, torch.float32, torch.float64}),
    torch.uint8: frozenset({torch.int16, torch.int32, torch.int64, torch.float32, torch.float64}),
    torch.int8: frozenset({torch.int16, torch.int32, torch.int64, torch.float32, torch.float64}),
    torch.int32: frozenset({torch.int64, torch.float64}),
    torch.float16: frozenset({torch.float32, torch.float64}),
    torch.bfloat16: frozenset({torch.float32, torch.float64}),
    torch.float32: frozenset({torch.float64}),
}


def _is_lossless(narrow: torch.dtype, wide: torch.dtype) -> bool:
    return wide in _WIDER.get(narrow, frozenset())


def no_padding(edit: Editor, node: Node) -> Match | None:
    """Padding by nothing."""
    x, pads = args_of(node)[:2]
    return use("remove padding by nothing", x) if all(isinstance(p, int) and p == 0 for p in pads) else None


def padding_of_convolution(edit: Editor, node: Node) -> Match | None:
    """Zeros that were added evenly before a convolution are its own padding."""
    padded, weight, bias, stride, padding, dilation, transposed, extra, groups = args_of(node)
    if transposed or not is_call(padded, aten.constant_pad_nd.default):
        return None
    x, pads, *value = args_of(padded)
    if value not in ([], [0], [0.0]) or len(pads) > 2 * len(padding) or not all(isinstance(p, int) for p in pads):
        return None
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)][::-1]
    pairs = [(0, 0)] * (len(padding) - len(pairs)) + pairs
    if any(low != high or low < 0 for low, high in pairs):
        return None
    wider = [own + low for own, (low, _) in zip(padding, pairs, strict=True)]
    args = (x, weight, bias, stride, wider, dilation, transposed, extra, groups)
    return Match("pad inside the convolution", lambda: edit.call(target_of(node), *args))


_TABLE: RuleTable = {
    aten.add.Tensor: (_neutral("remove an added nothing", _is_added_nothing),),
    aten.sub.Tensor: (_neutral("remove a subtracted nothing", lambda v, d: v == 0 and not d.is_floating_point),),
    aten.mul.Tensor: (_neutral("remove a factor of one", _is_one),),
    aten.div.Tensor: (_neutral("remove a divisor of one", _is_one),),
    aten.where.self: (chosen, negated_condition),
    aten.neg.default: (involution,),
    aten.logical_not.default: (involution,),
    aten.bitwise_not.default: (involution,),
    **{t: (idempotent,) for t in (aten.relu.default, aten.abs.default, aten.floor.default, aten.ceil.default)},
    **{t: (_with_mask(True),) for t in (aten.logical_and.default, aten.bitwise_and.Tensor)},
    **{t: (_with_mask(False),) for t in (aten.logical_or.default, aten.bitwise_or.Tensor)},
    aten._to_copy.default: (cast_chain,),
    aten.constant_pad_nd.default: (no_padding,),
    aten.convolution.default: (padding_of_convolution,),
}
