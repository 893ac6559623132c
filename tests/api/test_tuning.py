"""`tune=` and `--tune`: what they take and refuse, what comes of choices, and that nothing else depends on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import ullage
from tests.small_models import perceptron
from ullage.cli import main
from ullage.cli_full import with_seconds
from ullage.codegen.kernel import Kernel
from ullage.codegen.tune import tuner
from ullage.codegen.tune.work import Work
from ullage.errors import InputError
from ullage.target import available_threads

MODEL = "tests.small_models:perceptron"


class Pretended:
    """In the place of measuring: the first candidate takes four fifths of the own tiling's time, others the same."""

    opened = 0

    def __init__(self, work: Work, kernels: Sequence[Kernel], *_: object) -> None:
        Pretended.opened += 1

    def rounds(self, order: Sequence[int], count: int) -> list[list[float]]:
        return [[0.8 if number == 1 else 1.0 for number in order]] * count

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a bench that takes no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tuner, "Stage", Pretended)
    Pretended.opened = 0


def compiled(**options: Any) -> Any:
    """The perceptron over 200 rows, so that there is something to choose."""
    torch.manual_seed(1)
    model, _ = perceptron()
    return ullage.compile(model, (torch.randn(200, 256),), **options)


def symbols(model: Any, path: Path) -> set[str]:
    """The kernels of a compiled model's artifact."""
    model.save(path)
    document = inspected(path)
    return set(document["kernels"])


def inspected(path: Path) -> dict[str, Any]:
    from ullage.artifact.reader import inspect

    return inspect(path)


def test_choices_are_measured_once_told_and_taken_again(tmp_path: Path) -> None:
    plain, first = compiled(), compiled(tune=60)
    opened = Pretended.opened
    again, stored = compiled(tune=60), compiled(tune=0)
    assert opened > 0 and Pretended.opened == opened
    kernels = [symbols(model, tmp_path / "m.ullage") for model in (plain, first, again, stored)]
    assert kernels[0] != kernels[1] == kernels[2] == kernels[3]
    assert "0.800 of its time" in first.explain() and f"({opened} measured now" in first.explain()
    assert "(0 measured now" in again.explain()
    assert "tuning" not in plain.explain()
    x = torch.randn(200, 256)
    assert torch.equal(first(x)["hidden"], plain(x)["hidden"])


def test_without_tune_nothing_depends_on_what_is_kept(tmp_path: Path) -> None:
    before = symbols(compiled(), tmp_path / "a.ullage")
    compiled(tune=60)
    assert symbols(compiled(), tmp_path / "b.ullage") == before
    assert inspected(tmp_path / "b.ullage")["tuning"] == []


def test_an_artifact_tells_its_choices(tmp_path: Path) -> None:
    compiled(tune=60).save(tmp_path / "m.ullage")
    tuning = inspected(tmp_path / "m.ullage")["tuning"]
    assert tuning and all(set(k) == {"kernel", "where", "launches", "choice", "ratio", "tried"} for k in tuning)
    assert any(k["choice"] != "default" and k["ratio"] == 0.8 for k in tuning)


def test_a_report_has_a_section(tmp_path: Path) -> None:
    compiled(tune=60).report(tmp_path / "page.html")
    assert "<h2>Tuning</h2>" in (tmp_path / "page.html").read_text()


def test_no_seconds_measure_nothing() -> None:
    assert "0 of 0 kernels" in compiled(tune=0).explain()
    assert Pretended.opened == 0


def test_progress_tells_what_is_tuned() -> None:
    stages: list[str] = []
    compiled(tune=60, progress=lambda stage, fraction: stages.append(stage))
    assert any(stage.startswith("tune 1 of ") for stage in stages)


@pytest.mark.parametrize("seconds", [-1, -0.001, float("nan"), float("inf"), True, "30"])
def test_seconds_that_are_none_are_refused(seconds: Any) -> None:
    with pytest.raises(InputError, match="tune must be a number of seconds"):
        ullage.compile(tune=seconds)


def test_a_target_that_this_machine_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ullage.options.host_features", frozenset)
    with pytest.raises(InputError, match="cannot run cpu:avx2"):
        ullage.compile(target="cpu:avx2", tune=0)
    ullage.compile(target="cpu:avx2")
    ullage.compile(target="cpu:generic", tune=1)


def test_more_threads_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match="are available"):
        ullage.compile(threads=available_threads() + 1, tune=1)
    ullage.compile(threads=available_threads() + 1)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["convert", "m", "--tune"], ["convert", "m", "--tune", "60"]),
        (["convert", "--tune", "m"], ["convert", "--tune", "60", "m"]),
        (["convert", "--tune", "--json"], ["convert", "--tune", "60", "--json"]),
        (["convert", "--tune", "5", "m"], ["convert", "--tune", "5", "m"]),
        (["convert", "--tune", "-5"], ["convert", "--tune", "-5"]),
        (["convert", "--tune=5"], ["convert", "--tune=5"]),
    ],
)
def test_tune_without_a_number_is_a_minute(given: list[str], meant: list[str]) -> None:
    assert with_seconds(given) == meant


def test_convert_tells_what_was_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.ullage"
    specs = ["--input", "x=float32[200,256]"]
    assert main(["convert", MODEL, "-o", str(path), *specs, "--tune"]) == 0
    assert "tuned " in capsys.readouterr().out
    assert main(["convert", MODEL, "-o", str(path), *specs, "--tune", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tuning"] == inspected(path)["tuning"] != []


def test_plan_tells_what_was_tuned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", MODEL, "--budget", "64MiB", "--tune", "60", "--json"]) == 0
    tuning = json.loads(capsys.readouterr().out)["tuning"]
    assert set(tuning) == {"seconds", "expected_ratio", "left", "kernels"}
    assert main(["plan", MODEL, "--budget", "64MiB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tuning"] is None


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
@pytest.mark.parametrize("command", [["convert", MODEL, "-o", "x.ullage"], ["plan", MODEL], ["bench", MODEL]])
def test_bad_seconds_on_the_command_line_exit_2(
    command: list[str], value: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--tune", value]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ullage: error: tune must be a number of seconds") and captured.out == ""
    assert not (tmp_path / "x.ullage").exists()
