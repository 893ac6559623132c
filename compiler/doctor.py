"""What this machine offers: cores, instruction sets, memory and its limit, measured rates, compilers, GPUs."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ullage.budget import format_bytes, free_bytes, limit_bytes
from ullage.cgroups import cpu_quota
from ullage.scratch import cache_folder, disk_folder
from ullage.target import available_threads, best_isa, host_features

_READ_BYTES = 256 << 20
_FILE_BYTES = 256 << 20
_BLOCK_BYTES = 16 << 20
_ISA_NAMES = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "f16c")
_COMPILERS = ("g++", "clang++", "c++")


def machine(fresh: bool = False) -> dict[str, Any]:
    """Everything that `ullage doctor --json` prints; rates are measured once per machine, or again if `fresh`."""
    features = host_features()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": available_threads(),
        "cpu_quota": cpu_quota(),
        "isa": best_isa(),
        "instruction_sets": [name for name in _ISA_NAMES if name in features],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "memory_free_bytes": free_bytes(),
        "cgroup_limit_bytes": limit_bytes(),
        "rates": rates(fresh),
        "compilers": compilers(),
        "gpus": gpus(),
        "packages": packages(),
        "cache_folder": str(cache_folder()),
    }


def cpu_name() -> str:
    """The processor's model, as the system names it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def rates_file() -> Path:
    """Where measured rates are kept."""
    return cache_folder() / "rates.json"


def rates_key() -> str:
    """What measured rates belong to: machine, processor and number of threads."""
    return f"{platform.node()} {cpu_name()} {available_threads()}"


def rates(fresh: bool = False) -> dict[str, float]:
    """Measured rates: float32 operations, memory reads (all threads), disk reads (O_DIRECT) and their latency."""
    path, key = rates_file(), rates_key()
    known: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    if fresh or key not in known:
        known[key] = _measure_rates()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known))
    return known[key]


def _measure_rates() -> dict[str, float]:
    disk_bytes_per_s, disk_latency_s = disk_rates(disk_folder())
    return {
        "flops_per_s": flops_per_s(),
        "memory_bytes_per_s": memory_bytes_per_s(available_threads()),
        "disk_bytes_per_s": disk_bytes_per_s,
        "disk_latency_s": disk_latency_s,
    }


def flops_per_s(size: int = 1024) -> float:
    """float32 operations per second of numpy's matrix product, best of eight: a floor for what the cores can do."""
    left = np.ones((size, size), np.float32)
    right, out = left.copy(), np.empty_like(left)
    return 2 * size**3 / min(_seconds(lambda: np.matmul(left, right, out=out)) for _ in range(8))


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def memory_bytes_per_s(threads: int) -> float:
    """The best of five passes of `threads` threads that each sum their own half of a buffer larger than any cache."""
    data = np.ones(_READ_BYTES // 8)
    parts = np.array_split(data, threads)
    seconds = min(_timed_pass(parts) for _ in range(5))
    return _READ_BYTES / seconds


def _timed_pass(parts: list[Any]) -> float:
    workers = [threading.Thread(target=part.max) for part in parts]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


def disk_rates(folder: Path) -> tuple[float, float]:
    """Bytes per second in large blocks and seconds per page of a fresh file; buffered where O_DIRECT is refused."""
    path = folder / f"ullage-rate-{os.getpid()}"
    try:
        with path.open("wb") as file:
            block = os.urandom(1 << 20) * (_BLOCK_BYTES >> 20)
            for _ in range(_FILE_BYTES // _BLOCK_BYTES):
                file.write(block)
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return read_bytes_per_s(path), statistics.median(_read_seconds(path, mmap.PAGESIZE, 64))
    finally:
        path.unlink(missing_ok=True)


def read_bytes_per_s(path: Path) -> float:
    """Bytes per second of one pass over a file in large blocks, one after the other."""
    count = path.stat().st_size // _BLOCK_BYTES
    return count * _BLOCK_BYTES / sum(_read_seconds(path, _BLOCK_BYTES, count))


def _read_seconds(path: Path, size: int, count: int) -> list[float]:
    """Seconds of `count` reads of `size` bytes, spread evenly over the file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        handle = os.open(path, os.O_RDONLY)
    stride = path.stat().st_size // count // mmap.PAGESIZE * mmap.PAGESIZE
    try:
        with mmap.mmap(-1, size) as block:
            return [_seconds(partial(os.preadv, handle, [block], index * stride)) for index in range(count)]
    finally:
        os.close(handle)


def compilers() -> dict[str, str]:
    """C++ compilers found, with the first line of their version."""
    found = {name: shutil.which(name) for name in _COMPILERS}
    lines = {name: _first_line([path, "--version"]) for name, path in found.items() if path}
    return lines | ({"zig": "python -m ziglang"} if _importable("ziglang") else {})


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["unknown version"])[0]


def _importable(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def gpus() -> list[str]:
    """Names of NVIDIA GPUs as the driver library gives them; empty without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    names = []
    for index in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, 128, device)
        names.append(name.value.decode())
    return names


def packages() -> dict[str, str | None]:
    """Versions of the packages that extend what Ullage can do; None where one is missing."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in ("torch", "transformers", "onnx-ir", "onnxruntime", "openvino", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def as_text(facts: dict[str, Any]) -> str:
    """The facts for people, one per line."""
    limit, quota = facts["cgroup_limit_bytes"], facts["cpu_quota"]
    missing = [name for name, version in facts["packages"].items() if version is None]
    present = [f"{name} {version}" for name, version in facts["packages"].items() if version is not None]
    lines = [
        f"system       {facts['system']}",
        f"cpu          {facts['cpu']}: {facts['cores']} cores, {facts['threads']} threads, "
        f"control group quota {f'{quota:.4g} CPUs' if quota is not None else 'none'}, code for {facts['isa']}",
        f"instructions {', '.join(facts['instruction_sets']) or 'none that Ullage uses'}",
        f"memory       {format_bytes(facts['memory_bytes'])}, {format_bytes(facts['memory_free_bytes'])} free, "
        f"control group limit {format_bytes(limit) if limit is not None else 'none'}",
        f"rates        {rates_text(facts['rates'])}",
        f"compilers    {', '.join(f'{k} ({v})' for k, v in facts['compilers'].items()) or 'none: install g++'}",
        f"gpus         {', '.join(facts['gpus']) or 'none'}",
        f"packages     {', '.join(present)}{'; missing: ' + ', '.join(missing) if missing else ''}",
        f"cache        {facts['cache_folder']}",
    ]
    return "\n".join(lines)


def rates_text(measured: dict[str, float]) -> str:
    """The measured rates for people."""
    return (
        f"{measured['flops_per_s'] / 1e9:.0f} GFLOP/s, memory {measured['memory_bytes_per_s'] / 1e9:.1f} GB/s, "
        f"disk {measured['disk_bytes_per_s'] / 1e9:.2f} GB/s after {measured['disk_latency_s'] * 1e6:.0f} µs"
    )
