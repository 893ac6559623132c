"""The commands one after another on a small model: files, JSON keys, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.cgroup import run_limited, unavailable
from tests.small_models import perceptron
from ullage.cli import main

FACTORY = "tests.small_models:perceptron"
INSPECT_KEYS = {
    "format_version", "ullage_version", "target", "accuracy", "inputs", "outputs", "entry_points", "budget_bytes",
    "peak_bytes", "minimum_bytes", "resident_bytes", "streamed_bytes_per_run", "weight_bytes", "file_bytes",
    "runtime_overhead_bytes", "predicted_seconds", "kernels", "rewrites", "requires",
}  # fmt: skip
RUN_KEYS = {"seconds", "peak_bytes", "budget_bytes", "bytes_read", "stall_seconds", "outputs"}
BENCH_KEYS = {
    "system", "status", "seconds_median", "seconds_iqr", "peak_bytes", "bytes_read", "max_rel_error"
}  # fmt: skip


def ullage(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    """Exit code and the JSON document of a command."""
    code = main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert captured.err == ""
    return code, json.loads(captured.out)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """The perceptron's example input as an .npz."""
    np.savez(tmp_path / "in.npz", x=perceptron()[1][0].numpy())
    return tmp_path / "in.npz"


@pytest.mark.parametrize("calibrated", [False, True])
def test_an_accuracy_is_kept_and_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, inputs: Path, calibrated: bool
) -> None:
    """Judged on the factory's example inputs or on a file; the artifact is checked against what was asked."""
    out = tmp_path / "m.ullage"
    more = ["--calibration", inputs] if calibrated else []
    assert ullage(capsys, "convert", FACTORY, "-o", out, "--accuracy", 0.01, *more)[0] == 0
    _, found = ullage(capsys, "inspect", out)
    assert found["accuracy"] == 0.01
    assert {r["pass"] for r in found["rewrites"] if r["error"] > 0} == {"int8"}
    assert all(r["error"] <= 0.01 for r in found["rewrites"])
    code, checked = ullage(capsys, "check", out, "--reference", FACTORY)
    assert code == 0 and all(1e-4 < output["error"] < output["tolerance"] == 0.01 for output in checked["outputs"])


@pytest.mark.parametrize(
    ("scheme", "name"), [("bfloat16", "bfloat16"), ("int8", "int8"), ("int4-weights/64", "weight_only")]
)
def test_a_scheme_is_used_and_its_error_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scheme: str, name: str
) -> None:
    """The artifact is checked against twice that error; an accuracy beside the scheme refuses more than it allows."""
    out = tmp_path / "m.ullage"
    assert ullage(capsys, "convert", FACTORY, "-o", out, "--quantize", scheme)[0] == 0
    _, found = ullage(capsys, "inspect", out)
    assert found["accuracy"] == "exact" and {r["pass"] for r in found["rewrites"] if r["error"] > 0} == {name}
    code, checked = ullage(capsys, "check", out, "--reference", FACTORY)
    (error,) = {r["error"] for r in found["rewrites"] if r["error"] > 0}
    assert code == 0 and all(0 < o["error"] < o["tolerance"] == 2 * error for o in checked["outputs"])
    out.unlink()
    assert main(["convert", FACTORY, "-o", str(out), "--quantize", scheme, "--accuracy", "1e-6"]) == 2
    assert "accuracy not met" in capsys.readouterr().err and not out.exists()


def test_calibration_that_does_not_fit_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The message names the input and what it should be."""
    np.savez(tmp_path / "bad.npz", x=np.zeros((4, 3), np.float32))
    arguments = ["--accuracy", "0.01", "--calibration", str(tmp_path / "bad.npz")]
    assert main(["convert", FACTORY, "-o", str(tmp_path / "m.ullage"), *arguments]) == 2
    assert "[4, 256]" in (told := " ".join(capsys.readouterr().err.split())) and "[4, 3]" in told
    assert not (tmp_path / "m.ullage").exists()


def test_convert_writes_one_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "m.ullage"
    code, found = ullage(capsys, "convert", FACTORY, "-o", out, "--budget", "1MiB")
    assert code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["m.ullage"]
    assert found["budget_bytes"] == 1 << 20
    assert found["peak_bytes"]["ram"] <= 1 << 20


def test_convert_refuses_a_budget_with_the_least_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = main(["convert", FACTORY, "-o", str(tmp_path / "m.ullage"), "--budget", "1KiB"])
    captured = capsys.readouterr()
    assert (code, captured.out) == (3, "")
    assert captured.err.startswith("ullage: error: ")
    assert list(tmp_path.iterdir()) == []
    least = ullage(capsys, "plan", FACTORY)[1]["minimum_bytes"]["ram"]
    assert str(least) in captured.err
    assert main(["convert", FACTORY, "-o", str(tmp_path / "m.ullage"), "--budget", str(least)]) == 0


def test_inspect_tells_what_the_contract_lists(capsys: pytest.CaptureFixture[str], perceptron_artifact: Path) -> None:
    code, found = ullage(capsys, "inspect", perceptron_artifact)
    assert code == 0
    assert found.keys() >= INSPECT_KEYS
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": [4, 256]}]
    assert [o["shape"] for o in found["outputs"]] == [[4, 256], [4, 256]]
    assert found["file_bytes"] == perceptron_artifact.stat().st_size
    assert 10 << 20 < found["runtime_overhead_bytes"] < 200 << 20
    assert found["requires"] == []
    assert main(["inspect", str(perceptron_artifact)]) == 0
    assert "minimum_bytes" in capsys.readouterr().out


def test_run_computes_the_outputs(
    capsys: pytest.CaptureFixture[str], perceptron_artifact: Path, inputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.npz"
    code, found = ullage(capsys, "run", perceptron_artifact, "--input", inputs, "--output", out, "--repeat", 3)
    assert code == 0
    assert found.keys() >= RUN_KEYS
    assert len(found["seconds"]) == 3
    assert found["bytes_read"] > 0
    assert found["measured_bytes"] <= found["peak_bytes"] <= found["budget_bytes"]
    model, example = perceptron()
    with np.load(out) as arrays, torch.no_grad():
        expected = model(*example)
        results = [arrays[o["name"]] for o in found["outputs"]]
    assert np.allclose(results[0], expected["hidden"].numpy(), atol=1e-5)
    assert np.allclose(results[1], expected["last"][0].numpy(), atol=1e-5)


def test_run_takes_a_lone_array(capsys: pytest.CaptureFixture[str], perceptron_artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", perceptron()[1][0].numpy())
    assert ullage(capsys, "run", perceptron_artifact, "--input", tmp_path / "x.npy")[0] == 0


@pytest.mark.parametrize(
    "arrays",
    [
        {"y": np.zeros((4, 256), np.float32)},
        {"x": np.zeros((5, 256), np.float32)},
        {"x": np.zeros((4, 256), np.float64)},
        {"x": np.zeros((4, 256), np.float32), "y": np.zeros(1)},
        {},
    ],
)
def test_run_refuses_other_inputs_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], perceptron_artifact: Path, tmp_path: Path, arrays: dict[str, Any]
) -> None:
    np.savez(tmp_path / "in.npz", **arrays)
    files = ["--input", str(tmp_path / "in.npz"), "--output", str(tmp_path / "out.npz")]
    code = main(["run", str(perceptron_artifact), *files])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("ullage: error: ")
    assert captured.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["in.npz"]


def test_run_refuses_a_budget_below_the_least(
    capsys: pytest.CaptureFixture[str], perceptron_artifact: Path, inputs: Path
) -> None:
    assert main(["run", str(perceptron_artifact), "--input", str(inputs), "--budget", "4KiB"]) == 3
    assert "ullage: error: budget cannot be met" in capsys.readouterr().err


def test_a_truncated_artifact_is_refused(
    capsys: pytest.CaptureFixture[str], perceptron_artifact: Path, inputs: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.ullage"
    broken.write_bytes(perceptron_artifact.read_bytes()[:-100])
    for command in (["inspect", str(broken)], ["run", str(broken), "--input", str(inputs)]):
        assert main(command) == 2
        assert capsys.readouterr().err.startswith("ullage: error: ")


def test_check_passes_for_the_right_model_and_fails_for_another(
    capsys: pytest.CaptureFixture[str], perceptron_artifact: Path, inputs: Path
) -> None:
    code, found = ullage(capsys, "check", perceptron_artifact, "--reference", FACTORY)
    assert (code, found["passed"]) == (0, True)
    assert len(found["outputs"]) == 2
    code, found = ullage(capsys, "check", perceptron_artifact, "--reference", FACTORY, "--tolerance", "1e-30")
    assert (code, found["passed"]) == (1, False)
    assert ullage(capsys, "check", perceptron_artifact, "--reference", FACTORY, "--input", inputs)[0] == 0


def test_plan_shows_the_frontier_without_a_budget(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    code, found = ullage(capsys, "plan", FACTORY, "--html", page)
    assert code == 0
    assert found["frontier"][0]["budget_bytes"] == found["minimum_bytes"]["ram"]
    assert found.keys() >= INSPECT_KEYS - {
        "format_version", "ullage_version", "file_bytes", "runtime_overhead_bytes", "kernels", "requires"
    }  # fmt: skip
    assert "<svg" in page.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["plan.html"]
    code, found = ullage(capsys, "plan", FACTORY, "--budget", "1MiB")
    assert (code, "frontier" in found) == (0, False)
    assert found["peak_bytes"]["ram"] <= 1 << 20


def test_bench_runs_systems_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = ullage(capsys, "bench", FACTORY, "--against", "eager", "--rounds", "3", "--budget", "1MiB")
    assert code == 0
    assert [row["system"] for row in found["rows"]] == ["ullage", "eager"]
    assert all(row.keys() == BENCH_KEYS and row["status"] == "ok" for row in found["rows"])
    assert all(row["seconds_median"] > 0 and row["max_rel_error"] < 1e-5 for row in found["rows"])
    assert found["rows"][0]["bytes_read"] >= 0


def test_bench_judges_a_scheme_by_its_own_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `check` does; more than twice what was told is wrong."""
    arguments = ["bench", FACTORY, "--quantize", "int8", "--against", "onnxruntime", "--rounds", "1"]
    code, found = ullage(capsys, *arguments)
    assert code == 0 and all(1e-4 < row["max_rel_error"] < 0.1 for row in found["rows"] if row["status"] == "ok")
    monkeypatch.setattr("ullage.bench.tolerance_of", lambda about: max(r.error or 0.0 for r in about.rewrites) / 10)
    assert ullage(capsys, *arguments)[0] == 1


def test_bench_of_an_artifact_alone(capsys: pytest.CaptureFixture[str], perceptron_artifact: Path) -> None:
    code, found = ullage(capsys, "bench", perceptron_artifact, "--rounds", "2")
    assert code == 0
    assert [row["status"].split(":")[0] for row in found["rows"]] == ["ok", "skipped"]
    assert found["rows"][0]["bytes_read"] > 0


def test_dynamic_dimensions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    artifact = tmp_path / "m.ullage"
    assert ullage(capsys, "convert", FACTORY, "-o", artifact, "--dynamic", "x.0=1..8", "--budget", "2MiB")[0] == 0
    shape = ullage(capsys, "inspect", artifact)[1]["inputs"][0]["shape"]
    assert isinstance(shape[0], str)
    assert shape[1] == 256
    for rows in (1, 3, 8):
        np.save(tmp_path / "x.npy", np.ones((rows, 256), np.float32))
        found = ullage(capsys, "run", artifact, "--input", tmp_path / "x.npy")[1]
        assert [o["shape"] for o in found["outputs"]] == [[rows, 256], [rows, 256]]
    np.save(tmp_path / "x.npy", np.ones((9, 256), np.float32))
    assert main(["run", str(artifact), "--input", str(tmp_path / "x.npy")]) == 2
    assert "1..8" in capsys.readouterr().err


def test_bench_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text(
        "import os\nos.write(1, b'printed natively\\n')\nraise ModuleNotFoundError('no openvino', name='openvino')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, found = ullage(capsys, "bench", FACTORY, "--against", "openvino", "--rounds", "1")
    assert code == 0
    assert found["rows"][1]["status"] == "missing: package openvino is not installed"
    assert found["rows"][1]["seconds_median"] is None


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_budget_plus_overhead_is_enough_memory(
    capsys: pytest.CaptureFixture[str], perceptron_artifact: Path, inputs: Path, tmp_path: Path
) -> None:
    about = ullage(capsys, "inspect", perceptron_artifact)[1]
    limit = about["budget_bytes"] + about["runtime_overhead_bytes"]
    command = [sys.executable, "-m", "ullage", "run", str(perceptron_artifact), "--input", str(inputs)]
    outcome = run_limited([*command, "--output", str(tmp_path / "out.npz"), "--json"], limit)
    assert (outcome.returncode, outcome.oom_killed) == (0, False), outcome.stderr
    assert outcome.max_bytes <= limit


def test_factories_are_found_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "own_models.py").write_text("import torch\ndef make():\n    return torch.nn.ReLU(), (torch.ones(3),)\n")
    command = [str(Path(sys.executable).with_name("ullage")), "plan", "own_models:make", "--budget", "8MiB", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["outputs"][0]["shape"] == [3]


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "ullage", "inspect", "missing.ullage"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("ullage: error: ")
