"""Guards that hold for every test run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
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


GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one switch that rewrites golden files instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` compares a text with `tests/golden/<name>.txt`, or writes it with --update-golden."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing; run pytest with --update-golden"
        assert text == path.read_text(), f"{path} differs; run pytest with --update-golden and look at the difference"

    return check
