"""The memory-cgroup helper measures what a command takes and stops what takes more."""

from __future__ import annotations

import sys

import pytest

from tests.cgroup import run_limited, unavailable

MIB = 1 << 20
pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


def hold(mebibytes: int) -> list[str]:
    """A command that fills that much memory and prints its length."""
    return [sys.executable, "-S", "-c", f"import time; b = b'x' * ({mebibytes} << 20); time.sleep(0.05); print(len(b))"]


def test_a_command_within_its_limit_ends_well_and_is_measured() -> None:
    outcome = run_limited(hold(40), 128 * MIB)
    assert (outcome.returncode, outcome.stdout.strip(), outcome.oom_killed) == (0, str(40 * MIB), False)
    assert 40 * MIB < outcome.max_anonymous_bytes <= outcome.max_bytes < 80 * MIB


def test_a_command_beyond_its_limit_is_killed_and_said_to_be() -> None:
    outcome = run_limited(hold(200), 64 * MIB)
    assert outcome.oom_killed
    assert outcome.returncode != 0


def test_a_command_without_limit_is_only_measured() -> None:
    outcome = run_limited(hold(20))
    assert outcome.returncode == 0
    assert outcome.max_bytes > 20 * MIB
