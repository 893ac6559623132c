"""Recurrences: a loop that tracing unrolled becomes one `ullage::linear_scan`, and one batched call of each operator.

    for t in range(steps):
        h = a[:, t] * h + b[:, t]
        ys.append((h @ c[:, t].unsqueeze(-1)).squeeze(-1))       any operators that `batched` knows, on any states
    y = torch.stack(ys, dim=1)

The product may be either operand of the sum, and the state either operand of the product; a factor may be the same in
all steps; the first state may be anything, and may itself be the first result. The graph shrinks from steps · body to
body nodes, in time linear in its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch.fx import Node

from ullage.graph.captured import CapturedModel
from ullage.graph.operators import LAST, LINEAR_SCAN
from ullage.passes.clean.rules import SWEEPS, replace_node
from ullage.passes.clean.sizes import reshape_to
from ullage.passes.edit import Editor, args_of, argument, calls, is_call, is_one, shape_of, value_of
from ullage.passes.fuse.batched import batched, leading
from ullage.passes.fuse.steps import Call, Fixed, Nodes, Plan, Recurrence, Steps, Taken, results, written
from ullage.passes.manager import Pass, RewriteLog

aten = torch.ops.aten


@dataclass(frozen=True)
class Recurrences(Pass):
    """Roll unrolled linear recurrences."""

    name: ClassVar[str] = "recurrences"

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """Sweep over joined results until nothing is left to roll (of two results of a loop the later one is first)."""
        edit = Editor.of(model)
        for _ in range(SWEEPS):
            before = len(log.rewrites)
            order = {node: number for number, node in enumerate(edit.graph.nodes)}
            for node in calls(edit.graph):
                found = _find(node, order) if is_call(node, aten.cat.default) else None
                if found is not None and log.allow(f"roll {len(found.parts)} steps of a recurrence", node.name):
                    replace_node(edit, node, _rolled(edit, found), "roll a recurrence")
            edit.remove_dead()
            if len(log.rewrites) == before:
                return


@dataclass(frozen=True, slots=True)
class Found:
    """A joined result (`cat`) whose last parts are the results of a loop, and the node that the loop is done with."""

    joined: Node
    parts: Nodes
    plan: Plan
    last: Node

    @property
    def inside(self) -> set[Node]:
        """All nodes of the loop."""
        parts = written(self.plan)
        products = {node for part in parts if isinstance(part, Recurrence) for node in part.products}
        return products | {node for part in parts for node in part.nodes}


def _find(joined: Node, order: Mapping[Node, int]) -> Found | None:
    """The loop behind all parts, or behind all but the first."""
    for first in (0, 1):
        parts = results(args_of(joined)[0][first:])
        plan = None if parts is None else Steps().plan(parts)
        if parts is None or plan is None or not _has_scan(plan):
            continue
        found = Found(joined, parts, plan, joined.prev)
        inside = found.inside
        outside = {user for node in inside for user in node.users} - inside
        if order.keys() >= inside | outside:
            last = max(inside, key=order.__getitem__, default=joined.prev)
            return replace(found, last=last) if all(order[user] > order[last] for user in outside) else None
    return None


def _has_scan(plan: Plan) -> bool:
    """Whether a plan holds a recurrence, or joins what was taken apart from one."""
    if isinstance(plan, Taken):
        return is_call(plan.base, LINEAR_SCAN)
    return any(isinstance(part, Recurrence) for part in written(plan))


def _rolled(edit: Editor, found: Found) -> Node:
    """The joined result; other uses of the loop's values become elements of the batched ones."""
    roller = _Roller(edit.at(found.last.next), len(found.parts))
    whole = _joined(roller.edit, roller.node(found.plan), found.joined)
    inside = found.inside | {found.joined}
    for part in written(found.plan):
        for step, node in enumerate(part.nodes):
            if others := [user for user in node.users if user not in inside]:
                _replace(node, others, roller.element(part, step))
    before = args_of(found.joined)[0][: -len(found.parts)]
    if not before:
        return whole
    return edit.at(found.joined).call(aten.cat.default, [*before, whole], argument(found.joined, "dim", 0))


def _replace(node: Node, users: Iterable[Node], new: Node) -> None:
    for user in users:
        user.replace_input_with(node, new)


def _joined(edit: Editor, batch: Node, joined: Node) -> Node:
    """The cat of the elements of a batched result."""
    rank = len(shape_of(joined))
    dim = argument(joined, "dim", 0) % rank
    moved = edit.call(aten.permute.default, batch, [*range(1, dim + 1), 0, *range(dim + 1, rank + 1)])
    sizes = shape_of(moved)
    return reshape_to(edit, moved, (*sizes[:dim], sizes[dim] * sizes[dim + 1], *sizes[dim + 2 :]))


@dataclass
class _Roller:
    """Writes what is common to the steps, each part of the body once, with the steps as first dimension."""

    edit: Editor
    count: int
    written: dict[int, Node] = field(default_factory=dict)

    def node(self, plan: Plan) -> Node:
        """The batched value of a plan; its first dimension is 1 where all steps are alike."""
        if id(plan) not in self.written:
            self.written[id(plan)] = self._write(plan)
        return self.written[id(plan)]

    def element(self, plan: Plan, step: int) -> Node:
        """The value of one step."""
        whole = self.node(plan)
        if isinstance(plan, Recurrence) and step == self.count - 1:
            return self.edit.call(LAST, whole, 0)
        return self.edit.call(aten.select.int, whole, 0, 0 if is_one(shape_of(whole)[0]) else step)

    def _write(self, plan: Plan) -> Node:
        match plan:
            case Fixed(node):
                return self.edit.call(aten.unsqueeze.default, node, 0)
            case Taken():
                return self._taken(plan)
            case Call(nodes, operands):
                return batched(self.edit, nodes[0], [self.node(operand) for operand in operands])
            case Recurrence():
                return self._scan(plan)

    def _taken(self, plan: Taken) -> Node:
        base, dim, rank = plan.base, plan.dim, len(shape_of(plan.base))
        first = min(plan.start, plan.start + plan.stride * (self.count - 1))
        if shape_of(base)[dim] != self.count:
            base = self.edit.call(aten.slice.Tensor, base, dim, first, first + self.count, 1)
        order = [dim, *(d for d in range(rank) if d != dim)]
        base = self.edit.call(aten.permute.default, base, order)
        if plan.stride < 0:
            base = self.edit.call(aten.flip.default, base, [0])
        return self.edit.call(aten.unsqueeze.default, base, dim + 1) if plan.keeps else base

    def _scan(self, plan: Recurrence) -> Node:
        state = value_of(plan.nodes[0])
        rank = len(state.shape) + 1
        term = leading(self.edit, self._like(state, self.node(plan.term)), rank)
        factor = leading(self.edit, self._like(state, self._factor(plan.factor, state)), rank)
        if is_one(shape_of(term)[0]) and is_one(shape_of(factor)[0]):
            term = self.edit.call(aten.expand.default, term, [self.count, *shape_of(term)[1:]])
        return self.edit.call(LINEAR_SCAN, factor, term, self._initial(plan.initial, state), 0)

    def _factor(self, factor: Plan | float, state: torch.Tensor) -> Node:
        if isinstance(factor, int | float):
            return self.edit.call(aten.full.default, [1] * (len(state.shape) + 1), factor, dtype=state.dtype)
        return self.node(factor)

    def _initial(self, initial: Node | float, state: torch.Tensor) -> Node | None:
        if isinstance(initial, Node):
            return self._like(state, initial)
        if initial == 0:
            return None
        return self.edit.call(aten.full.default, [1] * len(state.shape), initial, dtype=state.dtype)

    def _like(self, state: torch.Tensor, node: Node) -> Node:
        if value_of(node).dtype == state.dtype:
            return node
        return self.edit.call(aten._to_copy.default, node, dtype=state.dtype)
