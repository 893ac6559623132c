"""pyproject.toml lists every package folder, and every file that is no Python is shipped on purpose."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from tests.packaging.sources import FOLDERS, ROOT, SETUP, import_name, source_files


def test_every_folder_with_python_files_is_a_listed_package() -> None:
    found = {import_name(path.parent / "__init__.py") for path in source_files()}
    assert found == set(SETUP["packages"])


def test_every_package_has_an_init_file() -> None:
    without = {path.parent for path in source_files() if not (path.parent / "__init__.py").exists()}
    assert not without


def shipped(path: Path) -> bool:
    """Whether some package-data pattern covers the file."""
    folders = {name: ROOT / _folder(name) for name in SETUP["package-data"]}
    return any(
        fnmatch(path.relative_to(folder).as_posix(), pattern)
        for name, folder in folders.items()
        if path.is_relative_to(folder)
        for pattern in SETUP["package-data"][name]
    )


def _folder(package: str) -> str:
    base = max((name for name in FOLDERS.values() if (package + ".").startswith(name + ".")), key=len)
    folder = SETUP["package-dir"][base]
    return "/".join([folder, *package.removeprefix(base).strip(".").split(".")]).rstrip("/")


def test_every_other_file_is_package_data() -> None:
    others = [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    ]
    assert [str(path.relative_to(ROOT)) for path in others if not shipped(path)] == []


def test_the_licence_is_the_full_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
