"""The compiler driver: finding compilers, errors, sharing objects, the cache."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from random import Random

import pytest

from tests.codegen.cpp.loop_runner import ISAS, Bare, assert_close, run_emitted, run_truth, target
from tests.codegen.cpp.random_kernels import random_case
from ullage.codegen.cache import Cache
from ullage.codegen.cpp import toolchain
from ullage.codegen.cpp.emit import emit
from ullage.codegen.cpp.toolchain import build_library, compile_objects, find_compiler, link_shared, native_sources
from ullage.codegen.kernel import Kernel
from ullage.errors import ToolchainError
from ullage.plan.sizes import Size
from ullage.runtime.library import Library

GENERIC = target("generic")


def trivial(name: str, value: int) -> Kernel:
    text = f'extern "C" void {name}(const UllageArgs *args, ull_i64, ull_i64) {{ *(int *)args->p[0] = {value}; }}\n'
    return Kernel(name, text, ("simd.h",), ("y",), (), Size((1,)))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_missing_compiler_is_one_line_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=r"no C\+\+ compiler found; install g\+\+") as caught:
        find_compiler({"PATH": str(tmp_path)})
    assert "\n" not in str(caught.value)
    with pytest.raises(ToolchainError, match="'nothing-here' does not exist"):
        find_compiler({"CXX": "nothing-here", "PATH": os.environ["PATH"]})


@pytest.mark.parametrize("version", ["g++ (Debian 10.2.1-6) 10.2.1 20210110", "Debian clang version 14.0.6"])
def test_an_old_compiler_is_refused_with_what_would_do(version: str, tmp_path: Path) -> None:
    program = tmp_path / "old"
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
    with pytest.raises(ToolchainError, match=r"too old, version 1[26] is the least"):
        find_compiler({"CXX": str(program), "PATH": os.environ["PATH"]})


def test_cxx_may_hold_flags() -> None:
    found = find_compiler({"CXX": "g++ -pipe", "PATH": os.environ["PATH"]})
    assert found.command[1:] == ("-pipe",) and "g++" in found.command[0]


def test_a_compile_error_names_the_kernels_and_shows_the_complaint() -> None:
    broken = Kernel("broken", "nonsense;\n", (), (), (), Size((1,)))
    with pytest.raises(ToolchainError, match=r"(?s)kernels broken failed.*nonsense"):
        compile_objects([broken], GENERIC)


def test_kernels_stand_in_plan_order_with_repetitions(cache: Cache) -> None:
    a, b = trivial("k_a", 1), trivial("k_b", 2)
    kernels = Bare(build_library([b, a, b], GENERIC, cache=cache)).kernels
    assert len(kernels) == 3 and kernels[0] == kernels[2] != kernels[1]


def test_a_kernel_without_object_cannot_be_linked() -> None:
    with pytest.raises(ToolchainError, match="kernels without an object: k_b"):
        link_shared(compile_objects([trivial("k_a", 1)], GENERIC), ["k_a", "k_b"], GENERIC)


def test_only_new_kernels_are_compiled(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    real = toolchain._compile_text
    monkeypatch.setattr(
        toolchain, "_compile_text", lambda t, c, f, what: (compiled.append(what), real(t, c, f, what))[1]
    )
    build_library([trivial("k_a", 1), trivial("k_b", 2)], GENERIC, cache=cache)
    compiled.clear()
    again = build_library([trivial("k_b", 2), trivial("k_c", 3), trivial("k_a", 1)], GENERIC, cache=cache)
    assert [w for w in compiled if w != "the table of kernels"] == ["kernels k_c"]
    assert len(set(Bare(again).kernels)) == 3


def test_a_changed_text_flag_or_target_is_another_entry(cache: Cache) -> None:
    first = compile_objects([trivial("k_a", 1)], GENERIC, cache)
    assert compile_objects([trivial("k_a", 1)], GENERIC, cache) == first
    assert compile_objects([trivial("k_a", 7)], GENERIC, cache) != first
    count = sum(1 for _ in cache.directory.glob("??/*"))
    compile_objects([trivial("k_a", 1)], GENERIC, cache, flags=("-O1",))
    compile_objects([trivial("k_a", 1)], target("avx2"), cache)
    assert sum(1 for _ in cache.directory.glob("??/*")) == count + 4


def test_the_executor_links_with_no_standard_library_of_cpp(cache: Cache, tmp_path: Path) -> None:
    code = build_library([trivial("k_a", 1)], GENERIC, native_sources(), cache)
    assert b"libstdc++" not in code and b"libc.so" in code
    library = Library(code)
    assert len(library.kernels()) == 1
    library.close()
    assert build_library([trivial("k_a", 1)], GENERIC, native_sources(), cache) == code
    assert len(code) < 64 * 1024


def test_the_compiler_of_zig_gives_the_same_results() -> None:
    pytest.importorskip("ziglang")
    zig = find_compiler({"CXX": f"{sys.executable} -m ziglang c++", "PATH": os.environ["PATH"]})
    for isa in ISAS:
        cases = [random_case(Random(seed)) for seed in (1, 2, 5)]
        kernels = [emit(case.kernel, target(isa)) for case in cases]
        objects = compile_objects(kernels, target(isa), compiler=zig)
        loaded = Bare(link_shared(objects, [k.symbol for k in kernels], target(isa), compiler=zig))
        for case, kernel, address in zip(cases, kernels, loaded.kernels, strict=True):
            assert_close(case, run_emitted(case, address, kernel), run_truth(case, precise=False), isa)
