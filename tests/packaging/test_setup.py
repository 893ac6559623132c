"""What a checkout needs before anything runs: the Makefile, the environment check, the stubs for type checkers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.sources import ROOT, import_name, source_files


def test_the_ci_entry_runs_make_test() -> None:
    entry = ROOT / ".ci" / "run"
    assert os.access(entry, os.X_OK)
    assert entry.read_text().splitlines()[-1] == "exec make test"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
@pytest.mark.parametrize("target", ["demo", "test", "lint", "sanitize", "zoo", "bench", "venv"])
def test_the_makefile_knows_its_targets(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_environment(*arguments: str, isolated: bool) -> subprocess.CompletedProcess[str]:
    """Run the environment check, with or without the packages and programs of this environment."""
    command = [sys.executable, *(("-I", "-S") if isolated else ()), "scripts/check_environment.py", *arguments]
    env = {"PATH": ""} if isolated else None
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)


def test_a_missing_compiler_is_one_line_with_a_remedy() -> None:
    done = check_environment("--compiler", isolated=True)
    assert done.returncode == 1
    assert done.stderr.startswith("ullage: error: no C++ compiler")
    assert "toolchain" in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_sanitizers_are_named_in_a_line_each() -> None:
    done = check_environment("--sanitizers", isolated=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "ullage: error: g++ is missing: install g++",
        "ullage: error: valgrind is missing: install valgrind",
    ]


def test_missing_packages_are_named_by_group() -> None:
    done = check_environment("--packages", isolated=True)
    assert done.returncode == 1
    assert "packages for compile are missing: torch" in done.stderr


def test_this_environment_is_complete() -> None:
    assert check_environment("--compiler", isolated=False).returncode == 0


def test_every_module_gets_a_forwarding_stub(tmp_path: Path) -> None:
    code = f"import make_stubs, pathlib; make_stubs.OUT = pathlib.Path({str(tmp_path)!r}); make_stubs.main()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "scripts", check=True)
    for path in source_files():
        parts = import_name(path).split(".") + (["__init__"] if path.name == "__init__.py" else [])
        stub = tmp_path.joinpath(*parts).with_suffix(".pyi")
        assert stub.read_text().startswith("from "), stub
