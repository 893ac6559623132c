"""From kernel text to one shared object: finding a compiler, compiling many kernels per file, linking, caching.

Objects are cached per file of kernels, with an index from each kernel to the object that holds it, so that a model
that shares kernels with an earlier one compiles only what is new.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache as memoised
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from ullage.codegen.cache import Cache, key_of
from ullage.codegen.kernel import Kernel
from ullage.errors import ToolchainError
from ullage.target import Target

INCLUDE = Path(__file__).parent / "include"
KERNEL_FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fno-rtti", "-ffp-contract=fast", "-fno-math-errno",
    "-fno-trapping-math", "-fwrapv", "-fno-strict-aliasing", "-fvisibility=hidden", "-ffunction-sections",
    "-fdata-sections", "-fno-asynchronous-unwind-tables", "-fno-stack-protector", "-Wno-psabi",
)  # fmt: skip
NATIVE_FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-fvisibility=hidden",
    "-ffunction-sections", "-fdata-sections", "-fno-asynchronous-unwind-tables", "-fno-stack-protector",
)  # fmt: skip
LINK_FLAGS = (
    "-shared", "-nodefaultlibs", "-Wl,--gc-sections", "-Wl,--as-needed", "-Wl,-Bsymbolic", "-Wl,-z,noseparate-code",
    "-Wl,--build-id=none", "-Wl,--hash-style=gnu", "-s",
)  # fmt: skip
ZIG_LINK_FLAGS = ("-shared", "-nostdlib++", "-Wl,--gc-sections", "-s")
LINK_LIBRARIES = ("-lm", "-lpthread", "-lc", "-lgcc")
KERNELS_PER_FILE = 24
PARALLEL_COMPILERS = 2
_REMEDY = "install g++ or clang++, set CXX, or `pip install 'ullage[toolchain]'`"
_ERROR_LINES = 12
_LEAST_VERSIONS = ((r"clang version (\d+)", 16), (r"^(?:g\+\+|gcc|c\+\+)\S* \(.*\) (\d+)\.", 12))
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler: the words of its command and its version line."""

    command: tuple[str, ...]
    version: str

    @property
    def is_zig(self) -> bool:
        """Whether it is the compiler of Zig, which targets the building machine unless told otherwise."""
        return self.command[1:3] == ("-m", "ziglang")

    def instruction_set(self, target: Target) -> tuple[str, ...]:
        """Flags that allow exactly the instructions of a target."""
        if not self.is_zig:
            return target.compiler_flags
        features = (f.removeprefix("-m") for f in target.compiler_flags if f.startswith("-m"))
        others = (f for f in target.compiler_flags if not f.startswith("-m"))
        return ("-mcpu=" + "+".join(("baseline", *features)), *others)

    @property
    def link_flags(self) -> tuple[str, ...]:
        """Flags for a small shared object."""
        return ZIG_LINK_FLAGS if self.is_zig else LINK_FLAGS


@dataclass(frozen=True, slots=True)
class Object:
    """An object file and the kernels that it defines."""

    symbols: frozenset[str]
    data: bytes


def find_compiler(environment: Mapping[str, str] | None = None) -> Compiler:
    """`$CXX`, g++, clang++, or the one of the ziglang package; raises ToolchainError if there is none."""
    env = os.environ if environment is None else environment
    if chosen := env.get("CXX"):
        return _known(tuple(chosen.split()), env.get("PATH"))
    for name in ("g++", "clang++"):
        if shutil.which(name, path=env.get("PATH")):
            return _known((name,), env.get("PATH"))
    if importlib.util.find_spec("ziglang") is not None:
        return _known((sys.executable, "-m", "ziglang", "c++"), env.get("PATH"))
    raise ToolchainError(f"no C++ compiler found; {_REMEDY}.")


@memoised
def _known(command: tuple[str, ...], search: str | None) -> Compiler:
    program = shutil.which(command[0], path=search)
    if program is None:
        raise ToolchainError(f"the C++ compiler {' '.join(command)!r} does not exist; {_REMEDY}.")
    full = (program, *command[1:])
    result = _run([*full, "--version"], f"{' '.join(full)} does not run")
    version = result.splitlines()[0] if result else "unknown"
    for pattern, least in _LEAST_VERSIONS:
        if (match := re.search(pattern, version)) and int(match.group(1)) < least:
            raise ToolchainError(f"{version!r} is too old, version {least} is the least that works; {_REMEDY}.")
    return Compiler(full, version)


def compile_objects(
    kernels: Sequence[Kernel],
    target: Target,
    cache: Cache | None = None,
    flags: Sequence[str] = (),
    compiler: Compiler | None = None,
) -> tuple[Object, ...]:
    """Object files that define all kernels (each symbol once or more, weakly); raises ToolchainError.

    Their order does not depend on which of them were cached.
    """
    made = compiler or find_compiler()
    build = _Build(made, target, cache, (*KERNEL_FLAGS, *made.instruction_set(target), *flags))
    distinct = {k.symbol: k for k in kernels}
    found = {symbol: build.cached(k) for symbol, k in distinct.items()}
    missing = [k for k in distinct.values() if found[k.symbol] is None]
    compiled = _in_parallel(build.compile, _files(missing))
    known = {o.data: o for o in found.values() if o is not None}
    return tuple(sorted((*known.values(), *compiled), key=lambda o: sorted(o.symbols)))


def link_shared(
    objects: Sequence[Object],
    symbols: Sequence[str],
    target: Target,
    extra_sources: Sequence[Path] = (),
    cache: Cache | None = None,
    compiler: Compiler | None = None,
) -> bytes:
    """One stripped shared object: the kernels in a table in the order of `symbols`, and the extra C++ sources.

    It exports `ullage_kernels`, `ullage_kernel_names`, `ullage_kernel_count` and what the sources mark as visible.
    """
    absent = sorted(set(symbols) - frozenset[str]().union(*(o.symbols for o in objects)))
    if absent:
        raise ToolchainError(f"kernels without an object: {', '.join(absent)}; compile them first.")
    made = compiler or find_compiler()
    natives = _in_parallel(lambda path: _native_object(path, made, cache), list(extra_sources))
    table = _table_object(symbols, made)
    key = key_of(("link", *_identity(made), *made.link_flags, table, *natives, *(o.data for o in objects)))
    if cache is not None and (known := cache.get(key)) is not None:
        return known
    data = _link([table, *natives, *(o.data for o in objects)], made)
    if cache is not None:
        cache.put(key, data)
    return data


def build_library(
    kernels: Sequence[Kernel],
    target: Target,
    extra_sources: Sequence[Path] = (),
    cache: Cache | None = None,
    flags: Sequence[str] = (),
) -> bytes:
    """Compile and link kernels in plan order (equal ones once) together with the executor's sources."""
    objects = compile_objects(kernels, target, cache, flags)
    return link_shared(objects, [k.symbol for k in kernels], target, extra_sources, cache)


def native_sources() -> tuple[Path, ...]:
    """The C++ sources of the executor."""
    return tuple(sorted(Path(str(files("ullage.runtime.native"))).glob("*.cpp")))


# ---- compiling ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Build:
    """One configuration of the compiler; names cache entries."""

    compiler: Compiler
    target: Target
    cache: Cache | None
    flags: tuple[str, ...]

    def _key(self, kind: str, kernels: Sequence[Kernel]) -> str:
        texts = [part for k in kernels for part in (k.symbol, k.source)]
        headers = header_text([h for k in kernels for h in k.headers])
        return key_of((kind, *_identity(self.compiler), *self.flags, headers, *texts))

    def cached(self, kernel: Kernel) -> Object | None:
        """The object that holds a kernel, from the index."""
        if self.cache is None or (entry := self.cache.get(self._key("index", [kernel]))) is None:
            return None
        key, *symbols = entry.decode().split()
        data = self.cache.get(key)
        return None if data is None else Object(frozenset(symbols), data)

    def compile(self, kernels: Sequence[Kernel]) -> Object:
        """One object file of several kernels, entered into the cache."""
        symbols = sorted(k.symbol for k in kernels)
        data = _compile_text(translation_unit(kernels), self.compiler, self.flags, f"kernels {', '.join(symbols)}")
        if self.cache is not None:
            key = self._key("object", kernels)
            self.cache.put(key, data)
            for kernel in kernels:
                self.cache.put(self._key("index", [kernel]), " ".join((key, *symbols)).encode())
        return Object(frozenset(symbols), data)


def translation_unit(kernels: Sequence[Kernel]) -> str:
    """The text of a file with several kernels: headers once, then each kernel, weak and hidden."""
    parts = [header_text([h for k in kernels for h in k.headers])]
    for kernel in kernels:
        attributes = '__attribute__((weak, visibility("hidden")))'
        parts.append(f'extern "C" {attributes} void {kernel.symbol}(const UllageArgs *, ull_i64, ull_i64);\n')
        parts.append(kernel.source)
    return "".join(parts)


@memoised
def _headers_text(names: tuple[str, ...]) -> str:
    native = native_sources()[0].parent
    texts = [(native / "abi.h").read_text(), *(_expanded(name) for name in _with_includes(names))]
    return "".join(texts).replace("#pragma once\n", "")


_INCLUDED = re.compile(r'^#include "([^"]+)"\n', re.MULTILINE)


def _with_includes(names: Sequence[str]) -> tuple[str, ...]:
    """The headers and all that they include, each once, included ones first."""
    found: dict[str, None] = {}
    for name in names:
        included = _INCLUDED.findall((INCLUDE / name).read_text())
        found.update(dict.fromkeys((*_with_includes(included), name)))
    return tuple(found)


def _expanded(name: str) -> str:
    return _INCLUDED.sub("", (INCLUDE / name).read_text())


def header_text(names: Sequence[str]) -> str:
    """The calling contract and the named headers, each once, in the order of first mention."""
    return _headers_text(tuple(dict.fromkeys(names)))


def _files(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """Kernels shared out over files of about equal length of text."""
    if not kernels:
        return []
    count = max(min(PARALLEL_COMPILERS, len(kernels)), -(-len(kernels) // KERNELS_PER_FILE))
    files: list[list[Kernel]] = [[] for _ in range(count)]
    sizes = [0] * count
    for kernel in sorted(kernels, key=lambda k: (-len(k.source), k.symbol)):
        least = sizes.index(min(sizes))
        files[least].append(kernel)
        sizes[least] += len(kernel.source)
    return files


def _compile_text(text: str, compiler: Compiler, flags: Sequence[str], what: str) -> bytes:
    with TemporaryDirectory(prefix="ullage-") as folder:
        source, out = Path(folder) / "kernels.cpp", Path(folder) / "kernels.o"
        source.write_text(text)
        _run([*compiler.command, *flags, "-c", str(source), "-o", str(out)], f"compiling {what} failed")
        return out.read_bytes()


def _native_object(path: Path, compiler: Compiler, cache: Cache | None) -> bytes:
    """The object of one hand-written source; it depends on all headers of its folder."""
    headers = [part for h in sorted(path.parent.glob("*.h")) for part in (h.name, h.read_bytes())]
    key = key_of(("native", *_identity(compiler), *NATIVE_FLAGS, path.name, path.read_bytes(), *headers))
    if cache is not None and (known := cache.get(key)) is not None:
        return known
    with TemporaryDirectory(prefix="ullage-") as folder:
        out = Path(folder) / "native.o"
        command = [*compiler.command, *NATIVE_FLAGS, f"-I{path.parent}", "-c", str(path), "-o", str(out)]
        _run(command, f"compiling {path.name} failed")
        data = out.read_bytes()
    if cache is not None:
        cache.put(key, data)
    return data


# ---- linking --------------------------------------------------------------------------------------------------
def _table_object(symbols: Sequence[str], compiler: Compiler) -> bytes:
    visible = 'extern "C" __attribute__((visibility("default")))'
    lines = [header_text(())]
    lines += [f'extern "C" void {s}(const UllageArgs *, ull_i64, ull_i64);' for s in dict.fromkeys(symbols)]
    lines.append(f"{visible} const UllageKernel ullage_kernels[] = {{{', '.join((*symbols, '0'))}}};")
    names = ", ".join((*(f'"{s}"' for s in symbols), "0"))
    lines.append(f"{visible} const char *const ullage_kernel_names[] = {{{names}}};")
    lines.append(f"{visible} const ull_i64 ullage_kernel_count = {len(symbols)};")
    return _compile_text("\n".join(lines) + "\n", compiler, KERNEL_FLAGS, "the table of kernels")


def _link(objects: Sequence[bytes], compiler: Compiler) -> bytes:
    with TemporaryDirectory(prefix="ullage-") as folder:
        paths = []
        for i, data in enumerate(objects):
            paths.append(Path(folder) / f"{i}.o")
            paths[-1].write_bytes(data)
        out = Path(folder) / "library.so"
        _run(
            [*compiler.command, *compiler.link_flags, *map(str, paths), *LINK_LIBRARIES, "-o", str(out)],
            "linking failed",
        )
        return out.read_bytes()


# ---- running the compiler -------------------------------------------------------------------------------------
def _identity(compiler: Compiler) -> tuple[str, ...]:
    return (*compiler.command, compiler.version)


def _run(command: Sequence[str], what: str) -> str:
    """The standard output of a command; raises ToolchainError with the first lines of its complaints."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise ToolchainError(f"{what}: {error}; {_REMEDY}.") from error
    if result.returncode != 0:
        complaints = "\n".join((result.stderr or result.stdout).splitlines()[:_ERROR_LINES])
        raise ToolchainError(f"{what} (exit code {result.returncode}):\n{complaints}")
    return result.stdout


def _in_parallel(f: Callable[[T], R], items: Sequence[T]) -> list[R]:
    with ThreadPoolExecutor(PARALLEL_COMPILERS) as pool:
        return list(pool.map(f, items))
