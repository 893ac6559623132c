"""Errors of the command line: exit codes, one line on stderr, no partial output."""

from __future__ import annotations

from pathlib import Path

import pytest

from ullage.cli import main, message_of
from ullage.errors import BudgetTooSmall


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["convert"],
        ["convert", "m.pt2"],
        ["convert", "m.pt2", "-o", "x.ullage", "--no-such-flag"],
        ["convert", "no.such:factory", "-o", "x.ullage"],
        ["convert", "missing.pt2", "-o", "x.ullage"],
        ["convert", "missing.pt2", "-o", "no/such/folder/x.ullage"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--budget", "many"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--target", "abacus"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--accuracy", "high"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--accuracy", "-1"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--calibration", "data.npz"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--quantize", "int9"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--sparsify", "2:4"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--input", "x=float32"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--dynamic", "x=1..2"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--threads", "0"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--threads", "some"],
        ["plan", "missing.pt2"],
        ["plan", "missing.pt2", "--threads", "-1"],
        ["run"],
        ["run", "missing.ullage", "--repeat", "0"],
        ["run", "missing.ullage", "--threads", "two"],
        ["run", "missing.ullage"],
        ["inspect", "missing.ullage", "--json"],
        ["check", "missing.ullage"],
        ["check", "missing.ullage", "--reference", "m.pt2"],
        ["bench", "missing.pt2", "--against", "abacus"],
        ["bench", "missing.pt2", "--threads", "0"],
        ["bench", "missing.ullage", "--tune", "5"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--tune", "-5"],
        ["convert", "missing.pt2", "-o", "x.ullage", "--tune", "5", "--threads", "4096"],
        ["generate", "missing.ullage", "--prompt", "once"],
    ],
    ids=" ".join,
)
def test_bad_usage_exits_2_with_one_line_and_writes_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(arguments, capsys)
    assert (code, out) == (2, "")
    assert err.startswith("ullage: error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "inspect"])
def test_a_file_that_is_no_artifact_is_refused(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "broken.ullage"
    path.write_bytes(b"not an artifact" * 1000)
    code, out, err = run([command, str(path)], capsys)
    assert (code, out) == (2, "")
    assert "broken.ullage" in err


def test_debugging_lets_the_traceback_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULLAGE_DEBUG", "1")
    with pytest.raises(Exception, match="missing"):
        main(["inspect", "missing.ullage"])


def test_a_budget_that_cannot_be_met_exits_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(arguments: list[str]) -> int:
        raise BudgetTooSmall({"ram": 1000}, {"ram": 4096})

    monkeypatch.setattr("ullage.cli._dispatch", refuse)
    code, _, err = run(["plan", "m.pt2"], capsys)
    assert code == 3
    assert "4096" in err


def test_messages_are_one_line() -> None:
    assert message_of(ValueError("first\n  second")).startswith("internal error: ValueError: first second")


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["run", "--help"], ["inspect", "--help"]])
def test_help_is_printed_on_stdout(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(arguments, capsys)
    assert (code, err) == (0, "")
    assert "ullage" in out
