"""An artifact runs where neither PyTorch nor the compiler's layers can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

FORBIDDEN = (
    "torch", "triton", "transformers", "scipy", "networkx", "sympy", "typer", "rich", "psutil", "onnx",
    "ullage.graph", "ullage.passes", "ullage.codegen", "ullage.frontends", "ullage.analysis", "ullage.driver",
)  # fmt: skip
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if any(name == f or name.startswith(f + ".") for f in {FORBIDDEN!r}):
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Blocker())
from ullage.cli import main
sys.exit(main(sys.argv[1:]))
"""


def lean(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an interpreter that has only the runtime."""
    return subprocess.run([sys.executable, "-c", BLOCKER, *arguments], capture_output=True, text=True, check=False)


def test_run_and_inspect_need_only_the_runtime(perceptron_artifact: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.ones((4, 256), np.float32))
    files = ["--input", str(tmp_path / "in.npz"), "--output", str(tmp_path / "out.npz")]
    done = lean("run", str(perceptron_artifact), *files)
    assert (done.returncode, done.stderr) == (0, "")
    with np.load(tmp_path / "out.npz") as outputs:
        assert len(outputs.files) == 2
    done = lean("inspect", str(perceptron_artifact), "--json")
    assert (done.returncode, done.stderr) == (0, "")


def test_other_commands_name_the_extra_that_they_need() -> None:
    done = lean("doctor")
    assert done.returncode == 2
    assert done.stderr.startswith("ullage: error: ")
    assert "ullage[compile]" in done.stderr
