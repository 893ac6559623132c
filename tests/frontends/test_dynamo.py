"""The Dynamo backend: graphs of one model share one budget, sizes vary, writes are done, changes are noticed."""

from __future__ import annotations

import copy
import gc
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import ullage
from ullage.frontends.dynamo import _backends
from ullage.frontends.symbols import grown


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing that Dynamo remembers goes from test to test, and no record of its log holds a graph."""
    torch._dynamo.reset()
    torch.manual_seed(5)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    torch._dynamo.reset()


def agree(made: Any, original: Any, *args: Any) -> None:
    """The same results as the original's, structure included."""
    with torch.no_grad():
        torch.testing.assert_close(made(*args), original(*args), rtol=1e-4, atol=1e-5)


class Broken(nn.Module):
    """A graph break between two uses of one weight (256 KiB), in a nested module, and a number from a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.tied = nn.Linear(256, 256)
        self.inner = nn.Sequential(self.tied, nn.ReLU())

    def forward(self, x: torch.Tensor, factor: int = 2) -> torch.Tensor:
        """[batch, 256] → [batch, 256]."""
        hidden = self.inner(x) * factor
        torch._dynamo.graph_break()
        return self.tied(hidden) + x.shape[0]


def test_the_graphs_of_one_model_share_one_budget() -> None:
    """Two graphs with the same weight in a budget that holds it once; the options name the budget they share."""
    model = Broken().eval()
    options = {"budget": 768 << 10}
    compiled = torch.compile(model, backend="ullage", options=options, dynamic=False)
    for _ in range(2):
        agree(compiled, model, torch.randn(3, 256))
    backend = _backends[id(options)]
    group = backend.pieces.group
    assert group.measured_bytes() <= sum(group.held_bytes().values()) <= 768 << 10
    stats = backend.stats()
    assert [part["loaded"] for part in stats["pieces"]] == [True, True]
    assert all(part["resident_bytes"] > 256 << 10 for part in stats["pieces"])
    assert stats["peak_bytes"] <= stats["budget_bytes"] == 768 << 10
    assert "2 pieces in one budget of 768 KiB" in backend.explain()


def test_modules_of_one_class_have_their_own_weights() -> None:
    """Dynamo calls one graph with the parameters of both; each has a variant, in one budget."""
    backend = ullage.Backend(budget="2MiB")
    layers = [nn.Linear(8, 8).eval() for _ in range(2)]
    made = [torch.compile(layer, backend=backend, dynamic=False) for layer in layers]
    x = torch.randn(3, 8)
    for _ in range(2):
        for layer, compiled in zip(layers, made, strict=True):
            agree(compiled, layer, x)
    assert [part.name.split("(")[0] for part in backend.pieces.group.parts()] == ["graph 1", "graph 1, state 2"]
    layers[0].weight = nn.Parameter(torch.randn(8, 8))
    agree(made[0], layers[0], x)


def test_a_budget_goes_with_its_graphs() -> None:
    """What Dynamo forgets is given back."""
    options = {"budget": "1MiB"}
    compiled = torch.compile(nn.Linear(8, 8).eval(), backend="ullage", options=options, dynamic=False)
    with torch.no_grad():
        compiled(torch.randn(3, 8))
    assert len(_backends[id(options)].pieces.group.parts()) == 1
    del compiled
    torch._dynamo.reset()
    gc.collect()
    assert id(options) not in _backends


def test_sizes_grow_in_powers_of_two() -> None:
    """The first size alone, as Dynamo has it; from then on one class per graph, made anew when it is outgrown."""
    model = Broken().eval()
    backend = ullage.Backend(budget="2MiB")
    compiled = torch.compile(model, backend=backend)
    for batch in (3, 5, 7, 16):
        agree(compiled, model, torch.randn(batch, 256))
    names = [part.name for part in backend.pieces.group.parts()]
    assert [name.count("2..16") for name in names] == [0, 0, 1, 2]
    agree(compiled, model, torch.randn(17, 256))
    agree(compiled, model, torch.randn(9, 256))
    gc.collect()
    names = [part.name for part in backend.pieces.group.parts()]
    assert [name.count("2..32") for name in names] == [0, 0, 1, 2]


@pytest.mark.parametrize(("size", "bound"), [(1, 16), (16, 16), (17, 32), (32, 32), (33, 64), (1000, 1024)])
def test_the_next_power_of_two(size: int, bound: int) -> None:
    assert grown(size) == bound


def test_declared_bounds_are_kept() -> None:
    """`mark_dynamic` bounds one plan from the first call on, `max_size` every other size."""
    layer = nn.Linear(8, 8).eval()
    marked = ullage.Backend(budget="2MiB")
    compiled = torch.compile(layer, backend=marked)
    x = torch.randn(6, 8)
    torch._dynamo.mark_dynamic(x, 0, min=2, max=50)
    agree(compiled, layer, x)
    agree(compiled, layer, torch.randn(50, 8))
    assert [part.name for part in marked.pieces.group.parts()] == ["graph 1(float32[2..50, 8])"]
    bounded = ullage.Backend(budget="2MiB", max_size=40)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=bounded, dynamic=True)
    agree(compiled, layer, torch.randn(30, 8))
    assert "2..40" in bounded.explain()
    with pytest.raises(ullage.InputError, match="41 is beyond max_size=40"):
        compiled(torch.randn(41, 8))


class Writing(nn.Module):
    """Statistics of batches, a cache that is written in place, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("cache", torch.zeros(4, 6))

    def forward(self, x: torch.Tensor, line: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, 6] → the normed batch and the sum over the cache; `x` is doubled in place."""
        x.mul_(2)
        normed = self.norm(x)
        self.cache[line : line + 1] = normed.mean(0)
        return normed, self.cache.sum(0)


def test_what_a_graph_writes_to_is_written() -> None:
    model = Writing().train()
    original = copy.deepcopy(model)
    compiled = torch.compile(model, backend="ullage", options={"budget": "2MiB"}, dynamic=False)
    with torch.no_grad():
        for line in (1, 2, 1):
            x = torch.randn(5, 6)
            mine, theirs = x.clone(), x.clone()
            torch.testing.assert_close(compiled(mine, line), original(theirs, line), rtol=1e-4, atol=1e-5)
            assert torch.equal(mine, theirs)
    torch.testing.assert_close(model.state_dict(), original.state_dict(), rtol=1e-4, atol=1e-5)


def test_values_may_steer_the_code_between_graphs() -> None:
    """An if over a tensor's value, and a value as a Python number."""

    def function(x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x * 2
        return (x - 1) * x.max().item()

    compiled = torch.compile(function, backend="ullage", options={"budget": "2MiB"}, dynamic=False)
    for sign in (1, -1, 1):
        agree(compiled, function, sign * torch.ones(7))


def test_changed_parameters_are_refused_and_changed_buffers_read() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    compiled = torch.compile(model, backend="ullage", options={"budget": "2MiB"}, dynamic=False)
    x = torch.randn(3, 4)
    agree(compiled, model, x)
    with torch.no_grad():
        model[1].running_mean.add_(1)
        agree(compiled, model, x)
        model[0].weight.mul_(2)
    with (
        torch.no_grad(),
        pytest.raises(ullage.InputError, match=r"weight.*was changed after graph 1 was compiled.*reset"),
    ):
        compiled(x)
    torch._dynamo.reset()
    agree(compiled, model, x)


def test_a_graph_without_room_is_named() -> None:
    compiled = torch.compile(nn.Linear(64, 64).eval(), backend="ullage", options={"budget": 4096}, dynamic=False)
    with pytest.raises(
        ullage.BudgetTooSmall, match=r"graph 1\(float32\[3, 64\]\), a piece of torch.compile,"
    ) as refusal:
        compiled(torch.randn(3, 64))
    assert refusal.value.requested == {"ram": 4096}
    assert refusal.value.minimum["ram"] > 4096


def test_numbers_that_keep_changing_are_refused_beyond_the_limit() -> None:
    """Dynamo makes a number that changes symbolic; here it is fixed in each class."""

    def function(x: torch.Tensor, n: int) -> torch.Tensor:
        return x * n

    compiled = torch.compile(function, backend="ullage", options={"budget": "2MiB", "recompile_limit": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in (3, 4, 5):
            agree(compiled, function, torch.ones(3), n)
    with torch.no_grad(), pytest.raises(ullage.InputError, match="graph 2 is compiled for 2 classes"):
        compiled(torch.ones(3), 6)


@pytest.mark.parametrize("options", [{"budget": "lots"}, {"max_size": 0}, {"dynamic_shapes": {}}, {"colour": 1}])
def test_options_are_checked_at_once(options: dict[str, Any]) -> None:
    with pytest.raises((ullage.InputError, TypeError)):
        ullage.Backend(**options)
