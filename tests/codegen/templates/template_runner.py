"""Compiles a template kernel with g++ and runs ranges of its tasks on torch tensors, with a guarded workspace."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch

import ullage.codegen.cpp as cpp
from ullage.codegen.kernel import Kernel
from ullage.target import Target, best_isa

_ABI = """typedef long ull_i64;
struct UllageArgs { void *const *p; const ull_i64 *n; void *shared; void *thread; };
"""
_GUARD = 0x5A


class _Args(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("p", "n", "shared", "thread")]


def host_targets() -> list[Target]:
    """The CPU targets that this machine can run."""
    order = ["generic", "avx2", "avx512"]
    return [Target("cpu", isa, 2) for isa in order[: order.index(best_isa()) + 1]]


@cache
def _library(source: str, headers: tuple[str, ...], flags: tuple[str, ...]) -> ctypes.CDLL:
    include = Path(next(iter(cpp.__path__))) / "include"
    text = _ABI + "".join(f'#include "{name}"\n' for name in headers) + source
    folder = Path(tempfile.mkdtemp(prefix="ullage-template-"))
    name = folder / f"{hashlib.sha1(text.encode()).hexdigest()}.cpp"
    name.write_text(text)
    command = ["g++", "-O2", "-std=c++17", "-fPIC", "-shared", "-w", *flags, f"-I{include}", str(name)]
    subprocess.run([*command, "-o", f"{name}.so"], check=True)
    return ctypes.CDLL(f"{name}.so")


def run_kernel(
    kernel: Kernel,
    target: Target,
    tensors: Mapping[str, torch.Tensor],
    dims: Mapping[str, int],
    cuts: Sequence[int] = (),
) -> None:
    """Run all tasks, cut into ranges at `cuts`, the last range first; fails if the workspace is overrun."""
    library = _library(kernel.source, kernel.headers, target.compiler_flags)
    count, workspace_bytes = kernel.tasks.evaluate(dims), kernel.thread_bytes.evaluate(dims)
    memory = torch.full((workspace_bytes + 192,), _GUARD, dtype=torch.uint8)
    start = (memory.data_ptr() + 127) // 64 * 64 - memory.data_ptr()
    pointers = (ctypes.c_void_p * len(kernel.buffers))(*[tensors[name].data_ptr() for name in kernel.buffers])
    integers = (ctypes.c_long * (len(kernel.dims) + 2))(*[dims[name] for name in kernel.dims], 0, 1)
    args = _Args(ctypes.addressof(pointers), ctypes.addressof(integers), 0, memory.data_ptr() + start)
    edges = [0, *(c for c in cuts if 0 < c < count), count]
    for begin, end in reversed(list(pairwise(edges))):
        memory[start : start + workspace_bytes] = 0xFF
        getattr(library, kernel.symbol)(ctypes.byref(args), ctypes.c_long(begin), ctypes.c_long(end))
    outside = torch.cat([memory[:start], memory[start + workspace_bytes :]])
    assert bool((outside == _GUARD).all()), "the kernel wrote outside its workspace"
