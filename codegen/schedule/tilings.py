"""The tiling of a kernel that nothing was measured for: what the sizes of its operands say about the caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ullage.codegen.cpp.templates.early import fetches
from ullage.codegen.emit import Spec
from ullage.codegen.loops.ir import DTYPE_BYTES, Expr
from ullage.codegen.lower.index import IndexMath
from ullage.codegen.templates import Conv2d, Gemm, PackedPanels
from ullage.codegen.tiling import Tiling

_NEAR_BYTES = 512 << 10
"""Weights that stay in a core's own cache (its second level, as a rule at least twice as large) while rows pass."""
_FAR_BYTES = 2 << 20
"""Rows, read and written, that do not stay there: they should pass once."""
_AHEAD_STEPS = 128
"""Words of a row that are fetched ahead: longer rows are streams that processors foresee."""
_AHEAD_OUTPUTS = 96
"""Outputs of products whose rows are: with more of them there is time enough."""
_LONG_BYTES = 1 << 20
"""Outputs whose residual is no longer there when they are computed."""


def with_tiling(spec: Spec, dim_max: Mapping[str, int]) -> Spec:
    """The specification with the tiling that suits the bytes it moves at the upper bounds of the dimensions.

    Products and dense convolutions with small weights and many rows go through all weights for each block of rows.
    Residuals of large outputs are fetched early, and added to sums that are still in registers. Short rows of narrow
    matrix products are fetched ahead where they do not stay in a core's own cache.
    """
    if not isinstance(spec, Gemm | Conv2d) or not isinstance(spec.weight, PackedPanels):
        return spec
    read, written = _row_bytes(spec, dim_max)
    weights = spec.weight.tiles * spec.weight.tile_bytes
    several = not spec.later and spec.weight.tiles > 1
    once = several and weights <= _NEAR_BYTES and read + written >= _FAR_BYTES
    residual = fetches(spec.epilogue) and written >= _LONG_BYTES
    ahead = _waits_for_rows(spec, spec.weight) and read >= _NEAR_BYTES
    tiling = Tiling(tiles_first=once, prefetch=residual, from_registers=residual, ahead=ahead)
    if isinstance(spec, Gemm):
        return replace(spec, tiling=tiling)
    return replace(spec, tiling=tiling)


def _waits_for_rows(spec: Gemm | Conv2d, weight: PackedPanels) -> bool:
    """Whether so little is computed with a row that the next ones are needed before they can be there."""
    product = isinstance(spec, Gemm) or spec.kernel == (1, 1)
    return product and weight.k <= _AHEAD_STEPS * weight.word and weight.n <= _AHEAD_OUTPUTS


def _row_bytes(spec: Gemm | Conv2d, dim_max: Mapping[str, int]) -> tuple[int, int]:
    """Bytes of the rows that are multiplied, and of those that are stored."""

    def size(*factors: Expr) -> int:
        total = 1
        for factor in factors:
            total *= IndexMath({}, dim_max).bounds(factor)[1] or 1
        return total

    dtypes = {buffer.name: buffer.dtype for buffer in spec.buffers}
    stored = sum(DTYPE_BYTES[dtypes[store.buffer]] for store in spec.epilogue)
    if isinstance(spec, Gemm):
        return size(spec.m, spec.k) * DTYPE_BYTES[dtypes[spec.a_buffer]], size(spec.m, spec.n) * stored
    read = size(spec.batch, spec.in_h, spec.in_w) * spec.in_c * DTYPE_BYTES[dtypes[spec.x_buffer]]
    return read, size(spec.batch, spec.out_h, spec.out_w) * spec.out_c * stored
