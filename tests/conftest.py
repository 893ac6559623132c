"""Guards that hold for every test run."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

FOLDERS = ("compiler", "frontends", "passes", "codegen", "runtime")


def second_copies() -> list[str]:
    """Modules that were imported by their folder's name, beside the copy under `ullage`."""
    return sorted(name for name in sys.modules if name.split(".")[0] in FOLDERS)


@pytest.fixture(scope="session", autouse=True)
def one_copy_of_every_package() -> Iterator[None]:
    """The repository root is on sys.path, so `import compiler` would work and make a second set of classes."""
    yield
    assert not second_copies(), f"import these through ullage.*: {second_copies()}"
