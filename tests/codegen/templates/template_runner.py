"""Compiles a template kernel and runs ranges of its tasks on torch tensors, with a guarded workspace."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise

import torch

from ullage.codegen.cpp.toolchain import build_library
from ullage.codegen.kernel import Kernel
from ullage.target import Target, best_isa

_GUARD = 0x5A


class _Args(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("p", "n", "shared", "thread")]


def host_targets() -> list[Target]:
    """The CPU targets that this machine can run."""
    order = ["generic", "avx2", "avx512", "avx512_vnni", "avx512_bf16"]
    return [Target("cpu", isa, 2) for isa in order[: order.index(best_isa()) + 1]]


@cache
def _function(kernel: Kernel, target: Target) -> Callable[..., None]:
    """The compiled kernel; its library stays loaded."""
    file = os.memfd_create("kernel")
    os.write(file, build_library([kernel], target))
    library = ctypes.CDLL(f"/proc/self/fd/{file}")
    address = (ctypes.c_void_p * 1).in_dll(library, "ullage_kernels")[0]
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_long, ctypes.c_long)(address)


def run_kernel(
    kernel: Kernel,
    target: Target,
    tensors: Mapping[str, torch.Tensor],
    dims: Mapping[str, int],
    cuts: Sequence[int] = (),
) -> None:
    """Run all tasks, cut into ranges at `cuts`, the last range first; fails if the workspace is overrun."""
    function = _function(kernel, target)
    count, workspace_bytes = kernel.tasks.evaluate(dims), kernel.thread_bytes.evaluate(dims)
    memory = torch.full((workspace_bytes + 192,), _GUARD, dtype=torch.uint8)
    start = (memory.data_ptr() + 127) // 64 * 64 - memory.data_ptr()
    pointers = (ctypes.c_void_p * len(kernel.buffers))(*[tensors[name].data_ptr() for name in kernel.buffers])
    integers = (ctypes.c_long * (len(kernel.dims) + 2))(*[dims[name] for name in kernel.dims], 0, 1)
    args = _Args(ctypes.addressof(pointers), ctypes.addressof(integers), 0, memory.data_ptr() + start)
    edges = [0, *(c for c in cuts if 0 < c < count), count]
    for begin, end in reversed(list(pairwise(edges))):
        memory[start : start + workspace_bytes] = 0xFF
        function(ctypes.addressof(args), begin, end)
    outside = torch.cat([memory[:start], memory[start + workspace_bytes :]])
    assert bool((outside == _GUARD).all()), "the kernel wrote outside its workspace"
