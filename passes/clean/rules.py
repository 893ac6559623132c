"""Local rules and their driver: a rule looks at one node and offers a replacement; rules run until none applies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from ullage.graph.captured import CapturedModel
from ullage.passes.edit import Editor, calls, is_tensor, same_shape, same_size, value_of
from ullage.passes.manager import Pass, RewriteLog

SWEEPS = 100
"""More sweeps than any graph needs: rules that undo each other are a bug and are reported."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule would do, and how: `build` makes (or finds) the node that replaces the matched one."""

    what: str
    build: Callable[[], Node]


Rule = Callable[[Editor, Node], Match | None]
RuleTable = Mapping[Any, tuple[Rule, ...]]
"""Rules by call target; those under the key `None` are tried on every call."""


@dataclass(frozen=True)
class RulePass(Pass):
    """A pass that is a table of local rules, applied until none matches."""

    @abstractmethod
    def table(self) -> RuleTable:
        """The rules of this pass."""

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """Sweep over the graph until a sweep changes nothing; dead nodes go after each sweep."""
        edit, table = Editor.of(model), self.table()
        for _ in range(SWEEPS):
            before = len(log.rewrites)
            for node in calls(model.module.graph):
                _rewrite(edit, node, table, log)
            if len(log.rewrites) == before:
                return
            edit.remove_dead()
        raise RuntimeError(f"rules of pass {self.name} do not come to an end: {log.rewrites[-3:]}")


def _rewrite(edit: Editor, node: Node, table: RuleTable, log: RewriteLog) -> None:
    if not node.users:
        return
    match = first_match(edit.at(node), node, (*table.get(node.target, ()), *table.get(None, ())))
    if match is not None and log.allow(match.what, node.name):
        replace_node(edit, node, match.build(), match.what)


def first_match(edit: Editor, node: Node, rules: Iterable[Rule]) -> Match | None:
    """The offer of the first rule that has one."""
    return next((match for rule in rules if (match := rule(edit, node)) is not None), None)


def replace_node(edit: Editor, old: Node, new: Node, what: str) -> None:
    """Let `new` take the place of `old`, which is erased; RuntimeError if dtype or shape would change."""
    if is_tensor(old) and (value_of(old).dtype != value_of(new).dtype or not _may_be_same_shape(old, new)):
        raise RuntimeError(f"{what} at {old.name}: {value_of(old)} would become {value_of(new)}")
    old.replace_all_uses_with(new)
    edit.graph.erase_node(old)


def _may_be_same_shape(old: Node, new: Node) -> bool:
    a, b = value_of(old).shape, value_of(new).shape
    known = all(same_size(x, y) for x, y in zip(a, b, strict=False) if isinstance(x, int) and isinstance(y, int))
    return len(a) == len(b) and known


def merge_tables(*tables: RuleTable) -> RuleTable:
    """One table with the rules of all, in order."""
    merged: dict[Any, tuple[Rule, ...]] = {}
    for table in tables:
        for target, rules in table.items():
            merged[target] = merged.get(target, ()) + rules
    return merged


def use(what: str, node: Node) -> Match:
    """An offer to use an existing node instead."""
    return Match(what, lambda: node)


def fits(node: Node, other: Node) -> bool:
    """Whether `other` can stand for `node`: equal dtype and shape known to be equal."""
    return bool(value_of(node).dtype == value_of(other).dtype) and same_shape(node, other)
