"""The C++ compiler that a conversion finds: the one of Zig where there is no other, one line where there is none."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.packaging.sources import ROOT
from tests.small_models import perceptron

FACTORY = "tests.small_models:perceptron"


def ullage(folder: Path, *arguments: object, zig: bool) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing on PATH and an empty cache in `folder`, with or without the package ziglang."""
    hidden = "" if zig else "sys.modules['ziglang'] = None; "
    code = f"import sys; {hidden}from ullage.cli import main; sys.exit(main())"
    (folder / "bin").mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if k != "CXX"}
    env |= {"PATH": str(folder / "bin"), "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=env)


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang, the extra `toolchain`, is missing")
def test_the_compiler_of_zig_is_enough(tmp_path: Path) -> None:
    model, (x,) = perceptron()
    expected = model(x)["hidden"].numpy()
    np.savez(tmp_path / "in.npz", x=x.numpy())
    made = ullage(tmp_path, "convert", FACTORY, "-o", "m.ullage", "--budget", "1MiB", zig=True)
    assert (made.returncode, made.stderr) == (0, "")
    done = ullage(tmp_path, "run", "m.ullage", "--input", "in.npz", "--output", "out.npz", zig=False)
    assert (done.returncode, done.stderr) == (0, "")
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["hidden"], expected, rtol=1e-5, atol=1e-6)


def test_no_compiler_is_one_line_with_what_to_install(tmp_path: Path) -> None:
    done = ullage(tmp_path, "convert", FACTORY, "-o", "m.ullage", "--budget", "1MiB", zig=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ullage: error: no C++ compiler found; install g++")
    assert "ullage[toolchain]" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "m.ullage").exists()
