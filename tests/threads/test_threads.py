"""The number of threads: an option of compiling and of loading that changes no bit; idle threads sleep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ullage
from benchmarks.zoo import sample
from tests.small_models import perceptron
from ullage.calling import Convention
from ullage.cli import main
from ullage.errors import InputError
from ullage.flow import capture, prepare
from ullage.machine import rates_for
from ullage.options import CompileOptions
from ullage.plan.tables import stack_bytes
from ullage.runtime import executor
from ullage.runtime.load import load
from ullage.target import Target

FACTORY = "tests.small_models:perceptron"
IDLE = """
import resource, sys, time
import numpy as np
import ullage

def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

def idle_seconds():
    time.sleep(0.05)
    before = cpu_seconds()
    time.sleep(0.5)
    return cpu_seconds() - before

runner = ullage.load(sys.argv[1], threads=3)
print(idle_seconds())
runner(np.ones((4, 256), np.float32))
print(idle_seconds())
"""

MASKS = """
import os, sys
import numpy as np
import ullage

os.sched_setaffinity(0, map(int, sys.argv[2:]))
before = set(os.listdir("/proc/self/task"))
runner = ullage.load(sys.argv[1], threads=3)
runner(np.ones((4, 256), np.float32))
for task in set(os.listdir("/proc/self/task")) - before:
    print(*sorted(os.sched_getaffinity(int(task))))
"""


@pytest.fixture(scope="module")
def for_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The perceptron compiled for three threads at its least budget, so that the disk has a thread to do, too."""
    model, inputs = perceptron()
    path = tmp_path_factory.mktemp("threads") / "m.ullage"
    least = ullage.minimum_budget(model, inputs, threads=3)
    compiled = ullage.compile(model, inputs, budget=least, threads=3)
    compiled.save(path)
    compiled.close()
    return path


@pytest.mark.parametrize("wrong", [0, -1, 4097, 1.0, True, "2"])
def test_other_than_whole_positive_numbers_are_refused(for_three: Path, wrong: object) -> None:
    with pytest.raises(InputError, match="threads must be a whole number from 1"):
        ullage.compile(threads=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="threads must be a whole number from 1"):
        ullage.load(for_three, threads=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_fewer_threads_than_the_plan_is_for_may_run_it(for_three: Path, threads: int) -> None:
    before = len(os.listdir("/proc/self/task"))
    with ullage.load(for_three, threads=threads) as runner:
        assert runner.plan.raw.threads == 3
        assert len(os.listdir("/proc/self/task")) - before == threads
        assert runner.held_bytes()["stacks"] == stack_bytes(threads)
        runner(np.ones((4, 256), np.float32))
        assert runner.measured_bytes() <= runner.plan.raw.peak_bytes


def test_more_are_refused_with_the_number_it_is_for(for_three: Path) -> None:
    with pytest.raises(InputError, match=r"threads=4.* compiled for 3"):
        ullage.load(for_three, threads=4)


def test_without_a_number_as_many_run_as_are_available(for_three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((1, 1), (2, 2), (8, 3)):
        monkeypatch.setattr(executor, "available_threads", lambda count=available: count)
        with ullage.load(for_three) as runner:
            assert runner.held_bytes()["stacks"] == stack_bytes(expected)


def test_a_thread_less_needs_a_stack_less() -> None:
    model, inputs = perceptron()
    one, two = (ullage.minimum_budget(model, inputs, threads=threads).ram or 0 for threads in (1, 2))
    assert two - one >= stack_bytes(2) - stack_bytes(1)


def test_the_command_line_takes_the_same_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, inputs = tmp_path / "m.ullage", tmp_path / "in.npy"
    np.save(inputs, np.ones((4, 256), np.float32))
    assert main(["convert", FACTORY, "-o", str(path), "--threads", "3"]) == 0
    assert main(["run", str(path), "--input", str(inputs), "--threads", "2"]) == 0
    assert main(["plan", FACTORY, "--budget", "1MiB", "--threads", "3"]) == 0
    assert "3 threads" in capsys.readouterr().out
    for command in (["run", str(path), "--input", str(inputs)], ["bench", str(path)]):
        assert main([*command, "--threads", "4"]) == 2
        assert "compiled for 3" in capsys.readouterr().err


def test_bench_runs_on_as_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", FACTORY, "--threads", "1", "--rounds", "1", "--against", "eager", "--json"]) == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["ok", "ok"]


def test_an_idle_model_takes_no_cpu_time(for_three: Path) -> None:
    done = subprocess.run([sys.executable, "-c", IDLE, str(for_three)], capture_output=True, text=True, check=True)
    loaded, ran = map(float, done.stdout.split())
    assert loaded < 0.005 and ran < 0.005


@pytest.mark.parametrize("cpus", [1, 2])
def test_workers_stay_inside_the_affinity_and_off_the_callers_cpu(for_three: Path, cpus: int) -> None:
    mask = sorted(os.sched_getaffinity(0))[:cpus]
    if len(mask) < cpus:
        pytest.skip(f"{len(mask)} CPU available, {cpus} wanted")
    command = [sys.executable, "-c", MASKS, str(for_three), *map(str, mask)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    masks = [[*map(int, line.split())] for line in done.stdout.splitlines()]
    assert len(masks) == 3 and all({*found} <= {*mask} for found in masks)
    assert sorted(map(len, masks)) == ([1, 1, 1] if cpus == 1 else [1, 1, 2]), "two workers, and the disk's thread"


def test_measured_rates_are_scaled_to_the_threads(tmp_path: Path) -> None:
    measured = {"flops_per_s": 8e9, "memory_bytes_per_s": 4e9, "disk_bytes_per_s": 2e9, "disk_latency_s": 1e-4}
    (tmp_path / "rates.json").write_text(json.dumps({"here": measured}))
    found = rates_for(Target.parse("cpu", threads=1), tmp_path / "rates.json", "here", measured_threads=4)
    assert (found.flops_per_s, found.memory_bytes_per_s) == (2e9, 4e9)


@pytest.mark.parametrize("name", ["resnet50_tiny", "bert_base_tiny"])
def test_bits_do_not_depend_on_the_threads(name: str, tmp_path: Path) -> None:
    chosen = sample(name)
    captured = capture(chosen.module, chosen.inputs, chosen.kwargs, CompileOptions())
    inputs = Convention.of(captured, chosen.module).bind(chosen.inputs, chosen.kwargs)
    results: list[dict[str, bytes]] = []
    for compiled_for, runs_on in ((1, (1,)), (2, (1, 2)), (5, (1, 2, 5))):
        prepared = prepare(captured, CompileOptions(threads=compiled_for))
        for budget in (prepared.minimum_bytes, None):
            prepared.write(prepared.plan(budget), tmp_path / "m.ullage")
            for threads in runs_on:
                with load(tmp_path / "m.ullage", threads=threads) as runner:
                    found = runner.run(inputs)
                assert all(np.isfinite(value).all() for value in found.values())
                results.append({key: value.tobytes() for key, value in found.items()})
    assert len(results) == 12
    assert all(result == results[0] for result in results)
