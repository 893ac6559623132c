"""The constants of an artifact: each form in which kernels want a weight, packed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from ullage.codegen.cpp.templates.depthwise_pack import DepthwisePacker
from ullage.codegen.cpp.templates.pack import CodePacker, PanelPacker
from ullage.codegen.lower.operands import Packed
from ullage.codegen.lower.shapes import Shape, contiguous_strides, dtype_name
from ullage.codegen.lower.values import View
from ullage.codegen.schedule.packing import Packer, RowPacker, WholePacker
from ullage.codegen.templates import Codes, PackedDepthwise, PackedPanels
from ullage.graph.constants import ConstantRef
from ullage.plan.steps import Constant
from ullage.target import Target


class ConstantPool:
    """Collects constants by (source, form), so that tied weights of one form are stored once."""

    def __init__(self, refs: Mapping[str, ConstantRef], target: Target) -> None:
        self.refs = refs
        self.target = target
        self._constants: dict[str, Constant] = {}
        self._packers: dict[str, Packer] = {}
        self._names: dict[tuple[object, ...], str] = {}

    def constants(self) -> tuple[Constant, ...]:
        """All constants, in the order of first use."""
        return tuple(self._constants.values())

    def packers(self) -> dict[str, Packer]:
        """The packer of each constant."""
        return dict(self._packers)

    def raw(self, name: str, shape: Shape) -> View:
        """The tensor as it is, row-major, in one tile."""
        ref = self.refs[name]
        stored = self._enter(
            name, "", (ref.dtype, ref.shape), lambda n: Constant(n, 1, max(1, ref.nbytes)), WholePacker(ref)
        )
        return View(stored, dtype_name(ref.dtype), shape, contiguous_strides(shape))

    def table(self, name: str) -> str:
        """A table whose rows are gathered by index."""
        ref = self.refs[name]
        row = ref.nbytes // ref.shape[0]
        return self._enter(name, ".rows", (), lambda n: Constant(n, ref.shape[0], row, gathered=True), RowPacker(ref))

    def panels(self, name: str, outputs: int, groups: int = 1) -> Packed:
        """A matrix or convolution weight in GEMM panels; `outputs` is the dimension of the outputs."""
        ref = self.refs[name]
        n = ref.shape[0] // groups if outputs == 0 else ref.shape[1]
        inner = ref.shape[1] if outputs == 0 else ref.shape[0] // groups
        k = inner
        for size in ref.shape[2:]:
            k *= size
        dtype = dtype_name(ref.dtype)
        layout = PackedPanels(n, k, panel_width(n, self.target), groups, dtype, word_of(dtype, inner, self.target))
        side: Literal[0, 1] = 0 if outputs == 0 else 1
        packer = PanelPacker(ref, layout, side)
        stored = self._enter(
            name,
            f".panels{outputs or ''}",
            (layout, outputs),
            lambda c: Constant(c, layout.tiles, layout.tile_bytes),
            packer,
        )
        return Packed(stored, layout)

    def coded(self, codes: str, scales: str, bits: int) -> Packed:
        """A matrix [n, k] of codes with scales for groups of k, in GEMM panels."""
        values, factors = self.refs[codes], self.refs[scales]
        n, k = values.shape
        width = panel_width(n, self.target)
        layout = PackedPanels(n, k, width, 1, "uint8", 4, Codes(bits, k // factors.shape[1]))
        packer = CodePacker(values, factors, layout)
        stored = self._enter(codes, ".codes", (layout,), lambda c: Constant(c, layout.tiles, layout.tile_bytes), packer)
        return Packed(stored, layout)

    def depthwise(self, name: str) -> Packed:
        """A depthwise convolution weight."""
        ref = self.refs[name]
        taps = math.prod(ref.shape[2:])
        layout = PackedDepthwise(ref.shape[0], taps, self.target.lanes, dtype_name(ref.dtype))
        packer = DepthwisePacker(ref, layout)
        stored = self._enter(
            name, ".depthwise", (layout,), lambda c: Constant(c, layout.tiles, layout.tile_bytes), packer
        )
        return Packed(stored, layout)

    def _enter(
        self, name: str, suffix: str, form: tuple[object, ...], make: Callable[[str], Constant], packer: Packer
    ) -> str:
        key = (self.refs[name].source.key, suffix, form)
        if key not in self._names:
            self._names[key] = name + suffix
            self._constants[name + suffix] = make(name + suffix)
            self._packers[name + suffix] = packer
        return self._names[key]


def word_of(dtype: str, inner: int, target: Target) -> int:
    """Values of k in a word of a panel whose inner run of k has `inner` values."""
    if dtype == "int8":
        return 4
    return 2 if dtype == "bfloat16" and target.dots_bf16 and inner % 2 == 0 else 1


def panel_width(outputs: int, target: Target) -> int:
    """Outputs per panel: the width (1 to 4 registers) that pads least; of equal ones the target's preferred width."""
    lanes, preferred = target.lanes, target.panel_width
    widths = [w * lanes for w in ((3, 4, 2, 1) if target.registers == 32 else (2, 1))]
    return min(widths, key=lambda w: (-(-outputs // w) * w, w != preferred, -w))
