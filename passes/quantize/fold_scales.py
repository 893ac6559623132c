"""Scales behind convolutions of codes folded: sums are multiplied once and added to once, codes of the result included.

sum → − offset → · scale → + bias → ReLU → · steps of the next codes becomes sum → · factor → + term → bounds, as Jacob
et al. 2018 requantize. Bounds move with what multiplies them, and one of them within another counts alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ullage.graph.captured import CapturedModel
from ullage.graph.constants import ConstantRef
from ullage.graph.operators import CONVOLUTION_INT8, DEPTHWISE_CODES
from ullage.graph.sources import InMemory
from ullage.passes.edit import Editor, argument, calls, is_call
from ullage.passes.manager import Pass, RewriteLog

aten = torch.ops.aten
_BOUNDS = {
    aten.relu.default: (), aten.clamp.default: ("min", "max"), aten.clamp_min.default: ("min",),
    aten.clamp_max.default: ("", "max"), aten.hardtanh.default: ("min_val", "max_val"),
}  # fmt: skip
_INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class _Chain:
    """min(max(sum · factor + term, low), high), which the node `end` holds and `length` operators compute."""

    end: Node
    factor: torch.Tensor
    term: torch.Tensor
    low: float = -_INFINITY
    high: float = _INFINITY
    length: int = 0

    @property
    def is_bounded(self) -> bool:
        """Whether there are bounds."""
        return self.low > -_INFINITY or self.high < _INFINITY

    @property
    def shortest(self) -> int:
        """Operators that it takes."""
        return bool((self.factor != 1).any()) + bool((self.term != 0).any()) + self.is_bounded


@dataclass(frozen=True)
class FoldScales(Pass):
    """Joins constant factors, terms and bounds behind convolutions of codes where fewer operators do."""

    name: ClassVar[str] = "fold_scales"

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """Rewrite in place."""
        edit = Editor.of(model)
        for node in calls(model.module.graph):
            if not is_call(node, CONVOLUTION_INT8, DEPTHWISE_CODES):
                continue
            chain = _chain(edit, node)
            if chain.shortest < chain.length and log.allow("fold scales behind", node.name):
                _replace(edit.at(chain.end.next), node, chain)
        edit.remove_dead()


def _chain(edit: Editor, product: Node) -> _Chain:
    one = torch.ones((), dtype=torch.float64)
    chain = _Chain(product, one, torch.zeros_like(one))
    while len(chain.end.users) == 1:
        (user,) = chain.end.users
        longer = _with(edit, chain, user)
        if longer is None:
            return chain
        chain = replace(longer, end=user, length=chain.length + 1)
    return chain


def _with(edit: Editor, chain: _Chain, user: Node) -> _Chain | None:
    """The chain and what one more operator does to it; None if that is nothing to fold."""
    if is_call(user, *_BOUNDS):
        return _bounded(chain, user)
    if not is_call(user, aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor) or user.args[0] is not chain.end:
        return None
    number = _number(edit, user.args[1])
    if number is None or user.kwargs:
        return None
    if is_call(user, aten.mul.Tensor):
        return _multiplied(chain, number)
    if chain.is_bounded:
        return None
    return replace(chain, term=chain.term + (number if is_call(user, aten.add.Tensor) else -number))


def _bounded(chain: _Chain, user: Node) -> _Chain | None:
    names = _BOUNDS[user.target]  # type: ignore[index]
    limits = [argument(user, name) if name else None for name in names] or [0.0]
    if not all(limit is None or isinstance(limit, int | float) for limit in limits):
        return None
    low = -_INFINITY if limits[0] is None else float(limits[0])
    high = _INFINITY if len(limits) < 2 or limits[1] is None else float(limits[1])
    low, high = min(max(chain.low, low), high), max(min(chain.high, high), low)
    return replace(chain, low=low, high=high)


def _multiplied(chain: _Chain, number: torch.Tensor) -> _Chain | None:
    if chain.is_bounded and (number.numel() != 1 or not float(number) > 0):
        return None
    factor = float(number) if chain.is_bounded else 1.0
    return replace(
        chain,
        factor=chain.factor * number,
        term=chain.term * number,
        low=chain.low * factor,
        high=chain.high * factor,
    )


def _number(edit: Editor, operand: Any) -> torch.Tensor | None:
    """A number or a small constant as float64, None for what is computed."""
    if isinstance(operand, int | float):
        return torch.tensor(float(operand), dtype=torch.float64)
    values = edit.small_value(operand)
    return None if values is None or values.dtype != torch.float32 else values.double()


def _replace(edit: Editor, product: Node, chain: _Chain) -> None:
    result = product
    if (chain.factor != 1).any():
        result = edit.call(aten.mul.Tensor, result, _operand(edit, f"{product.name}_factors", chain.factor))
    if (chain.term != 0).any():
        result = edit.call(aten.add.Tensor, result, _operand(edit, f"{product.name}_terms", chain.term))
    if chain.is_bounded:
        bounds = [bound if abs(bound) < _INFINITY else None for bound in (chain.low, chain.high)]
        result = edit.call(aten.clamp.default, result, *bounds)
    chain.end.replace_all_uses_with(result)


def _operand(edit: Editor, name: str, values: torch.Tensor) -> Node | float:
    if values.dim() == 0:
        return float(values)
    single = values.float().contiguous()
    return edit.add_constant(ConstantRef(name, torch.float32, tuple(single.shape), InMemory(single)))
