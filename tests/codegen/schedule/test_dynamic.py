"""Dynamic dimensions through the whole flow: every shape inside the bounds, at every budget, equals eager."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tests.codegen.schedule.models import VOCABULARY, Decoder, Encoder, convolutions, perceptron
from tests.codegen.schedule.scheduling import Tensors
from tests.codegen.schedule.whole_flow import artifact, budgets, error, prepared, results, tensors
from ullage.errors import InputError
from ullage.runtime.load import load
from ullage.runtime.runner import Runner

Ranges = dict[str, dict[int, tuple[int, int]]]


@dataclass(frozen=True)
class Case:
    """A model, how to make inputs of a shape, its dynamic dimensions, good sizes and bad ones."""

    make: Callable[[], nn.Module]
    inputs: Callable[..., Tensors]
    ranges: Ranges
    sizes: tuple[tuple[int, ...], ...]
    wrong: tuple[Tensors, ...]


def rows(batch: int) -> Tensors:
    """Vectors."""
    return (torch.randn(batch, 16),)


def tokens(batch: int, length: int) -> Tensors:
    """Token numbers."""
    return (torch.randint(0, VOCABULARY, (batch, length)),)


def padded(batch: int, length: int) -> Tensors:
    """Token numbers and a mask whose last rows end early."""
    mask = (torch.arange(length) < torch.randint(1, length + 1, (batch, 1))).long()
    return *tokens(batch, length), mask


def images(batch: int, height: int, width: int) -> Tensors:
    """Images."""
    return (torch.randn(batch, 3, height, width),)


TEXT = {0: (1, 3), 1: (2, 16)}
CASES = {
    "perceptron": Case(perceptron, rows, {"input": {0: (1, 9)}}, ((1,), (4,), (9,)), (rows(10), (torch.randn(2, 15),))),
    "decoder": Case(
        Decoder, tokens, {"ids": TEXT}, ((1, 2), (2, 7), (3, 16)),
        (tokens(4, 7), tokens(2, 17), (torch.randint(0, 9, (2,)),)),
    ),
    "encoder": Case(
        Encoder, padded, {"ids": TEXT, "mask": TEXT}, ((1, 2), (2, 7), (3, 16)),
        (padded(4, 7), (*tokens(2, 7), torch.ones(2, 6, dtype=torch.int64))),
    ),
    "images": Case(
        convolutions, images, {"input": {0: (1, 3), 2: (8, 32), 3: (8, 32)}}, ((1, 8, 32), (3, 17, 19), (2, 32, 32)),
        (images(1, 7, 8), images(1, 8, 33), images(4, 8, 8)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_shape_at_every_budget(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    module = case.make()
    model = prepared(module, case.inputs(*case.sizes[1]), case.ranges)
    examples = [case.inputs(*size) for size in case.sizes]
    first: dict[int, Tensors] = {}
    with artifact(model) as path:
        for budget in budgets(model):
            with load(path, budget) as runner:
                assert runner.plan.peak_bytes["ram"] <= budget
                _check_shapes(runner, module, examples, first)
                for wrong in case.wrong:
                    with pytest.raises(InputError):
                        runner(*wrong)


def _check_shapes(runner: Runner, module: nn.Module, examples: list[Tensors], first: dict[int, Tensors]) -> None:
    """Each example and the first one again: eager's result, and the same bits as at other budgets."""
    for number, inputs in enumerate([*examples, examples[0]]):
        found = results(runner, inputs)
        _check(found, tensors(module(*inputs)))
        bits = first.setdefault(number % len(examples), found)
        assert all(torch.equal(a, b) for a, b in zip(bits, found, strict=True))


def _check(found: Tensors, expected: Tensors) -> None:
    assert [x.shape for x in found] == [x.shape for x in expected]
    assert all(error(ours, wanted.double()) <= 2e-6 for ours, wanted in zip(found, expected, strict=True))
