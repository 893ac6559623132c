"""The decorator: calls in every form, methods, classes with arguments, threads, copies, and weights that change."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import ullage


class Pair(NamedTuple):
    """A structure of tensors."""

    left: torch.Tensor
    right: torch.Tensor


@ullage.compile(budget="2MiB", recompile_limit=3)
def mixed(
    pair: Pair, /, scale: float = 2.0, *more: torch.Tensor, mode: str = "add", extra: Any = None
) -> dict[str, Any]:
    """Structures in and out, defaults, and values that steer the code."""
    both = pair.left + pair.right if mode == "add" else pair.left - pair.right
    summed = sum(more, both * scale)
    return {"out": Pair(summed, both), "extra": extra and [part + 1 for part in extra]}


def test_calls_in_every_form_and_one_class_for_each() -> None:
    """The order of keywords and defaults that are written out make no new class."""
    pair = Pair(torch.ones(3), torch.full((3,), 2.0))
    for result in (mixed(pair), mixed(pair, 2.0), mixed(pair, mode="add", scale=2.0), mixed(pair, extra=None)):
        assert torch.equal(result["out"].left, torch.full((3,), 6.0))
        assert result["extra"] is None
    assert len(mixed._classes) == 1
    extra = {"extra": [torch.zeros(2)], "mode": "subtract"}
    result = mixed(pair, 1.0, torch.ones(3), torch.ones(3), **extra)
    assert torch.equal(result["out"].left, torch.ones(3))
    assert isinstance(result["out"], Pair)
    assert torch.equal(result["extra"][0], torch.ones(2))
    assert [part.name for part in mixed.group.parts()][1].startswith("mixed(float32[3], float32[3], 1.0,")
    mixed(pair, 3.0)
    with pytest.raises(ullage.InputError, match="mixed is compiled for 3 classes"):
        mixed(pair, 4.0)
    with pytest.raises(ullage.InputError, match="cannot be called so"):
        mixed(pair, colour=1)
    with pytest.raises(ullage.InputError, match="neither a tensor nor a plain value"):
        mixed(pair, extra={1})


class Scaler:
    """A plain class with a compiled method."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    @ullage.compile(budget="2MiB")
    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """x · factor"""
        return x * self.factor


class Net(nn.Module):
    """A module with a compiled method that uses its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    @ullage.compile(budget="2MiB")
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's values."""
        return self.layer(x)


def test_methods_are_compiled_for_each_instance() -> None:
    x = torch.randn(2, 4)
    assert torch.equal(Scaler(3.0).scaled(x), x * 3)
    other = Scaler(5.0)
    assert torch.equal(other.scaled(x), x * 5)
    assert other.scaled is other.scaled
    assert other.scaled.__name__ == "scaled"
    net = Net().eval()
    assert torch.allclose(net.encode(x), net.layer(x), atol=1e-6)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.layer.weight.zero_()
    assert torch.allclose(twin.encode(x), net.layer.bias.expand(2, 4), atol=1e-6)
    assert torch.allclose(net.encode(x), net.layer(x), atol=1e-6)


@ullage.compile(budget="2MiB")
class Tower(nn.Module):
    """A decorated class with arguments."""

    def __init__(self, width: int, *, depth: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: torch.Tensor, *, double: bool = False) -> torch.Tensor:
        """[batch, width] → [batch, width]"""
        for layer in self.layers:
            x = layer(x).relu()
        return x * 2 if double else x


def eager(tower: Any, x: torch.Tensor) -> torch.Tensor:
    """What the tower computes uncompiled."""
    with torch.no_grad():
        return nn.Module.__call__(tower, x)


def test_a_class_with_arguments() -> None:
    tower = Tower(6, depth=2).eval()
    x = torch.randn(3, 6)
    assert torch.allclose(tower(x), eager(tower, x), atol=1e-6)
    assert torch.allclose(tower(x, double=True), 2 * eager(tower, x), atol=1e-6)
    assert Tower.__name__ == "Tower"
    assert len(list(tower.parameters())) == 4
    twin = copy.deepcopy(tower)
    assert torch.allclose(twin(x), eager(tower, x), atol=1e-6)
    assert not any(key.startswith("_ullage") for key in tower.state_dict())


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.load_state_dict({k: v * 2 for k, v in layer.state_dict().items()}),
        lambda layer: setattr(layer, "weight", nn.Parameter(torch.zeros(4, 4))),
        lambda layer: setattr(layer.weight, "data", torch.zeros(4, 4)),
        lambda layer: nn.init.zeros_(layer.bias),
    ],
    ids=["load", "assign", "data", "write"],
)
def test_changed_weights_are_refused_until_a_reset(change: Callable[[nn.Linear], object]) -> None:
    layer = nn.Linear(4, 4).eval()
    made = ullage.compile(layer, budget="2MiB")
    x = torch.randn(2, 4)
    made(x)
    change(layer)
    with pytest.raises(ullage.InputError, match=r"(weight|bias) was changed after Linear was compiled.*reset"):
        made(x)
    made.reset()
    assert torch.allclose(made(x), layer(x), atol=1e-6)


def test_threads_take_turns() -> None:
    """Two shape classes and one instance of a class called from four threads at once; none runs uncompiled."""
    tower = Tower(8).eval()
    inputs = [torch.randn(batch, 8) for batch in (2, 3, 2, 3)]
    wanted = [eager(tower, x) for x in inputs]
    failures: list[object] = []

    def work(number: int) -> None:
        for _ in range(20):
            found = tower(inputs[number])
            if found.requires_grad or not torch.allclose(found, wanted[number], atol=1e-6):
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(tower._ullage._classes) == 2
