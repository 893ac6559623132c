"""Constant folding: small results are computed now, large ones become recipes that are computed while packing.

A large constant is never materialised here, and folding never makes the constants of a model grow by a large tensor:
a large result must free at least as many bytes of constants that nobody else reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from ullage.graph.captured import CapturedModel
from ullage.graph.constants import ConstantRef
from ullage.passes.clean.compress import dense_users, place_compressed
from ullage.passes.clean.recipe_of import recipe_of, whole_recipe
from ullage.passes.clean.rules import replace_node
from ullage.passes.edit import Editor, args_of, calls, is_call, is_tensor, target_of, value_of
from ullage.passes.manager import Pass, RewriteLog

aten = torch.ops.aten
_UNARY_VIEWS = (aten.slice.Tensor, aten.permute.default, aten.reshape.default, aten._to_copy.default)
_KEPT = (aten.full.default, aten.expand.default)


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace calls whose operands are all constant.

    `limit_bytes`: results up to this size are computed at once. `work_bytes`: no tensor larger than this is ever
    computed here or held while a result is read. `keep_codes`: what is computed from matrices (or more dimensions) of
    8-bit integers is left, so that weights that come as codes stay codes.
    """

    name: ClassVar[str] = "fold_constants"
    limit_bytes: int = 256 * 1024
    work_bytes: int = 64 * 1024 * 1024
    keep_codes: bool = False

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """One sweep in topological order: every operand is folded before its users are looked at."""
        edit = Editor.of(model)
        _inline_numbers(edit)
        _spell_single_values(edit, log)
        constant = {node for node in edit.graph.find_nodes(op="placeholder") if edit.constant(node) is not None}
        for node in calls(edit.graph):
            if self.keep_codes and _reads_codes(node, constant):
                continue
            if is_pure(node) and constant.issuperset(node.all_input_nodes) and node.users:
                constant.add(node)
                constant.update(self._fold(edit.at(node), node, log))
        edit.remove_dead()

    def _fold(self, edit: Editor, node: Node, log: RewriteLog) -> list[Node]:
        if node.target in _KEPT or not is_tensor(node):
            return []
        recipe = recipe_of(edit, node)
        if bytes_of(node) <= self.limit_bytes:
            return self._compute(edit, node, recipe, log)
        if recipe is None and self._is_affordable(edit, node):
            recipe = whole_recipe(edit, node)
        if recipe is None or not _shrinks(edit, node) or not log.allow("fold into a recipe", node.name):
            return []
        new = edit.add_constant(replace(recipe, name=f"{node.name}_folded"))
        replace_node(edit, node, new, "fold")
        return [new]

    def _compute(self, edit: Editor, node: Node, recipe: ConstantRef | None, log: RewriteLog) -> list[Node]:
        if recipe is None and not self._is_affordable(edit, node):
            return []
        if not log.allow("compute a constant", node.name):
            return []
        value = recipe.read() if recipe is not None else evaluate(edit, node)
        new = place_compressed(edit, node, value)
        replace_node(edit, node, new, "fold")
        return [new, *new.all_input_nodes]

    def _is_affordable(self, edit: Editor, node: Node) -> bool:
        """Whether the call and everything behind it that is not a constant yet stays below `work_bytes`."""
        if bytes_of(node) > self.work_bytes:
            return False
        return all(self._is_affordable(edit, source) for source in node.all_input_nodes)


def _reads_codes(node: Node, constant: set[Node]) -> bool:
    """Whether a node makes floats from a constant of codes."""
    if not is_call(node, aten._to_copy.default):
        return False
    source: Any = node.args[0]
    value = value_of(source)
    return source in constant and value.dtype in (torch.int8, torch.uint8) and value.dim() > 1


def is_pure(node: Node) -> bool:
    """Whether a call always gives the same result, with a static shape."""
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return False
    leaves = node.meta["val"] if isinstance(node.meta["val"], list | tuple) else [node.meta["val"]]
    return all(isinstance(leaf, torch.Tensor) and _is_static(leaf) for leaf in leaves)


def _is_static(value: torch.Tensor) -> bool:
    return all(isinstance(n, int) for n in value.shape)


def bytes_of(node: Node) -> int:
    """Bytes of the result of a static node."""
    values = node.meta["val"] if isinstance(node.meta["val"], list | tuple) else [node.meta["val"]]
    return sum(int(v.numel()) * v.dtype.itemsize for v in values)


def evaluate(edit: Editor, node: Node) -> Any:
    """The value of a constant expression, computed from the constants behind it."""
    ref = edit.constant(node)
    if ref is not None:
        return ref.read()
    args = map_arg(args_of(node), lambda n: evaluate(edit, n))
    kwargs = map_arg(dict(node.kwargs), lambda n: evaluate(edit, n))
    with torch.no_grad():
        return target_of(node)(*args, **kwargs)


def _shrinks(edit: Editor, node: Node) -> bool:
    """Whether the constants that only this expression reads are at least as large as its result."""
    freed = sum(ref.nbytes for leaf in _freed_by(node) if (ref := edit.constant(leaf)) is not None)
    return freed >= bytes_of(node) or _is_split_up(edit, node)


def _freed_by(node: Node) -> set[Node]:
    """The nodes that nobody would read if `node` were replaced."""
    freed, front = {node}, list(node.all_input_nodes)
    while front:
        candidate = front.pop()
        if candidate not in freed and freed.issuperset(candidate.users):
            freed.add(candidate)
            front.extend(candidate.all_input_nodes)
    return freed


def _is_split_up(edit: Editor, node: Node) -> bool:
    """Whether a constant is read only through views that together are no larger than it is."""
    source = node.all_input_nodes[0] if node.all_input_nodes else node
    ref = edit.constant(source)
    if ref is None or not all(is_call(user, *_UNARY_VIEWS) and is_pure(user) for user in source.users):
        return False
    return sum(bytes_of(user) for user in source.users) <= ref.nbytes


def _inline_numbers(edit: Editor) -> None:
    """Size nodes that turned out to be plain integers become arguments."""
    for node in calls(edit.graph):
        if isinstance(node.meta.get("val"), int | float):
            for user in list(node.users):
                user.args = map_arg(user.args, partial(_number_for, node))
                user.kwargs = map_arg(dict(user.kwargs), partial(_number_for, node))


def _number_for(node: Node, argument: Node) -> Any:
    return value_of(node) if argument is node else argument


def _spell_single_values(edit: Editor, log: RewriteLog) -> None:
    """Constants of one element, read by arithmetic alone, become `full`."""
    first = next(iter(calls(edit.graph)), None)
    for node in edit.graph.find_nodes(op="placeholder"):
        ref = edit.constant(node)
        if ref is None or first is None or ref.shape.count(1) != len(ref.shape) or dense_users(node):
            continue
        if not node.users or not log.allow("spell a constant of one element as full", node.name):
            continue
        value = ref.read().reshape(()).item()
        full = edit.at(first).call(aten.full.default, list(ref.shape), value, dtype=ref.dtype)
        node.replace_all_uses_with(full)
