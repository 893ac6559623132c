"""Recurrences: one kernel makes the factors, walks the steps and reads the states; right at any budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.codegen.schedule.scheduling import Function, Tensors, check, schedule, shown
from tests.codegen.schedule.whole_flow import budgets, error, prepared, results, running, tensors
from ullage.codegen.loops.ir import LoopKernel, Scan
from ullage.codegen.schedule.build import Scheduled
from ullage.runtime.load import load

B, D, N = 2, 24, 4


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def selective(m: Any, u: torch.Tensor, z: torch.Tensor, h: torch.Tensor | None = None) -> torch.Tensor:
    """Mamba's selective scan with its projections [batch, length, channels], as transformers spells it."""
    delta, b, c = F.linear(u, m.project).split([D, N, N], -1)
    delta = F.softplus(delta + m.bias)
    factors, terms = torch.exp(delta[..., None] * m.rate), delta[..., None] * b[:, :, None] * u[..., None]
    h, ys = torch.zeros(B, D, N) if h is None else h, []
    for t in range(u.shape[1]):
        h = factors[:, t] * h + terms[:, t]
        ys.append((h @ c[:, t, :, None])[:, :, 0])
    return F.linear((torch.stack(ys, 1) + u * m.skip) * F.silu(z), m.out)


def module(run: Any = selective) -> Function:
    weights = {"project": values(D + 2 * N, D) / 5, "bias": values(D) - 2, "rate": -values(D, N).exp()}
    return Function(run, **weights, skip=values(D), out=values(D, D) / 5)


def inputs(length: int) -> Tensors:
    return values(B, length, D), values(B, length, D) + 1


def scans(scheduled: Scheduled) -> list[int]:
    """How many running values the kernels with any have."""
    kernels = [spec for spec in scheduled.specs.values() if isinstance(spec, LoopKernel)]
    counts = [sum(isinstance(s, Scan) for stage in kernel.stages for s in stage.body) for kernel in kernels]
    return [count for count in counts if count]


def test_a_selective_scan_is_one_kernel_and_has_no_states_in_memory() -> None:
    given = inputs(17)
    scheduled = schedule(module(), given)
    assert len(scheduled.groups) == 4 and scans(scheduled) == [N], shown(scheduled)
    sizes = [storage.bytes.tokens for storage in scheduled.schedule.storages]
    assert max(int(size[0]) for size in sizes) <= 4 * B * 17 * (D + 2 * N), sizes
    check(scheduled, module(), given)


@pytest.mark.parametrize("length", [1, 2, 17, 64])
@pytest.mark.parametrize("starts", [False, True])
def test_right_at_any_budget(length: int, starts: bool, tmp_path: Any) -> None:
    given = (*inputs(length), values(B, D, N)) if starts else inputs(length)
    model = prepared(module(), given)
    truth = tensors(module().double()(*(x.double() for x in given)))[0]
    eager = tensors(module()(*given))[0]
    found = []
    for number, budget in enumerate(budgets(model)):
        model.write(model.plan(budget), path := tmp_path / f"{number}.ullage")
        with load(path) as runner:
            found += results(runner, given)
    assert all(torch.equal(found[0], other) for other in found)
    assert error(found[0], truth) <= 2 * error(eager, truth) + 1e-6


def matrix_states(_: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Gated linear attention: a state is a matrix, of which each result is a row times it."""
    s, ys = torch.zeros(B, N, D), []
    for t in range(q.shape[1]):
        s = s * k[:, t, :, None].sigmoid() + k[:, t, :, None] * v[:, t, None, :]
        ys.append(q[:, t, None, :] @ s)
    return torch.cat(ys, 1)


def test_states_that_are_matrices_stay_in_registers() -> None:
    given = (values(B, 9, N), values(B, 9, N) + 1, values(B, 9, D))
    scheduled = schedule(Function(matrix_states), given)
    assert scans(scheduled) == [N], shown(scheduled)
    check(scheduled, Function(matrix_states), given)


def wide_states(_: Any, a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    h, ys = torch.zeros(B, 3, 80), []
    for t in range(a.shape[1]):
        h = a[:, t] * h + x[:, t]
        ys.append(h.sum(-1))
    return torch.stack(ys, 1)


def test_more_states_than_registers_go_through_memory() -> None:
    given = (values(B, 6, 3, 80), values(B, 6, 3, 80))
    scheduled = schedule(Function(wide_states), given)
    assert len(scheduled.groups) == 2 and scans(scheduled) == [1], shown(scheduled)
    check(scheduled, Function(wide_states), given)


def two_readers(_: Any, a: torch.Tensor, x: torch.Tensor) -> Tensors:
    """A running sum amid arithmetic, and a mean over the steps, which cannot be on the way."""
    y = (a * x).cumsum(1).tanh() + x
    return y, y.mean(1)


def test_running_sums_take_in_their_fellows() -> None:
    given = (values(B, 7, D), values(B, 7, D))
    scheduled = schedule(Function(two_readers), given)
    assert shown(scheduled)[0] == "loops: mul cumsum tanh add -> 1"
    check(scheduled, Function(two_readers), given)


def streaming(m: Any, u: torch.Tensor, z: torch.Tensor, h: torch.Tensor) -> Tensors:
    """A part of a longer sequence: from the state before it to the one behind it."""
    factors, terms = (u[..., None] * m.rate).exp(), u[..., None] * z[..., None]
    ys = []
    for t in range(u.shape[1]):
        h = factors[:, t] * h + terms[:, t]
        ys.append(h.sum(-1))
    return torch.stack(ys, 1) + u, h


@pytest.mark.parametrize("length", [2, 9])
def test_the_state_behind_the_last_step_comes_from_the_same_kernel(length: int) -> None:
    given = (*(x.abs() for x in inputs(length)), values(B, D, N))
    scheduled = schedule(module(streaming), given)
    assert len(scheduled.groups) == 1 and scans(scheduled) == [N], shown(scheduled)
    check(scheduled, module(streaming), given)
    model = prepared(module(streaming), given)
    with running(model) as runner:
        for found, wanted in zip(results(runner, given), module(streaming)(*given), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def last_and_means(_: Any, a: torch.Tensor, x: torch.Tensor) -> Tensors:
    h, hs = torch.zeros(B, 3, 80), []
    for t in range(a.shape[1]):
        h = a[:, t] * h + x[:, t]
        hs.append(h.mean((1, 2)))
    return h * 2, torch.stack(hs, 1)


def test_a_last_state_that_is_read_elsewhere() -> None:
    given = (values(B, 6, 3, 80), values(B, 6, 3, 80))
    scheduled = schedule(Function(last_and_means), given)
    check(scheduled, Function(last_and_means), given)


def joined_states(_: Any, a: torch.Tensor, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """The states of all steps are joined before they are read."""
    h, hs = torch.zeros(B, D, N), []
    for t in range(a.shape[1]):
        h = a[:, t] * h + x[:, t]
        hs.append(h)
    return torch.einsum("btdn,btn->btd", torch.stack(hs, 1), c).relu()


def test_states_that_are_read_all_at_once_are_not_in_memory() -> None:
    given = (values(B, 9, D, N), values(B, 9, D, N), values(B, 9, N))
    scheduled = schedule(Function(joined_states), given)
    assert len(scheduled.groups) == 1 and scans(scheduled) == [N], shown(scheduled)
    check(scheduled, Function(joined_states), given)


class Selective(nn.Module):
    """Any number of sequences."""

    def forward(self, a: torch.Tensor, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """[batch, length, channels, states] twice and [batch, length, states] → [batch, channels, length]."""
        h, ys = torch.zeros(a.shape[0], D, N), []
        for t in range(a.shape[1]):
            h = a[:, t] * h + x[:, t]
            ys.append((h @ c[:, t, :, None])[..., 0])
        return torch.stack(ys, -1)


def sequences(batch: int) -> Tensors:
    return values(batch, 5, D, N), values(batch, 5, D, N), values(batch, 5, N)


def test_the_batch_may_be_a_dimension_of_the_plan() -> None:
    ranges = {name: {0: (1, 8)} for name in "axc"}
    scheduled = schedule(Selective(), sequences(3), ranges)
    assert len(scheduled.groups) == 1 and scans(scheduled) == [N], shown(scheduled)
    with running(prepared(Selective(), sequences(3), ranges)) as runner:
        for batch in (1, 2, 7):
            wanted = Selective()(*sequences(batch))
            torch.testing.assert_close(results(runner, sequences(batch))[0], wanted, rtol=1e-4, atol=1e-5)
