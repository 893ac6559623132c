"""Fusion: which nodes become one kernel.

Groups grow from an anchor along its consumers, while the whole still lowers as one kernel (the lowering itself is the
test of legality), makes no cycle between groups, and does not repeat expensive work. Anchors are taken in three rounds:
templates (matrix products, convolutions, attention), then reductions, then what is left. A template's group ends where
a single value leaves it, perhaps with a narrower form of it (rounded, as codes); loop kernels may store several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from torch.fx import Graph, Node

from ullage.codegen.lower.geometry import Surround
from ullage.codegen.lower.region import walking
from ullage.codegen.lower.scans import scan_node
from ullage.codegen.lower.table import TABLE, aten, fake
from ullage.codegen.lower.templates import CONVOLUTIONS, TEMPLATES
from ullage.codegen.lower.values import NotFusable
from ullage.codegen.lower.views import root, view_source

MAX_NODES = 64
MAX_STORES = 4
MAX_BUFFERS = 16
_EXPENSIVE = frozenset({
    aten.exp, aten.erf, aten.tanh, aten.sigmoid, aten.gelu, aten.silu, aten.log, aten.sin, aten.cos, aten.pow,
    aten.softplus, aten.elu, aten.div, aten.sqrt, aten.rsqrt, aten.cat, aten.expm1, aten.log1p,
    aten.upsample_bilinear2d, aten.mish,
})  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Nodes that become one kernel, in graph order; `outputs` are the ones whose values leave it."""

    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]
    kind: str
    """`template`, `loops`, `gather` (rows of a constant table) or `concat` (its producers write in place)."""

    @property
    def anchor(self) -> Node:
        """The template or reduction that the group grew from (the first node of others)."""
        anchors = [n for n in self.nodes if n.target in TEMPLATES] if self.kind == "template" else []
        return anchors[0] if anchors else self.nodes[0]


Trial = Callable[[Sequence[Node], Sequence[Node], str], None]
"""Lowers (nodes, outputs, kind) and throws the result away; raises NotFusable if it cannot be done."""


@dataclass
class Grouping:
    """The state of fusion over one graph."""

    graph: Graph
    trial: Trial
    is_constant: Callable[[Node], bool]
    order: dict[Node, int] = field(default_factory=dict)
    users: dict[Node, tuple[Node, ...]] = field(default_factory=dict)
    owner: dict[Node, Group] = field(default_factory=dict)

    def run(self) -> tuple[Group, ...]:
        """All groups in an executable order."""
        self.order = {node: i for i, node in enumerate(self.graph.nodes)}
        self.users = {node: self._effective_users(node) for node in self.graph.nodes}
        self._fixed()
        for kind in ("template", "reduce", "rest"):
            for node in self.graph.nodes:
                if node not in self.owner and self._anchors(node, kind):
                    self._grow(node, "template" if kind == "template" else "loops")
        return self._sorted()

    def _anchors(self, node: Node, kind: str) -> bool:
        if kind == "template":
            return node.target in TEMPLATES
        if node.op != "call_function":
            return False
        lowered = TABLE.kind(node)
        return lowered == "reduce" if kind == "reduce" else lowered in ("pointwise", "move", "reduce")

    def _fixed(self) -> None:
        for node in self.graph.nodes:
            if node.op != "call_function":
                continue
            if node.target is aten.embedding.default and self._is_table(node):
                self._assign((node,), "gather")
            elif node.target is aten.cat.default and self._joins_memory(node):
                self._assign((node,), "concat")

    def _is_table(self, node: Node) -> bool:
        table, ids = node.args[0], node.args[1]
        return (
            isinstance(table, Node) and self.is_constant(table) and isinstance(ids, Node) and not self.is_constant(ids)
        )

    def _joins_memory(self, node: Node) -> bool:
        users = self.users[node]
        return len(users) != 1 or any(TABLE.kind(u) != "pointwise" for u in users)

    def _assign(self, nodes: Iterable[Node], kind: str) -> None:
        members = tuple(sorted(nodes, key=self.order.__getitem__))
        group = Group(members, self._escapes(frozenset(members)), kind)
        for node in members:
            self.owner[node] = group

    def _effective_users(self, node: Node) -> tuple[Node, ...]:
        """Consumers, looking through views."""
        found: dict[Node, None] = {}
        stack = list(node.users)
        while stack:
            user = stack.pop()
            if view_source(user) is not None:
                stack.extend(user.users)
            else:
                found[user] = None
        return tuple(sorted(found, key=self.order.__getitem__))

    def _inputs(self, node: Node) -> tuple[Node, ...]:
        """Producers, looking through views."""
        return tuple(dict.fromkeys(root(n) for n in node.all_input_nodes))

    def _escapes(self, members: frozenset[Node]) -> tuple[Node, ...]:
        return tuple(
            n for n in sorted(members, key=self.order.__getitem__) if any(u not in members for u in self.users[n])
        )

    def _grow(self, anchor: Node, kind: str) -> None:
        members = self._start(anchor, kind)
        best = members
        grown = members
        while (following := self._extend(grown, kind)) is not None:
            grown = following
            if self._storable(self._escapes(grown), grown, kind):
                best = grown
        self._assign(best, kind)

    def _storable(self, outputs: Sequence[Node], members: frozenset[Node], kind: str) -> bool:
        """Whether one kernel may store them: templates store one value, and perhaps a narrower form of it."""
        if kind != "template":
            return len(outputs) <= MAX_STORES
        if len(outputs) != 2:
            return len(outputs) <= 1
        value, other = outputs
        narrower = fake(other).dtype.itemsize < fake(value).dtype.itemsize
        return narrower and self._follows(other, value, members)

    def _follows(self, node: Node, value: Node, members: frozenset[Node]) -> bool:
        """Whether a member is computed from one other member's value alone."""
        sources = self._inputs(node)
        return bool(sources) and all(
            source is value or (source in members and self._follows(source, value, members)) for source in sources
        )

    def _start(self, anchor: Node, kind: str) -> frozenset[Node]:
        alone = frozenset((anchor,))
        if kind == "template":
            around = Surround.of(anchor) if anchor.target in CONVOLUTIONS else None
            padded = alone if around is None or around.node in self.owner else alone | {around.node}
            return padded if len(padded) > 1 and self._legal(padded, kind) else alone
        pulled = self._pulled(anchor, alone)
        return pulled if len(pulled) > 1 and self._legal(pulled, kind) else alone

    def _extend(self, members: frozenset[Node], kind: str) -> frozenset[Node] | None:
        """The group with one more consumer (and that one's private producers), or None if there is no legal one."""
        candidates = {u for n in members for u in self.users[n] if u not in members and self._fusable(u, kind)}
        for node in sorted(candidates, key=self.order.__getitem__):
            bigger = self._pulled(node, members | {node})
            for choice in dict.fromkeys((bigger, members | {node})):
                if self._worth(members, node, kind) and self._legal(choice, kind):
                    return choice
        return None

    def _fusable(self, node: Node, kind: str) -> bool:
        if node in self.owner or node.op != "call_function" or node.target in TEMPLATES:
            return False
        allowed = ("pointwise",) if kind == "template" else ("pointwise", "move", "reduce")
        return TABLE.kind(node) in allowed and not walking(node)

    def _worth(self, members: frozenset[Node], node: Node, kind: str) -> bool:
        """Whether fusing repeats no expensive work: an element of the group is not needed by many of the consumer's."""
        size = _elements(node)
        sources = [n for n in members if node in self.users[n]]
        largest = max(_elements(n) for n in sources)
        if kind == "template":
            return size == largest
        if TABLE.kind(node) == "move" and any(_expensive(n) for n in members):
            return False
        amplified = size > largest and not any(TABLE.kind(n) == "reduce" for n in members)
        return not (amplified and any(_expensive(n) for n in members))

    def _pulled(self, node: Node, members: frozenset[Node]) -> frozenset[Node]:
        """The members with private, cheap producers of `node` added, recursively."""
        for source in self._inputs(node):
            if source in members or not self._fusable(source, "loops"):
                continue
            if TABLE.kind(source) == "reduce" and not self._beside(source, members):
                continue
            private = all(u in members for u in self.users[source])
            rereads = TABLE.kind(node) == "reduce" and not scan_node(node)
            heavy = _expensive(source) and (_elements(source) < _elements(node) or rereads)
            if private and not heavy:
                members = self._pulled(source, members | {source})
        return members

    def _beside(self, reduction: Node, members: frozenset[Node]) -> bool:
        """Whether a member reduces the same values to as many results: one kernel then reads them once for both."""
        return any(
            TABLE.kind(node) == "reduce"
            and self._inputs(node) == self._inputs(reduction)
            and fake(node).shape == fake(reduction).shape
            for node in members
        )

    def _legal(self, members: frozenset[Node], kind: str) -> bool:
        if len(members) > MAX_NODES or self._makes_cycle(members):
            return False
        nodes = sorted(members, key=self.order.__getitem__)
        sources = {s for n in nodes for s in self._inputs(n) if s not in members}
        if len(sources) > MAX_BUFFERS:
            return False
        try:
            self.trial(nodes, self._escapes(members), kind)
        except NotFusable:
            return False
        return True

    def _makes_cycle(self, members: frozenset[Node]) -> bool:
        """Whether a path leaves the members and comes back, with finished groups contracted to points."""
        stack = [u for n in members for u in self.users[n] if u not in members]
        seen: set[Node] = set()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            group = self.owner.get(node)
            for member in group.nodes if group else (node,):
                seen.add(member)
                for user in self.users[member]:
                    if user in members:
                        return True
                    if user not in seen:
                        stack.append(user)
        return False

    def _sorted(self) -> tuple[Group, ...]:
        """Groups in topological order, earliest anchor first among those that are ready (Kahn's algorithm)."""
        groups = list(dict.fromkeys(self.owner.values()))
        waits = {
            id(g): {id(self.owner[s]) for n in g.nodes for s in self._inputs(n) if s in self.owner} - {id(g)}
            for g in groups
        }
        done: set[int] = set()
        ordered: list[Group] = []
        pending = sorted(groups, key=lambda g: self.order[g.nodes[-1]])
        while pending:
            ready = next(g for g in pending if waits[id(g)] <= done)
            pending.remove(ready)
            done.add(id(ready))
            ordered.append(ready)
        return tuple(ordered)


def _elements(node: Node) -> int:
    total = 1
    for size in fake(node).shape:
        total *= size if isinstance(size, int) else size.node.hint or 1
    return total


def _expensive(node: Node) -> bool:
    return getattr(node.target, "overloadpacket", None) in _EXPENSIVE
