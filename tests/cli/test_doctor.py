"""`ullage doctor` tells what the machine offers and measures its rates once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ullage import doctor
from ullage.cli import main


@pytest.fixture
def small_measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache and measurements of a few megabytes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "_READ_BYTES", 8 << 20)
    monkeypatch.setattr(doctor, "_FILE_BYTES", 4 << 20)
    monkeypatch.setattr(doctor, "_BLOCK_BYTES", 1 << 20)
    return tmp_path


def test_json_is_one_document(small_measurements: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["threads"] >= 1
    assert found["memory_bytes"] > 1 << 28
    assert found["isa"] in ("avx512_bf16", "avx512", "avx2", "generic")
    assert all(rate > 0 for rate in found["rates"].values())
    folder = small_measurements / "cache" / "ullage"
    assert list(folder.iterdir()) == [folder / "rates.json"]


def test_rates_are_measured_once(small_measurements: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = doctor.rates()
    monkeypatch.setattr(doctor, "memory_bytes_per_s", lambda threads: pytest.fail("measured again"))
    assert doctor.rates() == first


def test_fresh_rates_are_measured_again(small_measurements: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doctor.rates()
    monkeypatch.setattr(doctor, "memory_bytes_per_s", lambda threads: 123.0)
    assert doctor.rates(fresh=True)["memory_bytes_per_s"] == 123.0


def test_text_names_every_part(small_measurements: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("cpu", "memory", "rates", "compilers", "gpus", "packages"))


def test_a_cpu_quota_is_shown(
    small_measurements: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 1.5)
    assert doctor.machine()["cpu_quota"] == 1.5
    assert main(["doctor"]) == 0
    assert "control group quota 1.5 CPUs" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "cpu_quota", lambda: None)
    assert main(["doctor"]) == 0
    assert "control group quota none" in capsys.readouterr().out
