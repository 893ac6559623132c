"""What a loaded artifact computes, accepts and refuses."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.handmade import (
    PAGE,
    TWICE_PLUS_ONE,
    dynamic_plan,
    given,
    launch,
    matrix,
    plan,
    resident_dot_plan,
    result,
    tensor,
    twice_plan,
    write,
)
from ullage.errors import BudgetTooSmall, InputError, UllageError
from ullage.plan.tables import DOUBLE_OUTPUT_BYTES
from ullage.runtime.load import load
from ullage.runtime.runner import Runner


@pytest.fixture
def twice(tmp_path: Path) -> Runner:
    return load(write(tmp_path / "twice.ullage", twice_plan(1000)))


def vector(size: int = 1000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def test_an_array_by_position_by_name_and_in_a_mapping(twice: Runner) -> None:
    x = vector()
    wanted = 2 * x + 1
    assert np.array_equal(twice(x), wanted)
    assert np.array_equal(twice(x=x), wanted)
    assert [*twice.run({"x": x})] == ["y"] and np.array_equal(twice.run({"x": x})["y"], wanted)


def test_several_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    commands = [launch(TWICE_PLUS_ONE, (given(n), result(1 - n)), (10,), 1) for n in (0, 1)]
    tensors = [tensor("a", 2, 5), tensor("b", 10)], [tensor("from_b", 10), tensor("from_a", 5, 2)]
    runner = load(write(tmp_path / "two.ullage", plan(commands, *tensors)))
    a, b = vector(10).reshape(2, 5), vector(10, 1)
    for results in (runner(a, b), runner(b=b, a=a), runner(a, b=b)):
        assert isinstance(results, tuple) and [r.shape for r in results] == [(10,), (5, 2)]
        assert np.array_equal(results[0], 2 * b + 1) and np.array_equal(results[1].ravel(), 2 * a.ravel() + 1)


def test_resident_weights(tmp_path: Path) -> None:
    w, x = matrix(64, 333), matrix(1, 333, seed=1)[0]
    runner = load(write(tmp_path / "dot.ullage", resident_dot_plan(), [w]))
    assert np.array_equal(runner(x), w @ x)
    assert runner.stats()["bytes_read"] == {"disk": 0}


def test_inputs_that_are_not_contiguous_or_not_aligned_are_copied(twice: Runner) -> None:
    spread = vector(3000)[::3]
    shifted = np.frombuffer(b"\0" + vector().tobytes(), np.float32, offset=1)
    assert not shifted.flags.aligned
    for x in (spread, shifted, vector()[::-1]):
        assert np.array_equal(twice(x), 2 * x + 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r(vector().astype(np.float64)), "input x: dtype float32 wanted, found float64."),
        (lambda r: r(vector().astype(">f4")), "input x: dtype float32 wanted, found >f4."),
        (lambda r: r(vector(999)), "input x: shape [1000] wanted, found [999]."),
        (lambda r: r(vector().reshape(10, 100)), "input x: shape [1000] wanted, found [10, 100]."),
        (lambda r: r(z=vector()), "inputs wanted: x; unknown: z; missing: x."),
        (lambda r: r(), "inputs wanted: x; missing: x."),
        (lambda r: r(vector(), vector()), "inputs wanted: x; 2 positional ones found."),
        (lambda r: r(vector(), x=vector()), "inputs wanted: x; given twice: x."),
        (lambda r: r(object()), "input x: dtype float32 wanted, found object."),
        (lambda r: r([[1.0], [1.0, 2.0]]), "input x: an array wanted, found list."),
    ],
)
def test_wrong_inputs_are_named(twice: Runner, call: Callable[[Runner], object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        call(twice)
    assert str(caught.value) == message
    assert np.array_equal(twice(vector()), 2 * vector() + 1)


def test_dimensions_follow_the_inputs(tmp_path: Path) -> None:
    runner = load(write(tmp_path / "dynamic.ullage", dynamic_plan(5000)))
    for size in (1, 5000, 255, 256, 257, 77, 77):
        y = runner(vector(size))
        assert y.shape == (size,) and np.allclose(y, 4 * vector(size) + 3)
    for size in (0, 5001):
        with pytest.raises(InputError, match=rf"input x: axis 0 wanted within 1..5000, found {size}"):
            runner(vector(size))
    assert np.allclose(runner(vector(3)), 4 * vector(3) + 3)


@pytest.mark.parametrize("elements", [1000, DOUBLE_OUTPUT_BYTES])
def test_results_never_change(tmp_path: Path, elements: int) -> None:
    runner = load(write(tmp_path / "a.ullage", twice_plan(elements)))
    kept = [runner(np.full(elements, n, np.float32)) for n in range(5)]
    part = runner(np.full(elements, 5, np.float32))[3:4]
    for n in range(6, 12):
        runner(np.full(elements, n, np.float32))
    assert all((array == 2 * n + 1).all() for n, array in enumerate(kept))
    assert part == 11
    runner.close()
    assert all((array == 2 * n + 1).all() for n, array in enumerate(kept))


def test_memory_of_dropped_results_is_used_again(tmp_path: Path) -> None:
    large = load(write(tmp_path / "large.ullage", twice_plan(DOUBLE_OUTPUT_BYTES)))
    x = vector(DOUBLE_OUTPUT_BYTES)
    assert len({large(x).ctypes.data for _ in range(5)}) == 1
    small = load(write(tmp_path / "small.ullage", twice_plan(1000)))
    places = set()
    y = small(x[:1000])
    for _ in range(6):
        y = small(x[:1000])
        places.add(y.ctypes.data)
    assert len(places) == 2


def test_calls_from_threads_take_turns(tmp_path: Path) -> None:
    runner = load(write(tmp_path / "dynamic.ullage", dynamic_plan(4000)))
    wrong: list[int] = []

    def calls(seed: int) -> None:
        for n in range(100):
            x = vector(1 + (seed * 997 + n * 31) % 4000, seed)
            if not np.allclose(runner(x), 4 * x + 3):
                wrong.append(n)

    threads = [threading.Thread(target=calls, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not wrong


def test_two_runners_do_not_disturb_each_other(tmp_path: Path) -> None:
    w, x = matrix(64, 333), matrix(1, 333, seed=1)[0]
    path = write(tmp_path / "dot.ullage", resident_dot_plan(), [w])
    first, second = load(path), load(path)
    third = load(write(tmp_path / "twice.ullage", twice_plan(333)))
    for _ in range(20):
        assert np.array_equal(first(x), w @ x) and np.array_equal(third(x), 2 * x + 1)
        assert np.array_equal(second(x), w @ x)
    first.close()
    assert np.array_equal(second(x), w @ x) and np.array_equal(third(x), 2 * x + 1)


def test_a_closed_runner_says_so(twice: Runner) -> None:
    with twice:
        twice(vector())
    twice.close()
    for use in (lambda: twice(vector()), lambda: twice.run({"x": vector()}), lambda: twice.profile(vector())):
        with pytest.raises(UllageError, match="the runner is closed"):
            use()


def test_a_forked_child_is_refused_and_leaves_the_parent_alone(twice: Runner) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            twice(vector())
        except UllageError as error:
            os.write(writer, str(error).encode())
        twice.close()
        os._exit(0)
    os.close(writer)
    assert b"forked child" in os.read(reader, 1000)
    os.close(reader)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(twice(vector()), 2 * vector() + 1)


def test_the_largest_plan_within_the_budget_is_taken(tmp_path: Path) -> None:
    plans = [twice_plan(1000, threads) for threads in (1, 2)]
    path = write(tmp_path / "ladder.ullage", plans)
    small, large = (p.peak_bytes for p in plans)
    assert small < large
    chosen = {None: large, large: large, large - 1: small, small: small, "1GiB": large}
    for budget, peak in chosen.items():
        with load(path, budget) as runner:
            assert runner.plan.peak_bytes == {"ram": peak}
            assert np.array_equal(runner(vector()), 2 * vector() + 1)
    with pytest.raises(BudgetTooSmall) as caught:
        load(path, small - PAGE)
    assert caught.value.minimum == {"ram": small} and caught.value.requested == {"ram": small - PAGE}


def test_the_profile_names_every_command(tmp_path: Path) -> None:
    runner = load(write(tmp_path / "dynamic.ullage", dynamic_plan(5000)))
    profile = runner.profile(vector(5000))
    assert [name for name, _ in profile] == ["step", "step"] and all(0 < s < 1 for _, s in profile)
    assert np.allclose(runner(vector(9)), 4 * vector(9) + 3)
