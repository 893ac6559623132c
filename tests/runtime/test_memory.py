"""What the runtime holds: counted before it exists, present from the start, and given back."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.handmade import (
    PAGE,
    ROOT,
    dynamic_plan,
    gather_plan,
    matrix,
    resident_dot_plan,
    shared_object,
    streamed_dot_plan,
    twice_plan,
    write,
)
from ullage.errors import UllageError
from ullage.plan.plan import Plan
from ullage.runtime.library import Library, code_bytes
from ullage.runtime.load import load
from ullage.runtime.memory import Region, present_bytes

PLANS = {
    "twice": (twice_plan(), []),
    "one thread": (twice_plan(threads=1), []),
    "large results": (twice_plan(300_000), []),
    "dynamic": (dynamic_plan(), []),
    "resident": (resident_dot_plan(64, 333), [matrix(64, 333)]),
    "streamed": (streamed_dot_plan(63, 333), [matrix(63, 333)]),
    "gathered": (gather_plan(100, 50, False, 8 * PAGE), [matrix(100, 50)]),
}
needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a plan for two threads holds less here")


def example(plan: Plan) -> list[np.ndarray]:
    dims = {d.name: d.maximum for d in plan.dimensions}
    return [np.zeros(t.shape_at(dims), t.dtype) for t in plan.inputs]


@needs_two_cpus
@pytest.mark.parametrize("name", PLANS)
def test_a_plan_counts_every_byte_that_is_held(tmp_path: Path, name: str) -> None:
    plan, weights = PLANS[name]
    with load(write(tmp_path / "a.ullage", plan, weights)) as runner:
        before = runner.measured_bytes()
        for _ in range(3):
            runner(*example(plan))
        assert before == runner.measured_bytes() == runner.stats()["peak_bytes"] == plan.peak_bytes
        held = {item.name: item.bytes for item in plan.held}
        assert runner.held_bytes() == {**held, "arena": plan.arena_bytes}


GROWTH = """
import os, re, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from ullage.runtime.load import load
def resident():
    return int(re.search(r"Rss:\\s*(\\d+)", Path("/proc/self/smaps_rollup").read_text())[1]) * 1024
inputs = [np.zeros(333, np.float32)]
def use():
    runner = load(sys.argv[2])
    for _ in range(3):
        runner(*inputs)
    return runner, runner.measured_bytes()
use()[0].close()  # the interpreter's own heap grows at the first use
before = resident()
runner, measured = use()
print(resident() - before, measured)
runner.close()
print(resident() - before)
"""


@needs_two_cpus
def test_the_process_grows_by_what_was_counted(tmp_path: Path) -> None:
    plan = resident_dot_plan(20_000, 333)
    path = write(tmp_path / "a.ullage", plan, [matrix(20_000, 333)])
    command = [sys.executable, "-c", GROWTH, str(ROOT), str(path)]
    grown, measured, left = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert measured == plan.peak_bytes
    assert abs(grown - plan.peak_bytes) < 0.02 * plan.peak_bytes
    assert left < 0.02 * plan.peak_bytes


COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/types.h>
static long count;
long allocations(void) { return __atomic_load_n(&count, __ATOMIC_RELAXED); }
#define COUNTED(result, name, parameters, arguments) \
    result name parameters { \
        static result (*next) parameters; \
        if (!next) next = dlsym(RTLD_NEXT, #name); \
        __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED); \
        return next arguments; \
    }
COUNTED(void *, malloc, (size_t n), (n))
COUNTED(void *, realloc, (void *p, size_t n), (p, n))
COUNTED(void *, mmap, (void *p, size_t n, int a, int b, int c, off_t d), (p, n, a, b, c, d))
COUNTED(int, munmap, (void *p, size_t n), (p, n))
"""

SILENT = """
import ctypes, resource, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from ullage.runtime.load import load
allocations = ctypes.CDLL(None).allocations
runner = load(sys.argv[2])
inputs = [np.zeros(333, np.float32)]
for _ in range(3):
    runner(*inputs)
run = runner._executor.run
assert allocations() > 100
counts = []
for _ in range(50):
    a, f = allocations(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    counts.append((allocations() - a, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - f))
print(max(n for n, _ in counts), sorted(faults for _, faults in counts)[25])
y = runner(*inputs)
a = allocations()
for _ in range(50):
    y = runner(*inputs)
print(allocations() - a)
"""


def test_a_run_allocates_nothing(tmp_path: Path) -> None:
    source, counter = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER)
    subprocess.run(["gcc", "-O1", "-fPIC", "-shared", "-o", counter, source, "-ldl"], check=True)
    path = write(tmp_path / "a.ullage", streamed_dot_plan(63, 333), [matrix(63, 333)])
    command = [sys.executable, "-c", SILENT, str(ROOT), str(path)]
    environment = {**os.environ, "LD_PRELOAD": str(counter)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    allocations, faults, in_python = map(int, done.stdout.split())
    assert allocations == 0 and faults == 0
    assert in_python <= 10


def open_things() -> tuple[int, int, int]:
    gc.collect()
    own = [line for line in Path("/proc/self/maps").read_text().splitlines() if "ullage" in line]
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), len(own)


def test_closing_gives_everything_back(tmp_path: Path) -> None:
    path = write(tmp_path / "s.ullage", streamed_dot_plan(63, 333), [matrix(63, 333)])
    x = matrix(1, 333)[0]
    before = open_things()
    for way in ("close", "with", "drop"):
        for _ in range(10):
            runner = load(path)
            runner(x)
            if way == "close":
                runner.close()
            elif way == "with":
                with runner:
                    pass
            del runner
        assert open_things() == before


def test_a_failed_load_gives_everything_back(tmp_path: Path) -> None:
    path = write(tmp_path / "r.ullage", resident_dot_plan(64, 333), [matrix(64, 333)])
    data = bytearray(path.read_bytes())
    data[PAGE + 100] ^= 1
    path.write_bytes(data)
    before = open_things()
    for _ in range(5):
        with pytest.raises(UllageError):
            load(path)
    assert open_things() == before


def test_results_outlive_the_runner(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ullage", twice_plan(300_000))
    y = load(path)(np.ones(300_000, np.float32))
    gc.collect()
    assert (y == 3).all()


def test_code_is_counted_as_it_is_held() -> None:
    library = Library(shared_object())
    try:
        assert library.measured_bytes() == pytest.approx(code_bytes(shared_object()), rel=0.02)
    finally:
        library.close()


def test_a_region_of_no_bytes_holds_none() -> None:
    region = Region(0, "a test")
    assert (region.bytes, present_bytes(region.address, PAGE)) == (0, 0)
    region.close()


def test_a_region_is_present_from_the_start() -> None:
    region = Region(5 * PAGE + 1, "a test")
    assert region.bytes == present_bytes(region.address, region.bytes) == 6 * PAGE
    region.close()


def test_a_plan_beyond_the_machine_is_refused(tmp_path: Path) -> None:
    plan = twice_plan()
    fields = {name: getattr(plan, name) for name in plan.__struct_fields__}
    path = write(tmp_path / "huge.ullage", Plan(**{**fields, "arena_bytes": 1 << 47}))
    with pytest.raises(UllageError, match="this machine has"):
        load(path)
