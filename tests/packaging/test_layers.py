"""Imports follow the table of layers in docs/design.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.sources import ROOT, import_name, imported_modules, source_files

ALLOWED: dict[str, tuple[str, ...]] = {
    "ullage.errors": (),
    "ullage.cgroups": (),
    "ullage.target": ("ullage.cgroups", "ullage.errors"),
    "ullage.budget": ("ullage.cgroups", "ullage.errors"),
    "ullage.artifact": ("ullage.errors", "ullage.plan", "ullage.target"),
    "ullage.plan": ("ullage.errors",),
    "ullage.graph": ("ullage.errors", "ullage.target"),
    "ullage.analysis": ("ullage.errors", "ullage.target"),
    "ullage.frontends.dynamo": ("ullage.errors", "ullage.graph", "ullage.frontends", "ullage.api"),
    "ullage.frontends": ("ullage.errors", "ullage.graph"),
    "ullage.passes": ("ullage.errors", "ullage.graph", "ullage.analysis", "ullage.plan", "ullage.target"),
    "ullage.codegen.tune": (
        "ullage.errors", "ullage.analysis", "ullage.plan", "ullage.target", "ullage.codegen", "ullage.runtime",
    ),
    "ullage.codegen": (
        "ullage.errors", "ullage.graph", "ullage.analysis", "ullage.plan", "ullage.target", "ullage.runtime.native",
    ),
    "ullage.runtime": ("ullage.errors", "ullage.plan", "ullage.artifact", "ullage.budget", "ullage.target"),
}  # fmt: skip
"""Layer → what it may import of ours beside itself; the front door (every other `ullage.*`) may import all."""

LEAN = ("torch", "triton", "onnxruntime", "transformers", "scipy", "networkx", "sympy", "typer", "rich", "psutil")


def layer(module: str) -> str | None:
    """The row of the table that a module belongs to; None for the front door."""
    return next((name for name in ALLOWED if module == name or module.startswith(name + ".")), None)


def within(module: str, names: tuple[str, ...]) -> bool:
    """Whether the module is one of the names or below one of them."""
    return any(module == name or module.startswith(name + ".") for name in names)


def modules_of_ours() -> frozenset[str]:
    """Import names of all source files."""
    return frozenset(import_name(path) for path in source_files())


def forbidden(path: Path) -> list[str]:
    """Imports of ours in a file that its layer does not allow."""
    own = layer(import_name(path))
    if own is None:
        return []
    known = modules_of_ours()
    used = {name for name in imported_modules(path) if name in known and name != "ullage"}
    packages = {name for name in used if any(other.startswith(name + ".") for other in used)}
    return sorted(name for name in used - packages if not within(name, (own, *ALLOWED[own])))


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stay_inside_the_table(path: Path) -> None:
    assert forbidden(path) == []


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_our_packages_are_imported_under_their_own_name(path: Path) -> None:
    folders = ("compiler", "frontends", "passes", "codegen", "runtime", "tests", "benchmarks")
    assert [name for name in imported_modules(path) if name.split(".")[0] in folders] == []


def lean_files() -> list[Path]:
    """Files that `ullage run` may load."""
    lean = ("ullage.runtime", "ullage.plan", "ullage.errors", "ullage.cgroups", "ullage.target", "ullage.budget",
            "ullage.artifact")  # fmt: skip
    return [path for path in source_files() if within(import_name(path), lean)]


@pytest.mark.parametrize("path", lean_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_lean_side_imports_nothing_heavy(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imported_modules(path, at_import_time=True)} & set(LEAN)
    assert heavy == set()
