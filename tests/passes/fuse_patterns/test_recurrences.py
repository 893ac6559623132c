"""Unrolled recurrences become one scan, in every spelling; look-alikes are left alone."""

from __future__ import annotations

import cProfile
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.codegen.schedule.scheduling import Function
from ullage.frontends.load import load_model
from ullage.graph.captured import CapturedModel
from ullage.graph.operators import LINEAR_SCAN
from ullage.graph.reference import run_captured
from ullage.graph.show import show
from ullage.passes.edit import calls, is_call
from ullage.passes.fuse.recurrences import Recurrences
from ullage.passes.instruments import Verify
from ullage.passes.manager import PassManager, Rewrite

B, L, D, N = 2, 7, 5, 3
Golden = Callable[[str, str], None]
Run = Callable[..., Any]


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


A, X, C, H = floats(B, L, D, N), floats(B, L, D, N) + 1, floats(B, L, N), floats(B, D, N)


def selective(_: Any, a: torch.Tensor, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """As transformers spells Mamba."""
    h, ys = torch.zeros(B, D, N), []
    for t in range(a.shape[1]):
        h = a[:, t] * h + x[:, t]
        ys.append(torch.matmul(h, c[:, t, :].unsqueeze(-1))[:, :, 0])
    return torch.stack(ys, -1)


def reordered(_: Any, a: torch.Tensor, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """The sum and the product the other way round, from a given state; states joined along an inner dimension."""
    hs = []
    for t in range(L):
        h = x[:, t] + h * a[:, t]
        hs.append(h)
    return torch.cat(hs, 1)


def computed(_: Any, a: torch.Tensor, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Factors, terms and results with arithmetic of their own, some of it equal in every step."""
    h, ys = torch.zeros(B, D, N), []
    for t in range(L):
        h = torch.exp(-a[:, t].abs() * c[:, 0, None]) * h + (x[:, t] * 2).tanh()
        ys.append((h * c[:, t, None, :]).sum(-1).to(torch.float64) + 1)
    return torch.stack(ys, 1)


def average(_: Any, x: torch.Tensor) -> torch.Tensor:
    """A number as the factor; the first element is the first state."""
    h = x[:, 0]
    hs = [h]
    for t in range(1, L):
        h = 0.9 * h + x[:, t] * 0.1
        hs.append(h)
    return torch.stack(hs, 1)


def backwards(_: Any, a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """From the last element to the first, by slices that keep their dimension."""
    h, hs = torch.full((B, 1, D, N), 0.5), []
    for t in reversed(range(L)):
        h = a[:, t : t + 1] * h + x[:, t : t + 1]
        hs.append(h)
    return torch.cat(hs, 1)


def outer_products(_: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Linear attention with a decay: the state is a matrix, the result a row times it."""
    s, ys = torch.zeros(B, N, N), []
    for t in range(L):
        s = s * k[:, t, :, None].sigmoid() + k[:, t, :, None] * v[:, t, None, :]
        ys.append(q[:, t, None, :] @ s)
    return torch.cat(ys, 1)


def state_kept(_: Any, a: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The states, their sums, and the last state by itself."""
    h, hs, ys = torch.zeros(B, D, N), [], []
    for t in range(L):
        h = a[:, t] * h + x[:, t]
        hs.append(h)
        ys.append(h.sum(-1))
    return torch.stack(hs, 1), torch.stack(ys, 1), h * 2


def halves(_: Any, a: torch.Tensor, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Results in bfloat16."""
    h, ys = torch.zeros(B, D, N), []
    for t in range(L):
        h = a[:, t] * h + x[:, t]
        ys.append(h.to(torch.bfloat16) @ c[:, t, :, None].to(torch.bfloat16))
    return torch.stack(ys, 1)


ROLLED: dict[str, tuple[Run, tuple[torch.Tensor, ...]]] = {
    "selective": (selective, (A, X, C)),
    "reordered": (reordered, (A, X, H)),
    "computed": (computed, (A, X, C)),
    "average": (average, (X,)),
    "backwards": (backwards, (A, X)),
    "outer_products": (outer_products, (C, C + 1, C - 1)),
    "state_kept": (state_kept, (A, X)),
    "halves": (halves, (A, X, C)),
}


def rolled(run: Run, inputs: tuple[torch.Tensor, ...]) -> tuple[CapturedModel, CapturedModel, list[Rewrite]]:
    captured = load_model(Function(run), inputs)
    after, rewrites = PassManager((Recurrences(),), (Verify(),)).run(captured)
    return captured, after, rewrites


@pytest.mark.parametrize("name", ROLLED)
def test_every_spelling_becomes_one_scan(name: str) -> None:
    run, inputs = ROLLED[name]
    before, after, rewrites = rolled(run, inputs)
    assert [is_call(node, LINEAR_SCAN) for node in calls(after.module.graph)].count(True) == 1, show(after)
    assert rewrites and len(after.module.graph.nodes) < len(before.module.graph.nodes) / 2
    for found, wanted in zip(run_captured(after, inputs), run_captured(before, inputs), strict=True):
        close = {"rtol": 2e-2, "atol": 2e-2} if name == "halves" else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(found, wanted, **close)


def test_the_rolled_graph_of_a_selective_scan(golden: Golden) -> None:
    _, after, _ = rolled(*ROLLED["selective"])
    golden("passes/recurrences_selective", show(after))


@pytest.mark.parametrize("length", [2, 17])
def test_other_lengths(length: int) -> None:
    inputs = (floats(B, length, D, N), floats(B, length, D, N), floats(B, length, N))
    _, after, _ = rolled(selective, inputs)
    assert any(is_call(node, LINEAR_SCAN) for node in calls(after.module.graph))
    torch.testing.assert_close(run_captured(after, inputs)[0], selective(None, *inputs), rtol=1e-5, atol=1e-5)


def not_linear(_: Any, a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    h, hs = torch.zeros(B, D, N), []
    for t in range(L):
        h = torch.tanh(a[:, t] * h + x[:, t])
        hs.append(h)
    return torch.stack(hs, 1)


def twice(_: Any, a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The term depends on the state as well."""
    h, hs = torch.zeros(B, D, N), []
    for t in range(L):
        h = a[:, t] * h + (x[:, t] + h.sin())
        hs.append(h)
    return torch.stack(hs, 1)


def out_of_order(_: Any, a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    h, hs = torch.zeros(B, D, N), []
    for t in (0, 2, 1, 3, 6, 5, 4):
        h = a[:, t] * h + x[:, t]
        hs.append(h)
    return torch.stack(hs, 1)


def used_on_the_way(_: Any, a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A later factor depends on an earlier state."""
    h, hs = torch.zeros(B, D, N), []
    for t in range(L):
        h = (a[:, t] + (hs[2].sin() if t > 2 else 0)) * h + x[:, t]
        hs.append(h)
    return torch.stack(hs, 1)


@pytest.mark.parametrize("run", [not_linear, twice, out_of_order, used_on_the_way])
def test_look_alikes_are_left_alone(run: Run) -> None:
    before, after, rewrites = rolled(run, (A, X))
    assert not rewrites and show(after) == show(before)


def test_fuel_stops_the_rewrite() -> None:
    captured = load_model(Function(selective), (A, X, C))
    after, rewrites = PassManager((Recurrences(),), (Verify(),), fuel=0).run(captured)
    assert not rewrites and show(after) == show(captured)


def test_work_grows_with_the_length_and_no_faster() -> None:
    def work(length: int) -> int:
        inputs = (floats(1, length, 2, 2), floats(1, length, 2, 2), floats(1, length, 2))
        captured = load_model(Function(_one), inputs)
        profile = cProfile.Profile()
        profile.runcall(PassManager((Recurrences(),)).run, captured)
        return sum(entry.callcount for entry in profile.getstats())

    assert work(200) < 5 * work(50)


def _one(_: Any, a: torch.Tensor, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    h, ys = torch.zeros(1, 2, 2), []
    for t in range(a.shape[1]):
        h = a[:, t] * h + x[:, t]
        ys.append((h @ c[:, t, :, None])[..., 0])
    return torch.stack(ys, -1)
