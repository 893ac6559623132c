"""The scores behind a softmax: which product, what factor, which masks, in whatever order they were written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.canonical_arithmetic import is_number
from ullage.passes.edit import Editor, args_of, is_call, is_tensor, same_size, shape_of, value_of

aten = torch.ops.aten
Size = int | torch.SymInt
PRODUCTS = (aten.matmul.default, aten.bmm.default, aten.mm.default)
_VERY_NEGATIVE = -1e4


@dataclass(frozen=True, slots=True)
class Refused:
    """No attention, and the reason in words."""

    reason: str


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask on scores with dimensions `batch` before the matrix.

    It is added, times `factor`; or it puts `fill` where it is false (where it is true if it is inverted).
    """

    node: Node
    batch: tuple[Size, ...]
    factor: float
    fill: float | None = None
    is_inverted: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """`scale · query @ keyᵀ` with masks in the order in which they apply; `transposed` is `keyᵀ` as it was found."""

    query: Node
    transposed: Node
    scale: float
    masks: tuple[Mask, ...]
    batch: tuple[Size, ...]


def find_scores(edit: Editor, softmax: Node) -> Scores | Refused:
    """Walk from a softmax over the last dimension up to the product that makes its scores."""
    x, dim, _ = args_of(softmax)
    if dim != len(shape_of(softmax)) - 1 or len(shape_of(softmax)) < 2:
        return Refused("the softmax is not over the last of at least two dimensions")
    return _walk(edit, x, 1.0, ())


def keeps_matrix(inner: Node, outer: Node) -> bool:
    """Whether a reshape leaves the last two dimensions as they are."""
    a, b = shape_of(inner), shape_of(outer)
    return len(a) >= 2 and len(b) >= 2 and all(map(same_size, a[-2:], b[-2:]))


def _walk(edit: Editor, x: Any, factor: float, masks: tuple[Mask, ...]) -> Scores | Refused:
    if is_call(x, *PRODUCTS) and len(x.users) == 1:
        return _at_product(edit, x, factor, masks)
    if not is_tensor(x) or x.op != "call_function":
        return Refused("the scores are no product")
    if len(x.users) != 1:
        return Refused(f"{x.name} is used elsewhere, too")
    args = args_of(x)
    if is_call(x, aten._to_copy.default) or (is_call(x, aten.reshape.default) and keeps_matrix(args[0], x)):
        return _walk(edit, args[0], factor, masks)
    number = factor_of(x)
    if number is not None:
        return _walk(edit, args[0], factor * number, masks)
    if is_call(x, aten.add.Tensor) and args[1] == 0:
        return _walk(edit, args[0], factor, masks)
    if is_call(x, aten.add.Tensor):
        return _first(edit, x, factor, masks, [(args[i], Mask(args[1 - i], shape_of(x)[:-2], factor)) for i in (0, 1)])
    if is_call(x, aten.where.self):
        return _behind_where(edit, x, factor, masks)
    return Refused(f"{x.target} stands between the product and the softmax")


def factor_of(node: Node) -> float | None:
    """The number that a node multiplies its first operand by."""
    if not is_call(node, aten.mul.Tensor, aten.div.Tensor) or node.kwargs or not is_number(args_of(node)[1]):
        return None
    number = float(args_of(node)[1])
    if not math.isfinite(number) or number == 0:
        return None
    return number if is_call(node, aten.mul.Tensor) else 1.0 / number


def _behind_where(edit: Editor, x: Node, factor: float, masks: tuple[Mask, ...]) -> Scores | Refused:
    condition, first, second = args_of(x)
    is_inverted = uniform_number(first) is not None
    kept, fill = (second, first) if is_inverted else (first, second)
    value = uniform_number(fill)
    if value is None or value > _VERY_NEGATIVE:
        return Refused("a where in the scores does not fill with a very negative number")
    return _first(
        edit, x, factor, masks, ((kept, Mask(condition, shape_of(x)[:-2], 1.0, value * factor, is_inverted)),)
    )


def uniform_number(node: object) -> float | None:
    """The number that a node holds everywhere."""
    if not is_call(node, aten.full.default) or isinstance(args_of(node)[1], Node):
        return None
    return float(args_of(node)[1])


def _first(
    edit: Editor, x: Node, factor: float, masks: tuple[Mask, ...], choices: Sequence[tuple[Any, Mask]]
) -> Scores | Refused:
    """The first choice of (scores, mask on them) that leads to a product."""
    result: Scores | Refused = Refused("the scores are no product")
    for scores, mask in choices:
        if not is_tensor(scores) or len(shape_of(scores)) != len(shape_of(x)) or not is_tensor(mask.node):
            continue
        result = _walk(edit, scores, factor, (mask, *masks))
        if isinstance(result, Scores):
            return result
    return result


def _at_product(edit: Editor, product: Node, factor: float, masks: tuple[Mask, ...]) -> Scores | Refused:
    query, transposed = args_of(product)[:2]
    if len(shape_of(query)) < 2 or len(shape_of(transposed)) < 2:
        return Refused("an operand of the scores is a vector")
    if not value_of(product).dtype.is_floating_point:
        return Refused("the scores are integers")
    return Scores(query, transposed, factor, masks, shape_of(product)[:-2])


def without_factor(edit: Editor, node: Node) -> tuple[Node, float]:
    """An operand without the number that it was multiplied by on its way here, seen through views; and that number."""
    number = factor_of(node)
    if number is not None and value_of(node).dtype == value_of(args_of(node)[0]).dtype:
        source, more = without_factor(edit, args_of(node)[0])
        return source, more * number
    if is_call(node, aten.reshape.default, aten.permute.default) and len(node.users) == 1:
        source, number = without_factor(edit, args_of(node)[0])
        return (edit.call(node.target, source, *args_of(node)[1:]), number) if number != 1.0 else (node, 1.0)
    return node, 1.0


def peeled(edit: Editor, scores: Scores) -> Scores:
    """The scores with factors of query and key moved into the scale."""
    query, first = without_factor(edit, scores.query)
    transposed, second = without_factor(edit, scores.transposed)
    return replace(scores, query=query, transposed=transposed, scale=scores.scale * first * second)
