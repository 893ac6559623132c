"""What is measured, for how long, and what is taken: on a clock and a bench that only pretend."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.codegen.tune.tuning_cases import RATES, TARGET, Lab, own_is_best, scheduled
from ullage.codegen.cpp.toolchain import Compiler
from ullage.codegen.kernel import Kernel
from ullage.codegen.templates import Conv2d, Gemm
from ullage.codegen.tiling import DepthwiseTiling, Tiling, show_tiling
from ullage.codegen.tune.candidates import Shape, candidates, merged
from ullage.codegen.tune.judge import Rule, sign_test
from ullage.codegen.tune.retile import retile
from ullage.codegen.tune.stage import Stage
from ullage.codegen.tune.store import Signature, Store
from ullage.codegen.tune.tuner import Tuning, tune
from ullage.codegen.tune.work import Work, works

SIGNATURE = Signature.of("a processor", 2, TARGET, Compiler(("g++",), "g++ 12"))


def store(folder: Path) -> Store:
    return Store.open(SIGNATURE, folder)


def tuned(lab: Lab, folder: Path, seconds: float = 1e6, most_bytes: int = 1 << 40) -> Tuning:
    return tune(scheduled(), store(folder), lab.request(seconds, most_bytes))[1]


def faster_by(tiling: str, factor: float, noise: float = 0.0) -> Lab:
    """A lab in which one tiling multiplies the time of every kernel that it changes; the others lose 1 %.

    Launches take what the cost model says.
    """
    names: dict[tuple[str, str], str] = {}

    def seconds(work: Work, kernel: Kernel, number: int) -> float:
        if not any(key[0] == work.key for key in names):
            for t in candidates(work.spec, TARGET, {}):
                names.setdefault((work.key, retile(work.spec, t, TARGET).kernel.symbol), show_tiling(t))
            names[work.key, work.kernel.symbol] = "default"
        name = names.get((work.key, kernel.symbol), "merged")
        drawn = random.Random(f"{number} {kernel.symbol}").gauss(1.0, noise)
        return work.seconds / work.launches * drawn * {tiling: factor, "default": 1.0}.get(name, 1.01)

    return Lab(seconds)


def test_a_faster_tiling_is_taken_and_launched(tmp_path: Path) -> None:
    lab = faster_by("block_vectors=1", 0.8, noise=0.02)
    again, tuning = tune(scheduled(), store(tmp_path), lab.request(1e6))
    chosen = [k for k in tuning.kernels if k.choice != "default"]
    assert {k.choice for k in chosen} == {"block_vectors=1"}
    assert all(0.78 < k.ratio < 0.82 for k in chosen)
    assert tuning.left == 0 and tuning.ratio < 1
    gone = {k.kernel for k in chosen}
    assert gone and not gone & set(again.kernels)
    assert {s.kernel for s in again.schedule.steps} == set(again.kernels) == set(again.specs)  # type: ignore[union-attr]
    assert lab.closed == lab.opened > 0


def test_noise_alone_wins_nothing(tmp_path: Path) -> None:
    lab = Lab(lambda work, kernel, number: 1e-3 * random.Random(f"{number} {kernel.symbol}").uniform(0.8, 1.2))
    assert {k.choice for k in tuned(lab, tmp_path).kernels} == {"default"}


def test_clearly_slower_tilings_are_given_up_after_the_first_rounds(tmp_path: Path) -> None:
    lab = Lab(own_is_best)
    tuning = tuned(lab, tmp_path)
    assert len(lab.contests) == lab.opened
    assert {count for _, _, count in lab.contests} == {Rule().batch}
    assert {k.choice for k in tuning.kernels} == {"default"} and all(k.measured for k in tuning.kernels)


def test_the_costliest_kernels_come_first(tmp_path: Path) -> None:
    lab = Lab(own_is_best)
    tuned(lab, tmp_path)
    costs = {w.name: w.seconds for w in works(scheduled(), RATES)}
    order = [costs[name] for name, _, _ in lab.contests]
    assert order == sorted(order, reverse=True) and len(set(order)) > 1


@pytest.mark.parametrize("seconds", [0.0, 0.4, 1.2, 3.3, 9.9, 22.0, 55.0])
@pytest.mark.parametrize("opening", [0.05, 0.9])
def test_no_more_seconds_are_spent_than_stated(seconds: float, opening: float, tmp_path: Path) -> None:
    lab = faster_by("tiles_first", 0.9)
    lab.opening_seconds = opening
    began = lab.clock.now
    tuning = tuned(lab, tmp_path, seconds)
    spent = lab.clock.now - began
    assert spent <= seconds
    assert tuning.seconds == pytest.approx(spent)
    assert (lab.opened > 0) == (seconds >= 1.0)
    assert tuning.left + len(tuning.kernels) == len(works(scheduled(), RATES))


def test_the_second_time_nothing_is_measured_and_all_is_the_same(tmp_path: Path) -> None:
    first, _ = tune(scheduled(), store(tmp_path), faster_by("tiles_first", 0.9).request(1e6))
    for seconds in (1e6, 0.0):
        lab = Lab(own_is_best)
        again, tuning = tune(scheduled(), store(tmp_path), lab.request(seconds))
        assert (lab.opened, lab.measured, tuning.left) == (0, 0, 0)
        assert again == first
        assert not any(k.measured for k in tuning.kernels)


def test_what_one_run_had_no_time_for_the_next_one_measures(tmp_path: Path) -> None:
    part = tuned(Lab(own_is_best), tmp_path, 4.0)
    assert part.left > 0 and part.kernels
    lab = Lab(own_is_best)
    rest = tuned(lab, tmp_path)
    assert rest.left == 0
    assert sum(k.measured for k in rest.kernels) == part.left


def test_kernels_larger_than_the_memory_are_left(tmp_path: Path) -> None:
    sizes = sorted(w.bytes for w in works(scheduled(), RATES))
    lab = Lab(own_is_best)
    tuning = tuned(lab, tmp_path, most_bytes=sizes[len(sizes) // 2])
    assert tuning.left == sum(size > sizes[len(sizes) // 2] for size in sizes) > 0


def test_progress_names_every_kernel(tmp_path: Path) -> None:
    lab = Lab(own_is_best)
    tuning = tuned(lab, tmp_path)
    assert [stage.partition(": ")[2] for stage in lab.stages] == [k.name for k in tuning.kernels]


def test_the_sign_test() -> None:
    assert sign_test(0, 10) == 1.0
    assert sign_test(10, 10) == pytest.approx(2**-10)
    assert sign_test(8, 10) == pytest.approx(56 / 1024)


def test_a_gain_counts_only_if_it_is_steady() -> None:
    rule = Rule()
    assert rule.takes([0.95] * 24)
    assert not rule.takes([0.95] * 16)
    assert not rule.takes([0.90] * 16 + [1.0] * 16)
    assert not rule.takes([0.99] * 40)
    assert not rule.takes([0.97, 1.2, 0.97, 0.97, 1.2] * 8)
    assert rule.gives_up([1.03] * 8) and not rule.gives_up([1.01] * 8)
    assert rule.gives_up([1.0] * 16) and not rule.gives_up([0.98] * 16)


def test_short_kernels_get_more_rounds() -> None:
    rule = Rule()
    assert [rule.rounds(s) for s in (1.0, 0.005, 0.0)] == [rule.batch, 20, rule.most_rounds]


def test_choices_of_several_tilings_are_merged() -> None:
    best = (Tiling(prefetch=True), Tiling(block_rows=32), Tiling(block_rows=128), Tiling(rows=7))
    assert merged(best, Tiling()) == (
        Tiling(prefetch=True, block_rows=32),
        Tiling(prefetch=True, block_rows=32, rows=7),
    )
    assert merged(best[:1], Tiling()) == merged((), Tiling()) == ()
    assert merged((DepthwiseTiling(columns=6), DepthwiseTiling(pairs=False)), Tiling()) == (
        DepthwiseTiling(6, pairs=False),
    )


def test_the_model_of_cycles_prefers_tiles_that_divide_the_rows() -> None:
    shape = Shape(rows=49, steps=512, vectors=3, panels=11, threads=1, registers=32)
    assert shape.cycles(7, 64) < shape.cycles(8, 64) < shape.cycles(2, 64)


def test_kernels_are_measured_by_the_executor() -> None:
    for work in works(scheduled(), RATES):
        others = [retile(work.spec, t, TARGET).kernel for t in candidates(work.spec, TARGET, {})[:1]]
        stage = Stage(work, [work.kernel, *others], TARGET)
        try:
            rounds = stage.rounds([0, 1, 0], 3)
        finally:
            stage.close()
        assert [len(seconds) for seconds in rounds] == [3, 3, 3]
        assert all(0 < second < 1 for seconds in rounds for second in seconds)
        kind = work.spec
        if isinstance(kind, Gemm) or (isinstance(kind, Conv2d) and kind.groups == kind.in_c):
            break
