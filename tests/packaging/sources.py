"""What the packaging tests know about the source tree: folders, import names, imports."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS: dict[str, str] = {folder: name for name, folder in SETUP["package-dir"].items()}


def import_name(path: Path) -> str:
    """The import name of a source file: `passes/clean/x.py` is `ullage.passes.clean.x`."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in rest if part != "__init__")])


def source_files() -> list[Path]:
    """Every Python file of every package."""
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imported_modules(path: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """Absolute names that a file imports; `from a.b import c` gives both `a.b` and `a.b.c`."""
    tree = ast.parse(path.read_text())
    for node in _eager_nodes(tree) if at_import_time else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _eager_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _eager_nodes(child)
