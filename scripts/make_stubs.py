"""Write `typings/ullage/**.pyi`: stubs that forward each import name to the folder that holds its source.

The packages live in folders of other names (`ullage.passes` in `passes/`), which an editable install maps at run time
but type checkers cannot follow. Each stub says `from FOLDER.module import *`, so every class is checked once, in place.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "typings"


def package_folders() -> dict[str, Path]:
    """Import name → source folder of every package listed in pyproject.toml."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    mapping: dict[str, str] = setup["package-dir"]
    return {name: ROOT / _folder(name, mapping) for name in setup["packages"]}


def _folder(package: str, mapping: dict[str, str]) -> Path:
    parts = package.split(".")
    for cut in range(len(parts), 0, -1):
        base = mapping.get(".".join(parts[:cut]))
        if base is not None:
            return Path(base, *parts[cut:])
    raise SystemExit(f"ullage: error: package-dir in pyproject.toml does not map {package}.")


def write_stub(package: str, source: Path) -> Path:
    """Write the stub of one module; returns its path."""
    target = OUT.joinpath(*package.split("."), source.name).with_suffix(".pyi")
    target.parent.mkdir(parents=True, exist_ok=True)
    module = ".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    target.write_text(f"from {module} import *\n")
    return target


def main() -> int:
    """Replace `typings/` by fresh stubs."""
    shutil.rmtree(OUT, ignore_errors=True)
    for package, folder in package_folders().items():
        for source in sorted(folder.glob("*.py")):
            write_stub(package, source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
