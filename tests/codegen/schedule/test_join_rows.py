"""Row epilogues: what joins a product, what does not, and that joining changes no bit at any budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.codegen.schedule.scheduling import Function, Tensors, check, schedule
from tests.codegen.schedule.whole_flow import artifact, budgets, prepared, results
from ullage.codegen.schedule import join_rows
from ullage.codegen.schedule.build import Scheduled
from ullage.driver import Prepared
from ullage.runtime.load import load

torch.manual_seed(0)
X = torch.randn(2, 64, 96)
FEW = torch.randn(3, 96)
IMAGE = torch.randn(1, 8, 20, 24)


def weight(outputs: int, inputs: int = 96) -> torch.Tensor:
    """A weight whose products are of order one."""
    return torch.randn(outputs, inputs) / inputs**0.5


def layer_norm(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A layer norm of a residual sum that nobody else wants."""
    return F.layer_norm(x + F.linear(x, m.w, m.b), (96,), m.gain, m.b)


def rms_norm_kept(m: Any, x: torch.Tensor) -> Tensors:
    """The sum goes on beside its RMS norm, as where norms come first."""
    total = x + F.linear(x, m.w)
    return total, F.rms_norm(total, (96,), m.gain)


def normalised_sentences(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Rows of length one."""
    return F.normalize(F.linear(x, m.w), dim=-1)


def softmax(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Probabilities of classes, in tiles that end inside a vector."""
    return F.softmax(F.linear(x, m.classes), dim=-1)


def twice(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A norm of a norm, then a product of that."""
    y = F.layer_norm(F.linear(x, m.w), (96,), m.gain, m.b)
    return F.linear(F.layer_norm(y, (96,)), m.w)


def best_class(m: Any, x: torch.Tensor) -> Tensors:
    """Rows that end in one integer, and in one float."""
    scores = F.linear(x, m.classes)
    return scores.argmax(-1), torch.logsumexp(scores, -1)


def pixels(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A layer norm over the channels of every pixel of a convolution."""
    return F.layer_norm(F.conv2d(x, m.kernel, m.offset, 2, 1).flatten(2).transpose(1, 2), (24,))


def later_operand(m: Any, x: torch.Tensor) -> torch.Tensor:
    """The norm waits for another product, so the first one waits for the norm."""
    first = F.linear(x, m.w)
    other = F.softmax(F.linear(x.sin(), m.square), dim=-1)
    return F.layer_norm(first, (96,)) * torch.bmm(other, x)


def columns(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Softmax over what are columns of the product."""
    return F.softmax(F.linear(x, m.w), dim=1)


def shifted(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Rows that are read one further on."""
    return F.layer_norm(F.linear(x, m.w).roll(1, 1), (96,))


def halves(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Norms of half rows: twice as many rows as the product has."""
    return F.layer_norm(F.linear(x, m.w).reshape(2, 64, 2, 48), (48,))


def between(m: Any, x: torch.Tensor) -> torch.Tensor:
    """The norm also reads what is computed from the product: it can be neither earlier nor can the product be later."""
    first = F.linear(x, m.w)
    mean = torch.bmm(first.softmax(1).transpose(1, 2), first)
    return F.layer_norm(first + mean.sum(1, keepdim=True), (96,))


TENSORS = {
    "w": weight(96), "b": torch.randn(96), "gain": torch.randn(96), "classes": weight(83), "square": weight(64),
    "kernel": torch.randn(24, 8, 3, 3) / 8, "offset": torch.randn(24),
}  # fmt: skip
JOINED: dict[str, tuple[Callable[..., Any], torch.Tensor, int]] = {
    "layer_norm": (layer_norm, X, 1),
    "few_rows": (layer_norm, FEW, 1),
    "rms_norm_kept": (rms_norm_kept, X, 1),
    "normalised_sentences": (normalised_sentences, X, 1),
    "softmax": (softmax, X, 1),
    "twice": (twice, X, 1),
    "best_class": (best_class, X, 1),
    "pixels": (pixels, IMAGE, 1),
    "later_operand": (later_operand, X, 2),
    "columns": (columns, X, 0),
    "shifted": (shifted, X, 0),
    "halves": (halves, X, 0),
    "between": (between, X, 0),
}


def joined(scheduled: Scheduled) -> int:
    """Kernels that have a row epilogue."""
    return sum(getattr(spec, "rows", None) is not None for spec in scheduled.specs.values())


@pytest.mark.parametrize("name", JOINED)
def test_what_joins(name: str) -> None:
    """As many products as expected take rows in, and the schedule computes what the module does."""
    run, x, count = JOINED[name]
    module = Function(run, **TENSORS)
    scheduled = schedule(module, (x,))
    assert joined(scheduled) == count
    check(scheduled, module, (x,))


def test_a_sum_that_only_the_norm_reads_has_no_memory_of_its_own() -> None:
    """The product is stored where the norm's result goes."""
    scheduled = schedule(Function(layer_norm, **TENSORS), (X,))
    assert {s.name for s in scheduled.schedule.storages} == {t.name for t in (*scheduled.inputs, *scheduled.outputs)}


def test_rows_beyond_one_block_for_each_thread_stay_apart() -> None:
    """Weights would pass through the caches more often than they do for the product alone."""
    assert joined(schedule(Function(layer_norm, **TENSORS), (torch.randn(1, 400, 96),))) == 0


class Layers(nn.Module):
    """Equal layers: a product, and a norm of its sum with what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.products = nn.ModuleList(nn.Linear(96, 96) for _ in range(4))
        self.norm = nn.LayerNorm(96)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for product in self.products:
            x = self.norm(x + product(x))
        return x


def test_equal_layers_are_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    joining = join_rows.join

    def noting(*arguments: Any) -> Any:
        tried.append("join")
        return joining(*arguments)

    monkeypatch.setattr(join_rows, "join", noting)
    module = Layers().eval()
    scheduled = schedule(module, (X,))
    assert joined(scheduled) == 1 and len(scheduled.schedule.steps) == 4 and len(tried) == 1
    check(scheduled, module, (X,))


class Blocks(nn.Module):
    """Products whose tiles are many, with norms: budgets cut them into several launches."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(96, 512) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(512, 500) for _ in range(3))
        self.back = nn.ModuleList(nn.Linear(500, 96) for _ in range(3))
        self.wide, self.norm = nn.LayerNorm(500), nn.LayerNorm(96)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Three blocks."""
        for up, down, back in zip(self.up, self.down, self.back, strict=True):
            x = self.norm(x + back(self.wide(down(F.gelu(up(x))))))
        return x


def everywhere(model: Prepared, inputs: Tensors, runs: int = 2) -> list[torch.Tensor]:
    """The first output of some runs at each of three budgets."""
    found = []
    with artifact(model) as path:
        for budget in budgets(model):
            with load(path, budget) as runner:
                found += [results(runner, inputs)[0] for _ in range(runs)]
    return found


@pytest.mark.parametrize("rows", [1, 7, 31, 64, 128, 300])
def test_bits_are_those_of_separate_kernels_at_every_budget(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where more rows are joined than pays, and in runs after the first."""
    module, inputs = Blocks(), (torch.randn(1, rows, 96),)
    monkeypatch.setattr(join_rows, "pays", lambda *_: True)
    together = prepared(module, inputs)
    monkeypatch.setattr(join_rows, "pays", lambda *_: False)
    apart = prepared(module, inputs)
    assert (joined(together.scheduled), joined(apart.scheduled)) == (2, 0)
    (expected, *_) = everywhere(apart, inputs)
    assert all(torch.equal(expected, found) for found in everywhere(together, inputs))


def test_the_rows_of_a_call_decide_at_run_time() -> None:
    """One plan for 1 to 128 rows: each number gives what it gives in a plan of its own."""
    module = Blocks()
    rows = torch.export.Dim("rows", min=1, max=128)
    many = prepared(module, (torch.randn(1, 128, 96),), {"x": {1: rows}})
    assert joined(many.scheduled) == 2
    for count in (1, 2, 33, 64, 100, 128):
        inputs = (torch.randn(1, count, 96),)
        (expected, *_) = everywhere(prepared(module, inputs), inputs, 1)
        assert all(torch.equal(expected, found) for found in everywhere(many, inputs, 1))
