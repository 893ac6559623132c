"""Window epilogues: which pools join a convolution, what that saves, and that it changes no bit at any budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.codegen.schedule.scheduling import Function, Tensors, check, schedule
from tests.codegen.schedule.whole_flow import artifact, budgets, prepared, results
from ullage.codegen.schedule import build, join_windows
from ullage.codegen.schedule.build import Scheduled
from ullage.codegen.templates import Conv2d, Windows
from ullage.driver import Prepared
from ullage.runtime.load import load

torch.manual_seed(0)
IMAGE = torch.randn(1, 8, 37, 30)
TWO = torch.randn(2, 8, 36, 30)


def stem(m: Any, x: torch.Tensor) -> torch.Tensor:
    """As in ResNet: windows share lines, and reach over the image's sides."""
    return F.conv2d(F.max_pool2d(F.conv2d(x, m.w, m.b, 1, 1).relu(), 3, 2, 1), m.back)


def even(m: Any, x: torch.Tensor) -> torch.Tensor:
    """As in VGG: windows side by side, and a last line that no window reads."""
    return F.conv2d(F.max_pool2d(F.conv2d(x, m.w, m.b, 1, 1).relu(), 2), m.back)


def ceiling(m: Any, x: torch.Tensor) -> torch.Tensor:
    """As in GoogLeNet and SqueezeNet: last windows that end outside of the image."""
    return F.conv2d(F.max_pool2d(F.conv2d(x, m.w, m.b).relu(), 3, 2, ceil_mode=True), m.back)


def average(m: Any, x: torch.Tensor) -> torch.Tensor:
    """As in DenseNet: a mean over what a 1 × 1 convolution gives, with padding that does not count."""
    y = F.avg_pool2d(F.conv2d(x, m.point, m.b), 4, 3, 1, count_include_pad=False)
    return F.conv2d(torch.sigmoid(y), m.back)


def deep(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Sums of several chunks, which wait in memory, and an epilogue that is too long for registers."""
    y = F.gelu(F.conv2d(x.repeat(1, 8, 1, 1), m.deep, m.b, 1, 1))
    return F.conv2d(F.max_pool2d(y, 3, 2, 1), m.back)


def sparse(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Lines between the windows that nobody reads, and windows with holes."""
    return F.conv2d(F.max_pool2d(F.conv2d(x, m.w, m.b), (2, 3), (4, 2), 0, (2, 1)), m.back)


def flowing(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Windows a line apart."""
    return F.conv2d(F.max_pool2d(F.conv2d(x, m.w, m.b, 1, 1), 5, 1, 2), m.back)


def grouped(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Two groups of channels that end inside of a tile."""
    return F.conv2d(F.max_pool2d(F.conv2d(x, m.halves, m.b, groups=2), 2), m.back)


def kept(m: Any, x: torch.Tensor) -> Tensors:
    """As in a U-Net: others read what is pooled, so all of it is computed, once."""
    y = F.conv2d(x, m.w, m.b, 1, 1).relu()
    return F.conv2d(F.max_pool2d(y, 2), m.back), F.conv2d(y, m.back)


def kept_between(m: Any, x: torch.Tensor) -> Tensors:
    """Lines that no window reads are wanted, too."""
    y = F.conv2d(x, m.w, m.b, 1, 1).relu()
    return F.conv2d(F.max_pool2d(y, 2, 3, 1), m.back), F.conv2d(y, m.back)


def kept_beside(m: Any, x: torch.Tensor) -> Tensors:
    """The pool alone reads one of two results; both would be written twice."""
    y = F.conv2d(x, m.w, m.b, 1, 1)
    return F.conv2d(F.max_pool2d(y.relu(), 3, 2, 1), m.back), F.conv2d(y, m.back)


def kept_and_shared(m: Any, x: torch.Tensor) -> Tensors:
    """Windows that share lines would have threads write the same."""
    y = F.conv2d(x, m.w, m.b, 1, 1).relu()
    return F.conv2d(F.max_pool2d(y, 3, 2, 1), m.back), F.conv2d(y, m.back)


def whole(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A mean over the image waits for all of it."""
    return F.conv2d(F.conv2d(x, m.w, m.b).mean((2, 3), keepdim=True), m.back)


def result(m: Any, x: torch.Tensor) -> torch.Tensor:
    """What leaves the model has its channels first, so pixels are side by side."""
    return F.max_pool2d(F.conv2d(x, m.w, m.b), 2)


TENSORS = {
    "w": torch.randn(40, 8, 3, 3) / 8, "b": torch.randn(40), "back": torch.randn(8, 40, 1, 1) / 6,
    "point": torch.randn(40, 8, 1, 1) / 3, "halves": torch.randn(40, 4, 3, 3) / 6,
    "deep": torch.randn(40, 64, 3, 3) / 24,
}  # fmt: skip
Case = tuple[Callable[..., Any], torch.Tensor, tuple[int, int, int, int] | None]
CASES: dict[str, Case] = {
    "stem": (stem, IMAGE, (19, 2, 1, 3)),
    "stem_two": (stem, TWO, (18, 2, 1, 3)),
    "even": (even, IMAGE, (18, 2, 0, 2)),
    "even_two": (even, TWO, (18, 2, 0, 2)),
    "ceiling": (ceiling, IMAGE, (17, 2, 0, 3)),
    "average": (average, IMAGE, (12, 3, 1, 4)),
    "deep": (deep, IMAGE, (19, 2, 1, 3)),
    "sparse": (sparse, IMAGE, (9, 4, 0, 3)),
    "flowing": (flowing, IMAGE, (37, 1, 2, 5)),
    "grouped": (grouped, TWO, (17, 2, 0, 2)),
    "kept": (kept, IMAGE, (18, 2, 0, 2)),
    "kept_between": (kept_between, IMAGE, (13, 3, 1, 2)),
    "kept_beside": (kept_beside, IMAGE, None),
    "kept_and_shared": (kept_and_shared, IMAGE, None),
    "whole": (whole, IMAGE, None),
    "result": (result, IMAGE, None),
    "few_lines": (even, torch.randn(1, 8, 7, 300), None),
    "narrow": (stem, torch.randn(1, 8, 40, 2), None),
}


def windows_of(scheduled: Scheduled) -> list[Windows]:
    """The window epilogues of a schedule."""
    return [s.windows for s in scheduled.specs.values() if isinstance(s, Conv2d) and s.windows is not None]


@pytest.mark.parametrize("name", CASES)
def test_what_joins(name: str) -> None:
    """The windows are those of the pool, and the schedule computes what the module does."""
    run, x, expected = CASES[name]
    module = Function(run, **TENSORS)
    scheduled = schedule(module, (x,))
    found = [(w.lines, w.stride, w.padding, w.reach) for w in windows_of(scheduled)]
    assert found == ([] if expected is None else [expected])
    check(scheduled, module, (x,))


def test_what_only_the_pool_reads_has_no_memory_but_bands() -> None:
    """40 channels of 37 × 30 pixels are in no storage, and threads keep the lines of a band."""
    scheduled = schedule(Function(stem, **TENSORS), (IMAGE,))
    assert all(s.bytes.evaluate({}) < 37 * 30 * 40 * 4 for s in scheduled.schedule.storages)
    assert not windows_of(schedule(Function(kept_and_shared, **TENSORS), (IMAGE,)))


def everywhere(model: Prepared, inputs: Tensors, threads: int) -> list[Tensors]:
    """The outputs at each of three budgets, twice each."""
    found = []
    with artifact(model) as path:
        for budget in budgets(model):
            with load(path, budget, threads=threads) as runner:
                found += [results(runner, inputs) for _ in range(2)]
    return found


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2] is not None])
@pytest.mark.parametrize("band_bytes", [1, 20000, 1 << 20])
def test_bits_are_those_of_separate_kernels_at_every_budget(
    name: str, band_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the bands: a line at a time, some lines, all lines of a task."""
    run, x, _ = CASES[name]
    monkeypatch.setattr("ullage.codegen.cpp.templates.window_epilogue._BAND_BYTES", band_bytes)
    together = prepared(Function(run, **TENSORS), (x,))
    monkeypatch.setattr(build.WindowJoiner, "run", lambda _: None)
    apart = prepared(Function(run, **TENSORS), (x,))
    assert (len(windows_of(together.scheduled)), len(windows_of(apart.scheduled))) == (1, 0)
    (expected, *_) = everywhere(apart, (x,), 2)
    for threads in (1, 2):
        for found in everywhere(together, (x,), threads):
            assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


class Wide(nn.Module):
    """A convolution with several tiles of channels, which a small budget gives in several launches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(8, 200, 3, padding=1), nn.Conv2d(200, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 8, h, w]."""
        y: torch.Tensor = self.last(F.max_pool2d(F.relu(self.first(x)), 3, 2, 1))
        return y


def test_the_images_of_a_call_decide_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One plan for 1 to 4 images: each number gives what separate kernels give."""
    module, images = Wide(), torch.export.Dim("images", min=1, max=4)
    many = prepared(module, (torch.randn(4, 8, 24, 22),), {"x": {0: images}})
    assert len(windows_of(many.scheduled)) == 1
    monkeypatch.setattr(build.WindowJoiner, "run", lambda _: None)
    for count in (1, 2, 4):
        inputs = (torch.randn(count, 8, 24, 22),)
        (expected, *_) = everywhere(prepared(module, inputs), inputs, 2)
        assert all(torch.equal(expected[0], found[0]) for found in everywhere(many, inputs, 2))


def test_a_smaller_budget_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's largest value is gone."""
    module, inputs = Wide(), (torch.randn(1, 8, 96, 96),)
    together = prepared(module, inputs)
    monkeypatch.setattr(build.WindowJoiner, "run", lambda _: None)
    apart = prepared(module, inputs)
    assert together.minimum_bytes < apart.minimum_bytes - 4 * 200 * 96 * 96 // 2


def test_windows_wider_than_any_that_pays_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_windows, "_WINDOW", 2)
    assert not windows_of(schedule(Function(stem, **TENSORS), (IMAGE,)))
    assert windows_of(schedule(Function(even, **TENSORS), (IMAGE,)))
