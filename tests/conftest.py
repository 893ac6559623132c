"""Guards that hold for every test run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def perceptron_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The perceptron of `tests.small_models`, compiled at its least budget, so that it streams."""
    import ullage
    from tests.small_models import perceptron

    model, inputs = perceptron()
    least = ullage.minimum_budget(model, inputs)
    path = tmp_path_factory.mktemp("artifact") / "perceptron.ullage"
    compiled = ullage.compile(model, inputs, budget=least)
    compiled.save(path)
    compiled.close()
    return path
