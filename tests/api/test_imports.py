"""`import ullage` is light; every public name can be reached."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ullage


def modules_after(statement: str) -> set[str]:
    """Top-level modules loaded by a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_loads_neither_torch_nor_numpy() -> None:
    assert not modules_after("import ullage; ullage.BudgetTooSmall") & {"torch", "numpy", "typer", "rich", "scipy"}


def test_loading_artifacts_needs_no_torch() -> None:
    assert not modules_after("import ullage; ullage.load") & {"torch", "typer", "rich", "scipy", "triton"}


@pytest.mark.parametrize("name", [*ullage.__all__, "__version__"])
def test_public_names_resolve(name: str) -> None:
    assert getattr(ullage, name) is not None
    assert name in dir(ullage)


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        _ = ullage.frobnicate  # type: ignore[attr-defined]
