"""The order of dimensions in memory: channels last around convolutions, and what lets the next reshape be free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch.fx import Node

from ullage.codegen.loops.ir import Const
from ullage.codegen.lower.scans import scan_node
from ullage.codegen.lower.table import TABLE, aten, fake
from ullage.codegen.lower.templates import ATTENTION, CONVOLUTIONS, LINEARS
from ullage.codegen.lower.values import View
from ullage.codegen.lower.views import Permute, Reshape, root, view_op, view_source
from ullage.codegen.schedule.groups import Group

Order = tuple[int, ...]


class Layouts:
    """Chooses a dimension order for each value that gets memory of its own."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._anchors = {node: group.anchor for group in groups if group.kind == "template" for node in group.outputs}
        self._members = {node: group.nodes for group in groups for node in group.outputs}

    def order(self, node: Node, views: Mapping[Node, View]) -> Order:
        """Dimensions of the node from outermost to innermost in memory."""
        rank = fake(node).dim()
        plain = tuple(range(rank))
        anchor = self._anchors.get(node, node)
        if anchor.target in CONVOLUTIONS and fake(anchor).dim() == rank:
            return channels_last(rank)
        if anchor.target in LINEARS and fake(anchor).dim() == rank:
            return plain
        if anchor.target is ATTENTION and rank == 4:
            return (0, 2, 1, 3)
        if rank in (3, 4) and self._feeds_convolution(node):
            return channels_last(rank)
        return self._read_by_linear(node) or self._followed(node, views) or self._permuted(node) or plain

    def _read_by_linear(self, node: Node) -> Order | None:
        """The order in which a linear reads the node without a copy, if it sees it permuted.

        Products and reductions over rows write whole rows: turning these on the way would cost more than a copy.
        """
        if node in self._anchors or self._ends_rows(node):
            return None
        for user in node.users:
            if view_source(user) is None or not isinstance(view := view_op(user), Permute):
                continue
            if view.dims[-1] != len(view.dims) - 1 and any(
                u.target in LINEARS and u.args[0] is user for u in user.users
            ):
                return view.dims
        return None

    def _ends_rows(self, node: Node) -> bool:
        members = self._members.get(node, ())
        return any(TABLE.kind(n) == "reduce" for n in members) and not any(map(scan_node, members))

    def _feeds_convolution(self, node: Node) -> bool:
        """Whether a convolution reads the node, perhaps with zeros around it."""
        padded = (user for user in node.users if user.target is aten.constant_pad_nd.default)
        return any(user.target in CONVOLUTIONS and user.args[0] is node for user in node.users) or any(
            self._feeds_convolution(user) for user in padded
        )

    def _permuted(self, node: Node) -> Order | None:
        """If every consumer permutes the value alike and then reshapes it, the order that makes the reshape free."""
        if len(node.users) != 1:
            return None
        (user,) = node.users
        if view_source(user) is None or not isinstance(view := view_op(user), Permute):
            return None
        reshaped = any(view_source(u) is not None and isinstance(view_op(u), Reshape) for u in user.users)
        return view.dims if reshaped else None

    def _followed(self, node: Node, views: Mapping[Node, View]) -> Order | None:
        """The order of the first input of its kernel of the same shape that is in memory and not row-major."""
        read = [source for member in self._members.get(node, (node,)) for source in member.all_input_nodes]
        for source in dict.fromkeys([*read, *map(root, read)]):
            view = views.get(source)
            if view is None or not isinstance(source.meta["val"], type(node.meta["val"])):
                continue
            if fake(source).shape != fake(node).shape:
                continue
            order = memory_order(view)
            if order is not None and order != tuple(range(len(order))):
                return order
        return None


def channels_last(rank: int) -> Order:
    """Batch, spatial dimensions, channels."""
    return (0, *range(2, rank), 1)


def memory_order(view: View) -> Order | None:
    """Dimensions sorted by stride (largest first); None if strides are symbolic or repeated (broadcast)."""
    sized: list[tuple[int, int]] = []
    for dim, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        if not isinstance(size, Const) or not isinstance(stride, Const):
            return None
        if int(size.value) > 1 and int(stride.value) == 0:
            return None
        sized.append((dim, int(stride.value) if int(size.value) > 1 else -1))
    real = [(d, s) for d, s in sized if s >= 0]
    ordered = [d for d, _ in sorted(real, key=lambda item: -item[1])]
    return _with_units(ordered, [d for d, s in sized if s < 0])


def _with_units(ordered: Sequence[int], units: Sequence[int]) -> Order:
    """Dimensions of size 1 go where they would be in row-major order (their place does not matter)."""
    out = list(ordered)
    for dim in units:
        position = next((i for i, d in enumerate(out) if d > dim), len(out))
        out.insert(position, dim)
    return tuple(out)
