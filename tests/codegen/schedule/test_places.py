"""Sorts and writes at computed places in whole models: kernels, memory, threads, dynamic sizes and bad indices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.codegen.schedule.scheduling import Function, Tensors, check, schedule, shown
from tests.codegen.schedule.whole_flow import budgets, prepared, results, running, tensors
from ullage.driver import Options, prepare
from ullage.errors import CaptureError
from ullage.frontends.load import load_model
from ullage.plan.steps import Step
from ullage.runtime.load import load
from ullage.target import Target


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def places(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(high))


def sums(m: Any, x: torch.Tensor, i: torch.Tensor, s: torch.Tensor) -> Any:
    """Many places that meet, along either dimension, sorted at last."""
    added = (x * 2).scatter_add(1, i, s).index_add(0, i[:, 0] % x.shape[0], s[:, : x.shape[1]])
    top = added.softmax(-1).topk(5, -1)
    return top.values, top.indices, added.sort(dim=0, stable=True).indices, added.quantile(0.3, 1)


SUMS: Tensors = (values(24, 33), places(33, 24, 40), values(24, 40))


def test_values_and_positions_are_one_kernel() -> None:
    given = (values(6, 50),)
    both = schedule(Function(lambda m, x: x.sort(stable=True)), given)
    assert shown(both) == ["loops: argsort gather -> 2"]
    check(both, Function(lambda m, x: tuple(x.sort(stable=True))), given)


def test_positions_that_nobody_reads_have_no_memory() -> None:
    given = (values(6, 50),)
    module = Function(lambda m, x: (x * 2).topk(5).values + 1)
    scheduled = schedule(module, given)
    assert shown(scheduled) == ["loops: mul argsort gather add -> 1"], shown(scheduled)
    assert {s.kind for s in scheduled.schedule.storages} == {"input", "output"}
    check(scheduled, module, given)


def test_a_write_follows_what_it_writes_to_in_the_same_memory() -> None:
    given = (values(9, 7), places(7, 9, 5), values(9, 5))
    module = Function(lambda m, x, i, s: x.scatter(1, i, s).scatter_add(1, i, s.exp()).cos())
    scheduled = schedule(module, given)
    second = next(step for step in scheduled.schedule.steps if step.name == "scatter_reduce")
    assert isinstance(second, Step)
    assert [second.operands[read].target for read, _ in second.inplace] == ["scatter"]
    check(scheduled, module, given)


def test_what_a_write_still_reads_is_not_overwritten() -> None:
    given = (values(9, 7), places(7, 9, 7))
    module = Function(lambda m, x, i: (lambda y: y.scatter(1, i, y))(x.cumsum(0)))
    scheduled = schedule(module, given)
    last = scheduled.schedule.steps[-1]
    assert isinstance(last, Step) and last.name == "scatter" and not last.inplace
    check(scheduled, module, given)


def test_bits_do_not_depend_on_threads_nor_on_the_budget(tmp_path: Path) -> None:
    module, found = Function(sums), []
    captured = load_model(module, SUMS)
    for threads in (1, 2):
        model = prepare(captured, Options(Target.parse("cpu", threads=threads)))
        for budget in budgets(model):
            path = tmp_path / "model.ullage"
            model.write(model.plan(budget), path)
            with load(path) as runner:
                found.append(results(runner, SUMS))
    for result in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], result, strict=True))
    wanted = tensors(sums(None, *SUMS))
    assert all(torch.allclose(found[0][n], wanted[n], atol=1e-5) for n in (0, 3)) and torch.equal(
        found[0][1], wanted[1]
    )


class Updated(nn.Module):
    """Rows that are set, added to, and sorted."""

    def forward(self, x: torch.Tensor, i: torch.Tensor, s: torch.Tensor) -> Tensors:
        """[rows, length], and places and values [rows, 3]."""
        y = x.scatter_reduce(1, i, s, "amax").index_put((torch.tensor([0, -1]),), s[:2, :1], True)
        y = torch.slice_scatter(y, y[:, ::2] * 2, 1, 0, y.shape[1], 2)
        return (*y.sort(dim=1, stable=True), y.topk(3).values, y.median(1).values, y.cummax(1).indices)


def test_dynamic_sizes() -> None:
    rows, length = Dim("rows", min=2, max=40), Dim("length", min=4, max=90)
    given = (values(5, 12), places(4, 5, 3), values(5, 3))
    with running(prepared(Updated(), given, ({0: rows, 1: length}, {0: rows}, {0: rows}))) as runner:
        for n, width in ((5, 12), (2, 4), (31, 77)):
            inputs = (values(n, width), places(4, n, 3), values(n, 3))
            for got, wanted in zip(results(runner, inputs), Updated()(*inputs), strict=True):
                assert torch.equal(got, wanted)


def test_indices_outside_write_nothing_and_negative_ones_count_from_the_end() -> None:
    given = (values(4, 6), torch.tensor([[1, 7, -1], [-7, 2, 6], [99, -99, 0], [1 << 40, 3, 3]]), values(4, 3))
    wanted = given[0].clone()
    for row in range(4):
        for place, value in zip(given[1][row].tolist(), given[2][row], strict=True):
            if -6 <= place < 6:
                wanted[row, place] = value
    safe = (given[0], given[1].clamp(0, 5), given[2])
    with running(prepared(Function(lambda m, x, i, s: x.scatter(1, i, s)), safe)) as runner:
        assert torch.equal(results(runner, given)[0], wanted)


@pytest.mark.parametrize("run", [lambda m, x: x.nonzero(), lambda m, x: x.unique(), lambda m, x: x[x > 0]])
def test_results_of_data_dependent_sizes_are_refused(run: Any) -> None:
    with pytest.raises(CaptureError, match="shapes depend on values"):
        load_model(Function(run), (values(4, 3),))
