"""From a kernel specification to target text: one function for all kinds of kernels."""

from __future__ import annotations

from ullage.codegen.cpp.emit import emit, walks_points
from ullage.codegen.cpp.templates.attention import emit_attention
from ullage.codegen.cpp.templates.conv import emit_conv
from ullage.codegen.cpp.templates.depthwise import emit_depthwise
from ullage.codegen.cpp.templates.gemm import emit_gemm
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import LoopKernel
from ullage.codegen.templates import Attention, Conv2d, Gemm, PackedDepthwise
from ullage.errors import ToolchainError
from ullage.target import Target

__all__ = ["Spec", "emit_kernel", "walks_points"]

Spec = LoopKernel | Gemm | Conv2d | Attention
"""What a kernel is generated from."""


def emit_kernel(spec: Spec, target: Target) -> Kernel:
    """The kernel for a CPU target; ToolchainError for others."""
    if target.kind != "cpu":
        raise ToolchainError(f"target {target} needs kernels that do not exist yet; use a cpu target.")
    match spec:
        case Gemm():
            return emit_gemm(spec, target)
        case Conv2d():
            depthwise = isinstance(spec.weight, PackedDepthwise)
            return emit_depthwise(spec, target) if depthwise else emit_conv(spec, target)
        case Attention():
            return emit_attention(spec, target)
        case LoopKernel():
            return emit(spec, target)
