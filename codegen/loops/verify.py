"""What a legal kernel is."""

from __future__ import annotations

from ullage.codegen.loops.ir import LoopKernel


def verify(kernel: LoopKernel) -> None:
    """Raise InputError naming every rule that the kernel breaks."""
