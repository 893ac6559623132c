"""From a kernel specification to target text: one function for all kinds of kernels."""

from __future__ import annotations

from dataclasses import replace

from ullage.codegen.cpp.emit import emit, walks_channels, walks_points
from ullage.codegen.cpp.templates.attention import emit_attention
from ullage.codegen.cpp.templates.conv import emit_conv
from ullage.codegen.cpp.templates.depthwise import emit_depthwise
from ullage.codegen.cpp.templates.gemm import emit_gemm
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import LoopKernel
from ullage.codegen.templates import Attention, Conv2d, Gemm, PackedDepthwise
from ullage.errors import ToolchainError
from ullage.target import BF16_DOT, Target

__all__ = ["Spec", "emit_kernel", "walks_channels", "walks_points"]

Spec = LoopKernel | Gemm | Conv2d | Attention
"""What a kernel is generated from."""


_ROUNDINGS = ("ull_bf16_bits", "ull_round_bf16", "ull_bfloat16::")
"""Text that rounds to bfloat16, in one instruction where the target has it."""


def emit_kernel(spec: Spec, target: Target) -> Kernel:
    """The kernel for a CPU target; ToolchainError for others."""
    if target.kind != "cpu":
        raise ToolchainError(f"target {target} needs kernels that do not exist yet; use a cpu target.")
    kernel = _emit(spec, target)
    if target.dots_bf16 and any(text in kernel.source for text in _ROUNDINGS):
        return replace(kernel, features=kernel.features | {BF16_DOT})
    return kernel


def _emit(spec: Spec, target: Target) -> Kernel:
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
