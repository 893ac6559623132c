"""Views moved over other operators, always downwards, so that they meet and cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from ullage.passes.clean.rules import Match, RuleTable
from ullage.passes.clean.sizes import can_reshape, expand_sizes, reshape_to
from ullage.passes.edit import (
    Editor,
    Target,
    args_of,
    is_call,
    is_elementwise,
    is_tensor,
    same_shape,
    same_size,
    shape_of,
    target_of,
    value_of,
)

aten = torch.ops.aten


DEPTH = 8
"""Elementwise operators between two views that are looked through."""


@dataclass(frozen=True, slots=True)
class _Inverse:
    """How a view at the end of a chain of elementwise operators undoes views at its beginning."""

    undone: Callable[[Node], Node | None]
    moved: Callable[[Node], Node]
    takes: Callable[[Node], bool]


def permute_cancels(edit: Editor, node: Node) -> Match | None:
    """`permute(f(permute(x), …))` where both permutes undo each other, over a chain of elementwise operators."""
    order = list(args_of(node)[1])

    def undone(operand: Node) -> Node | None:
        if not is_call(operand, aten.permute.default):
            return None
        source, inner = args_of(operand)
        return source if [inner[d] for d in order] == sorted(order) else None

    inverse = _Inverse(undone, lambda operand: _permuted(edit, operand, order), lambda operand: True)
    return _cancel(edit, node, inverse)


def permute_behind_epilogue(edit: Editor, node: Node) -> Match | None:
    """`f(permute(linear(x)), constants)` is `permute(f(linear(x), …))`: the linear's kernel can compute f."""
    shaped = _shaped_operands(node) if is_elementwise(node) and is_tensor(node) else []
    turned = [operand for operand in shaped if edit.constant(operand) is None]
    if len(turned) != 1 or not is_call(turned[0], aten.permute.default) or not same_shape(node, turned[0]):
        return None
    source, order = args_of(turned[0])
    if len(turned[0].users) > 1 or not _ends_linear(edit, source):
        return None
    back = [order.index(d) for d in range(len(order))]

    def build() -> Node:
        moved = {n: _permuted(edit, n, back) for n in shaped if n is not turned[0]}
        return edit.call(aten.permute.default, rebuilt(edit, node, {turned[0]: source, **moved}), order)

    return Match("move a permute behind what a linear's kernel computes", build)


def _ends_linear(edit: Editor, node: Node) -> bool:
    """Whether a value is a linear's, with elementwise operators on it and on constants."""
    for _ in range(DEPTH):
        if len(node.users) > 1 or is_call(node, aten.linear.default):
            return is_call(node, aten.linear.default) and len(node.users) == 1
        operands = [n for n in _shaped_operands(node) if edit.constant(n) is None] if is_elementwise(node) else []
        if len(operands) != 1:
            return False
        (node,) = operands
    return False


def _permuted(edit: Editor, operand: Node, order: list[int]) -> Node:
    """An operand that broadcasts to `len(order)` dimensions, permuted."""
    shape = shape_of(operand)
    padded = [*(1,) * (len(order) - len(shape)), *shape]
    whole = operand if len(padded) == len(shape) else edit.call(aten.reshape.default, operand, padded)
    return edit.call(aten.permute.default, whole, order)


def reshape_cancels(edit: Editor, node: Node) -> Match | None:
    """`reshape(f(reshape(x), …))` where the shape of `x` comes back, over a chain of elementwise operators."""

    def undone(operand: Node) -> Node | None:
        if not is_call(operand, aten.reshape.default):
            return None
        source: Node = args_of(operand)[0]
        return source if same_shape(source, node) else None

    inner = args_of(node)[0]
    inverse = _Inverse(
        undone, lambda operand: reshape_to(edit, operand, shape_of(node)), lambda o: same_shape(o, inner)
    )
    return _cancel(edit, node, inverse)


def _cancel(edit: Editor, node: Node, inverse: _Inverse) -> Match | None:
    inner = args_of(node)[0]
    if not is_elementwise(inner) or not _cancelled(edit, inner, inner, inverse, DEPTH):
        return None
    return Match("cancel views around elementwise operators", lambda: _redone(edit, inner, inverse))


def _cancelled(edit: Editor, node: Node, whole: Node, inverse: _Inverse, depth: int) -> int:
    """How many views disappear below a node of the chain; 0 if the chain cannot be redone without them."""
    if not is_elementwise(node) or depth == 0 or len(node.users) != 1 or not same_shape(node, whole):
        return 0
    total = 0
    for operand in _shaped_operands(node):
        if edit.constant(operand) is not None and inverse.takes(operand):
            continue
        found = 1 if inverse.undone(operand) is not None else _cancelled(edit, operand, whole, inverse, depth - 1)
        if not found:
            return 0
        total += found
    return total


def _shaped_operands(node: Node) -> list[Node]:
    return [n for n in node.all_input_nodes if is_tensor(n) and shape_of(n)]


def _redone(edit: Editor, node: Node, inverse: _Inverse) -> Node:
    source = inverse.undone(node)
    if source is not None:
        return source
    if edit.constant(node) is not None:
        return inverse.moved(node)
    return rebuilt(edit, node, {operand: _redone(edit, operand, inverse) for operand in _shaped_operands(node)})


def rebuilt(edit: Editor, node: Node, operands: dict[Node, Node]) -> Node:
    """The same call with some operands replaced."""
    args: Any = map_arg(args_of(node), lambda n: operands.get(n, n))
    kwargs: Any = map_arg(dict(node.kwargs), lambda n: operands.get(n, n))
    return edit.call(target_of(node), *args, **kwargs)


def reshape_behind_linear(edit: Editor, node: Node) -> Match | None:
    """`linear(reshape(x))` that only regroups rows is `reshape(linear(x))`."""
    rows, *weights = args_of(node)
    if not is_call(rows, aten.reshape.default):
        return None
    source = args_of(rows)[0]
    if not _keeps_last(source, rows):
        return None
    before = (*shape_of(source)[:-1], shape_of(node)[-1])
    if not can_reshape(edit, before, shape_of(node)):
        return None
    target: Target = aten.linear.default
    return Match(
        "move a reshape of rows behind linear",
        lambda: reshape_to(edit, edit.call(target, source, *weights), shape_of(node)),
    )


def reshape_behind_softmax(edit: Editor, node: Node) -> Match | None:
    """Softmax over the last dimension does not mind how rows are grouped, where a reshape follows to meet."""
    rows, dim, half = args_of(node)
    if not is_call(rows, aten.reshape.default) or dim != len(shape_of(node)) - 1:
        return None
    source = args_of(rows)[0]
    meets = any(is_call(user, aten.reshape.default) for user in node.users)
    if not (meets and _keeps_last(source, rows) and can_reshape(edit, shape_of(source), shape_of(node))):
        return None
    last = len(shape_of(source)) - 1

    def build() -> Node:
        return reshape_to(edit, edit.call(target_of(node), source, last, half), shape_of(node))

    return Match("move a reshape of rows behind softmax", build)


def _keeps_last(source: Node, reshaped: Node) -> bool:
    inner, outer = shape_of(source), shape_of(reshaped)
    return len(inner) >= 2 and len(outer) >= 2 and same_size(inner[-1], outer[-1]) and not same_size(inner[-1], 0)


def expand_behind(edit: Editor, node: Node) -> Match | None:
    """An elementwise operator on one expanded tensor (and numbers) works before the expand; a look-up likewise."""
    tensors = [n for n in node.all_input_nodes if is_tensor(n) and shape_of(n)]
    index = args_of(node)[1] if is_call(node, aten.embedding.default) else None
    wide = index if index is not None else tensors[0] if len(tensors) == 1 and is_elementwise(node) else None
    if not is_call(wide, aten.expand.default):
        return None
    source = args_of(wide)[0]
    sizes = expand_sizes(edit, shape_of(source), shape_of(wide), args_of(wide)[1])
    if sizes is None or len(shape_of(source)) == 0:
        return None
    tail = [-1] * (len(shape_of(node)) - len(shape_of(wide)))

    def build() -> Node:
        return edit.call(aten.expand.default, rebuilt(edit, node, {wide: source}), [*sizes, *tail])

    return Match("move an expand behind an operator", build)


def broadcast(edit: Editor, node: Node) -> Match | None:
    """Elementwise operators broadcast their operands themselves."""
    if not is_elementwise(node) or not is_tensor(node):
        return None
    bare = {n: args_of(n)[0] for n in node.all_input_nodes if is_call(n, aten.expand.default)}
    kept = {n: s for n, s in bare.items() if shape_of(s)}
    for swap in (kept, *({n: s} for n, s in kept.items())):
        if swap and _same_result(edit, node, swap):
            return Match("remove an expand before a broadcast", lambda swap=swap: rebuilt(edit, node, swap))  # type: ignore[misc]
    return None


def _same_result(edit: Editor, node: Node, swap: dict[Node, Node]) -> bool:
    args = map_arg(args_of(node), lambda n: swap.get(n, n))
    result = edit.infer(node.target, args, dict(node.kwargs))
    same = len(result.shape) == len(shape_of(node)) and all(map(same_size, result.shape, shape_of(node)))
    return bool(same and result.dtype == value_of(node).dtype)


MOVED: RuleTable = {
    None: (expand_behind, broadcast, permute_behind_epilogue),
    aten.permute.default: (permute_cancels,),
    aten.reshape.default: (reshape_cancels,),
    aten.linear.default: (reshape_behind_linear,),
    aten._softmax.default: (reshape_behind_softmax,),
}
