"""Canonicalize: one form per concept, so that later passes and lowerings meet few patterns.

views        reshape, permute, expand, slice with five arguments, cat (no select, stack, split, unsqueeze …)
arithmetic   add/sub without alpha, a number instead of a uniform operand, x - c as x + (-c), exact reciprocals,
             powers as products and roots, clamp, where.self, _to_copy(dtype) as the only cast
products     linear where the right operand is a constant matrix, else matmul that broadcasts batch dimensions
convolution  aten.convolution with two dimensions
uniform      a tensor that holds one value everywhere is `full(shape, value, dtype=…)`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ullage.passes.clean.canonical_arithmetic import ARITHMETIC
from ullage.passes.clean.canonical_convolution import CONVOLUTION
from ullage.passes.clean.canonical_lookup import LOOKUP
from ullage.passes.clean.canonical_matmul import MATMUL
from ullage.passes.clean.canonical_norm import NORM
from ullage.passes.clean.canonical_shape import SHAPE
from ullage.passes.clean.canonical_views import VIEWS
from ullage.passes.clean.rules import RulePass, RuleTable, merge_tables

CANONICAL = merge_tables(VIEWS, ARITHMETIC, MATMUL, CONVOLUTION, NORM, LOOKUP, SHAPE)


@dataclass(frozen=True)
class Canonicalize(RulePass):
    """Rewrite every call to the one spelling of its concept."""

    name: ClassVar[str] = "canonicalize"

    def table(self) -> RuleTable:
        """All canonical rules."""
        return CANONICAL
