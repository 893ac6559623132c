"""Existing attention calls: explicit scale, shared heads without copies, and masks that need no memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ullage.passes.clean.fold_constants import bytes_of, evaluate, is_pure
from ullage.passes.clean.index_facts import Comparison, IndexFacts
from ullage.passes.clean.rules import Match, RuleTable
from ullage.passes.clean.sizes import reshape_to
from ullage.passes.edit import Editor, args_of, argument, is_call, is_one, same_size, shape_of, value_of
from ullage.passes.fuse.attention_scores import uniform_number

aten = torch.ops.aten
WORK_BYTES = 64 * 1024 * 1024
"""A mask that depends on constants alone is computed to look at it if no step of that is larger than this."""
_EXCLUDES = -1e30


def _parts(node: Node) -> tuple[list[Any], dict[str, Any]]:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    options: dict[str, Any] = {"scale": argument(node, "scale")}
    if argument(node, "enable_gqa", False):
        options["enable_gqa"] = True
    return [argument(node, name) for name in names], options


def _call(edit: Editor, parts: list[Any], options: dict[str, Any]) -> Node:
    return edit.call(aten.scaled_dot_product_attention.default, *parts, **options)


def spelled(edit: Editor, node: Node) -> Match | None:
    """Six positional arguments, and the scale as a number."""
    parts, options = _parts(node)
    head_dim = shape_of(parts[0])[-1]
    if options["scale"] is None and isinstance(head_dim, int):
        options["scale"] = 1.0 / math.sqrt(head_dim)
    if list(args_of(node)) == parts and dict(node.kwargs) == options:
        return None
    return Match("spell the arguments of attention", lambda: _call(edit, parts, options))


def four_dimensions(edit: Editor, node: Node) -> Match | None:
    """Attention without heads gets a single one."""
    parts, options = _parts(node)
    mask = parts[3]
    if len(shape_of(node)) != 3 or (mask is not None and len(shape_of(mask)) > 3):
        return None

    def with_head(tensor: Node) -> Node:
        shape = shape_of(tensor)
        return reshape_to(edit, tensor, (shape[0], 1, *shape[1:]) if len(shape) == 3 else shape)

    def build() -> Node:
        four = [tensor if tensor is None else with_head(tensor) for tensor in parts[:4]]
        return reshape_to(edit, _call(edit, [*four, *parts[4:]], options), shape_of(node))

    return Match("give attention a head dimension", build)


def shared_heads(edit: Editor, node: Node) -> Match | None:
    """Key and value heads that were repeated for groups of queries are read as they are."""
    parts, options = _parts(node)
    key, value = (_unrepeated(tensor) for tensor in parts[1:3])
    if "enable_gqa" in options or key is None or value is None or not same_size(shape_of(key)[1], shape_of(value)[1]):
        return None
    options["enable_gqa"] = True
    return Match("share key and value heads", lambda: _call(edit, [parts[0], key, value, *parts[3:]], options))


def _unrepeated(tensor: Node) -> Node | None:
    """`x` of `reshape(expand(reshape(x)))` that repeats each head, next to each other."""
    if not is_call(tensor, aten.reshape.default) or not is_call(args_of(tensor)[0], aten.expand.default):
        return None
    wide: Node = args_of(tensor)[0]
    narrow: Node = args_of(wide)[0]
    source = args_of(narrow)[0] if is_call(narrow, aten.reshape.default) else None
    if source is None or len(shape_of(wide)) != 5 or len(shape_of(narrow)) != 5 or len(shape_of(source)) != 4:
        return None
    batch, heads, one, rows, columns = shape_of(narrow)
    is_inserted = is_one(one) and all(map(same_size, shape_of(source), (batch, heads, rows, columns)))
    kept = all(map(same_size, _without_third(shape_of(wide)), (batch, heads, rows, columns)))
    merged = (batch, heads * shape_of(wide)[2], rows, columns)
    return source if is_inserted and kept and all(map(same_size, shape_of(tensor), merged)) else None


def _without_third(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*shape[:2], *shape[3:])


def plain_mask(edit: Editor, node: Node) -> Match | None:
    """A mask that excludes nothing goes; one that excludes exactly the future becomes `is_causal`."""
    parts, options = _parts(node)
    mask = parts[3]
    if mask is None or parts[5]:
        return None
    kind = _kind_of(edit, mask, shape_of(parts[0])[-2], shape_of(parts[1])[-2])
    if kind is None:
        return None
    what = "remove a mask without effect" if kind == "nothing" else "spell a causal mask as is_causal"
    return Match(what, lambda: _call(edit, [*parts[:3], None, 0.0, kind == "causal"], options))


def _kind_of(edit: Editor, mask: Node, queries: Any, keys: Any) -> str | None:
    fact = IndexFacts().of(excluding_condition(mask, _EXCLUDES) or mask)
    if isinstance(fact, Comparison) and fact.is_causal(len(shape_of(mask))):
        return "causal"
    value = constant_value(edit, mask)
    if value is None:
        return None
    keep = kept_by(value)
    if keep is None:
        return None
    if bool(keep.all()):
        return "nothing"
    is_whole = tuple(keep.shape[-2:]) == (queries, keys)
    return "causal" if is_whole and bool((keep == torch.ones_like(keep).tril()).all()) else None


def excluding_condition(mask: Node, least: float) -> Node | None:
    """`c` of an added mask `where(c, 0, v)` with `v` at most `least`, seen through an expand of it."""
    while is_call(mask, aten.expand.default):
        mask = args_of(mask)[0]
    if not is_call(mask, aten.where.self) or uniform_number(args_of(mask)[1]) != 0:
        return None
    fill = uniform_number(args_of(mask)[2])
    return args_of(mask)[0] if fill is not None and fill <= least else None


def constant_value(edit: Editor, node: Node) -> torch.Tensor | None:
    """The value of an expression of constants, if no step of it is large."""
    return evaluate(edit, node) if _is_small_constant(edit, node) else None


def _is_small_constant(edit: Editor, node: Node) -> bool:
    if edit.constant(node) is not None:
        return bytes_of(node) <= WORK_BYTES
    if node.op != "call_function" or not is_pure(node) or bytes_of(node) > WORK_BYTES:
        return False
    return all(_is_small_constant(edit, source) for source in node.all_input_nodes)


def kept_by(mask: torch.Tensor) -> torch.Tensor | None:
    """Where a constant mask lets scores through, if it adds nothing there and excludes for certain elsewhere."""
    if mask.dtype == torch.bool:
        return mask
    keep = mask == 0
    is_clear = bool((keep | (mask <= _EXCLUDES)).all())
    return keep if is_clear and bool(keep.any(dim=-1).all()) else None


def boolean_mask(edit: Editor, node: Node) -> Match | None:
    """An added constant mask of zeros and very negative numbers, with something kept in every row, as booleans."""
    parts, options = _parts(node)
    mask = parts[3]
    if mask is None or value_of(mask).dtype == torch.bool:
        return None
    source = mask
    while is_call(source, aten.expand.default, aten.reshape.default):
        source = args_of(source)[0]
    value = constant_value(edit, mask) if edit.constant(source) is not None else None
    keep = kept_by(value) if value is not None else None
    if keep is None:
        return None

    def build() -> Node:
        return _with_mask(edit, parts, options, edit.call(aten.eq.Scalar, mask, 0))

    return Match("spell an excluding mask with booleans", build)


def _with_mask(edit: Editor, parts: list[Any], options: dict[str, Any], mask: Node) -> Node:
    return _call(edit, [*parts[:3], mask, *parts[4:]], options)


def condition_as_mask(edit: Editor, node: Node) -> Match | None:
    """A mask that adds 0 or -inf says which scores to keep."""
    parts, options = _parts(node)
    mask = parts[3]
    condition = excluding_condition(mask, -math.inf) if mask is not None else None
    if mask is None or condition is None or len(shape_of(condition)) != len(shape_of(mask)):
        return None
    return Match("spell an excluding mask with booleans", lambda: _with_mask(edit, parts, options, condition))


def narrow_mask(edit: Editor, node: Node) -> Match | None:
    """Attention broadcasts its mask itself."""
    parts, options = _parts(node)
    mask = parts[3]
    if not is_call(mask, aten.expand.default) or len(shape_of(args_of(mask)[0])) != len(shape_of(mask)):
        return None
    return Match("remove an expand of a mask", lambda: _with_mask(edit, parts, options, args_of(mask)[0]))


CALL_RULES: RuleTable = {
    aten.scaled_dot_product_attention.default: (
        spelled, four_dimensions, shared_heads, plain_mask, boolean_mask, condition_as_mask, narrow_mask,
    ),
}  # fmt: skip
