"""Machines that tests build programs for: this one, and others through a cross compiler and an emulator."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """A C++ compiler for a machine, the command that runs its programs, and the packages that bring both."""

    name: str
    compiler: str
    emulator: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """What to install for it; nothing if all is there."""
        absent = [tool for tool in (self.compiler, *self.emulator[:1]) if shutil.which(tool) is None]
        return f"{' and '.join(absent)} missing: apt-get install {' '.join(self.packages)}" if absent else ""

    def build(self, program: Path, sources: Sequence[Path], flags: Sequence[str]) -> None:
        """Compile and link C++ sources to a program; any warning is an error."""
        words = [self.compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", *flags, *map(str, sources)]
        subprocess.run([*words, "-o", str(program)], check=True)

    def run(self, program: Path, arguments: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        command = [*self.emulator, str(program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


HOST = Machine("host", "g++", packages=("g++",))
AARCH64 = Machine(
    "aarch64",
    "aarch64-linux-gnu-g++",
    ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"),
    ("g++-aarch64-linux-gnu", "qemu-user"),
)
