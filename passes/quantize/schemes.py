"""The schemes of narrow arithmetic as options: which nodes each could rewrite, how they round, what they save."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from torch.fx import Node

from ullage.graph.captured import CapturedModel
from ullage.passes.edit import static_shape, value_of
from ullage.passes.manager import Pass
from ullage.passes.quantize import bfloat16, int8, narrow_attention
from ullage.passes.quantize.bfloat16 import Bfloat16
from ullage.passes.quantize.fold_scales import FoldScales
from ullage.passes.quantize.int8 import Int8, Range
from ullage.passes.quantize.measure import Rounding
from ullage.passes.quantize.names import Scheme
from ullage.passes.quantize.residuals import NarrowResiduals
from ullage.passes.quantize.weight_only import WeightOnly
from ullage.passes.quantize.widths import MULTIPLICATIONS_OF_AN_ELEMENT, is_depthwise

_PASSES: Mapping[str, type[Bfloat16] | type[Int8]] = {"bfloat16": Bfloat16, "int8": Int8}
_LOSSY = frozenset({Bfloat16.name, Int8.name, FoldScales.name, NarrowResiduals.name, WeightOnly.name})


@dataclass(frozen=True, slots=True)
class Option:
    """One node rewritten by one scheme: `text` names it (and its numbers) to the scheme's pass."""

    node: str
    scheme: str
    text: str
    rounding: Rounding
    gain: float
    """What it saves: multiplications of a product (elements that a depthwise one reads), and elements of its weight, as
    so many multiplications each."""


def options_of(scheme: str, model: CapturedModel, ranges: Mapping[str, Range]) -> list[Option]:
    """What a scheme could rewrite; `ranges` are those of the inputs of nodes that need one (`int8.needs_range`)."""
    return list(_OPTIONS[scheme](model, ranges))


def _bfloat16_options(model: CapturedModel, ranges: Mapping[str, Range]) -> Iterator[Option]:
    for node in bfloat16.candidates(model):
        rounding = narrow_attention.rounded if bfloat16.is_attention(node) else bfloat16.rounded
        yield Option(node.name, "bfloat16", node.name, rounding, gain(node))


def _int8_options(model: CapturedModel, ranges: Mapping[str, Range]) -> Iterator[Option]:
    for node in int8.candidates(model):
        known = ranges[node.name] if int8.needs_range(node) else None
        if known is not None and not known.is_finite:
            continue
        text = node.name if known is None else f"{node.name}@{known}"
        yield Option(node.name, "int8", text, partial(int8.rounded, known=known), gain(node))


_OPTIONS: Mapping[str, Callable[[CapturedModel, Mapping[str, Range]], Iterator[Option]]] = {
    "bfloat16": _bfloat16_options,
    "int8": _int8_options,
}


def passes_of(options: Iterable[Option]) -> tuple[Pass, ...]:
    """The passes that rewrite the nodes of the options, of which the last one for a node counts."""
    last = {option.node: option for option in options}
    names: dict[str, list[str]] = {}
    for option in last.values():
        names.setdefault(option.scheme, []).append(option.text)
    return tuple(_PASSES[scheme](" ".join(texts)) for scheme, texts in names.items())


def passes_of_all(scheme: Scheme, model: CapturedModel, ranges: Mapping[str, Range]) -> tuple[Pass, ...]:
    """The passes that rewrite all that a scheme can; those for weights in integers keep tables in bfloat16.

    So does int8 with attention, whose operands and weights it has no scales for.
    """
    if scheme.kind == "bfloat16":
        return (Bfloat16(),)
    in_weights = scheme.kind == "weights"
    halves = (
        node.name
        for node in bfloat16.candidates(model)
        if bfloat16.is_table(node) or (bfloat16.is_attention(node) and not in_weights)
    )
    rest = Bfloat16(" ".join(halves))
    products = (WeightOnly(scheme.bits, scheme.group),) if in_weights else passes_of(options_of("int8", model, ranges))
    return (*products, rest) if rest.only else products


def is_lossy(pass_name: str) -> bool:
    """Whether a pass is one of a scheme."""
    return pass_name in _LOSSY


def roundings(options: Sequence[Option]) -> dict[str, Rounding]:
    """How each node rounds its arguments; the last option for a node counts."""
    return {option.node: option.rounding for option in options}


def gain(node: Node) -> float:
    """What narrowing a node saves; dynamic sizes are taken at their hints."""
    if bfloat16.is_attention(node):
        q, k, v = (_hints(x) for x in node.args[:3] if isinstance(x, Node))
        return prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
    is_table = bfloat16.is_table(node)
    weight = static_shape(node.args[0 if is_table else 1])  # type: ignore[arg-type]
    assert weight is not None
    stored = MULTIPLICATIONS_OF_AN_ELEMENT * prod(weight)
    if is_table:
        return stored
    if is_depthwise(node, weight):
        return stored + MULTIPLICATIONS_OF_AN_ELEMENT * prod(_hints(node.args[0]))  # type: ignore[arg-type]
    return stored + prod(_hints(node)) * prod(weight[1:])


def _hints(node: Node) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else n.node.hint or 1 for n in value_of(node).shape)
