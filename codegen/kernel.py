"""What code generation hands on: one emitted kernel, its call contract and its needs.

Call contract (C++): `extern "C" void SYMBOL(const UllageArgs *args, int64_t begin, int64_t end)` runs the tasks
`begin..end` of one launch. `args->p[i]` are the kernel's buffers in order (locals left out), `args->n[i]` its run-time
integers in order (`dims`, then for tiled kernels `first_tile` and `tile_count`), `args->shared` the launch's workspace
(zero when the launch begins), `args->thread` this thread's workspace. Tasks run in any order, on any thread. A kernel
allocates nothing and calls nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from ullage.plan.sizes import ZERO_SIZE, Size


@dataclass(frozen=True, slots=True)
class Kernel:
    """One function of generated code; equal kernels have equal symbols (the hash of their text)."""

    symbol: str
    source: str
    headers: tuple[str, ...]
    buffers: tuple[str, ...]
    dims: tuple[str, ...]
    tasks: Size
    """Tasks of a launch; of a tiled kernel: tasks per weight tile (a launch over `c` tiles has `c * tasks`)."""
    tiled: bool = False
    features: frozenset[str] = frozenset()
    """CPU features (names of /proc/cpuinfo) that it needs beyond those of its target."""
    shared_bytes: Size = ZERO_SIZE
    thread_bytes: Size = ZERO_SIZE
