"""The static numbers of a convolution node."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from ullage.codegen.lower.table import aten, fake, float_of, int_of, ints_of, node_of
from ullage.codegen.lower.values import NotFusable


@dataclass(frozen=True, slots=True)
class Geometry:
    """The static numbers of a convolution, brought to two spatial dimensions."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    transposed: bool
    one_d: bool

    @staticmethod
    def of(node: Node) -> Geometry:
        """Read a convolution node; NotFusable for three spatial dimensions."""
        x, weight = node_of(node.args[0]), node_of(node.args[1])
        spatial = fake(x).dim() - 2
        if spatial not in (1, 2):
            raise NotFusable(f"convolution over {spatial} spatial dimensions")
        kernel = tuple(int(n) for n in fake(weight).shape[2:])
        stride, padding, dilation = (_ints(node.args[i], spatial) for i in (3, 4, 5))
        lead = (2 - spatial) * (1,)
        return Geometry(
            int(fake(x).shape[1]), int(fake(node).shape[1]), _two(lead + kernel), _two(lead + stride),
            _two((2 - spatial) * (0,) + padding), _two(lead + dilation), int_of(node.args[8]), bool(node.args[6]),
            spatial == 1,
        )  # fmt: skip

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved alone."""
        return self.in_channels == self.out_channels == self.groups and self.groups > 1 and not self.transposed


@dataclass(frozen=True, slots=True)
class Surround:
    """Zeros around the input of a convolution, unevenly: the node that adds them, what it adds them to, and how many
    come before the first row and column. Those after the last follow from the size of the result.
    """

    node: Node
    source: Node
    low: tuple[int, int]

    @staticmethod
    def of(convolution: Node) -> Surround | None:
        """The zeros that a convolution could take as its own padding; None if there are none that only it reads."""
        node = node_of(convolution.args[0])
        if node.target is not aten.constant_pad_nd.default or len(node.users) != 1 or convolution.args[6]:
            return None
        source, pads, *value = node.args
        spatial = fake(node).dim() - 2
        if (
            [float_of(v) for v in value or [0]] != [border_of(convolution)]
            or not isinstance(pads, list | tuple)
            or len(pads) > 2 * spatial
        ):
            return None
        if not all(isinstance(pad, int) and pad >= 0 for pad in pads):
            return None
        inner_first = [int_of(pad) for pad in pads[::2]] + [0] * (2 - len(pads) // 2)
        return Surround(node, node_of(source), (inner_first[1], inner_first[0]))


def border_of(convolution: Node) -> int:
    """The code that stands for zero: 0, but for convolutions of uint8."""
    return int_of(convolution.args[9]) if len(convolution.args) > 9 else 0


def _ints(value: object, count: int) -> tuple[int, ...]:
    numbers = ints_of(value)
    return numbers * count if len(numbers) == 1 else numbers


def _two(numbers: tuple[int, ...]) -> tuple[int, int]:
    return numbers[0], numbers[1]
