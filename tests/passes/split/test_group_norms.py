"""Group norms over large images: split where that pays, as close to the truth, in few launches, at all budgets."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.codegen.schedule.scheduling import Tensors
from tests.codegen.schedule.whole_flow import artifact, budgets, error, prepared, results
from ullage.frontends.load import load_model
from ullage.passes.manager import PassManager
from ullage.passes.pipelines import parse, run_clean
from ullage.passes.split.group_norms import SplitGroupNorms
from ullage.runtime.load import load


class Block(nn.Module):
    """A convolution, a group norm, SiLU; `shift` moves all values away from zero."""

    def __init__(self, groups: int, affine: bool = True, shift: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 16, 3, padding=1)
        self.norm = nn.GroupNorm(groups, 16, affine=affine)
        self.shift = shift
        if affine:
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 4, h, w] → [batch, 16, h, w]."""
        return F.silu(self.norm(self.conv(x) + self.shift))


def image(batch: int = 1, height: int = 96, width: int = 80) -> torch.Tensor:
    """Pixels."""
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(1))


def rewrites(module: nn.Module, inputs: Tensors, dynamic_shapes: Any = None) -> list[str]:
    """What the pass says of a model."""
    module.eval().requires_grad_(False)
    _, made = run_clean(load_model(copy.deepcopy(module), inputs, dynamic_shapes=dynamic_shapes))
    return [rewrite.what for rewrite in made if rewrite.pass_name == SplitGroupNorms.name]


@pytest.mark.parametrize(("groups", "x", "said"), [
    (2, image(), ["statistics in 15 blocks"]),
    (1, image(2, 64, 64), ["statistics in 16 blocks"]),
    (4, image(1, 64, 64), []),
    (2, image(1, 1, 10007), []),
], ids=["large", "batch", "small", "no_even_blocks"])  # fmt: skip
def test_only_large_groups_of_even_blocks_are_split(groups: int, x: torch.Tensor, said: list[str]) -> None:
    assert rewrites(Block(groups), (x,)) == said


def test_sizes_that_change_are_left_alone() -> None:
    assert rewrites(Block(2), (image(),), {"x": {2: (32, 128)}}) == []


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("affine", [True, False])
def test_the_result_is_the_norm_at_every_budget(groups: int, affine: bool) -> None:
    module, x = Block(groups, affine), image(2)
    truth = copy.deepcopy(module).double().requires_grad_(False)(x.double())
    model = prepared(module, (x,))
    found = []
    with artifact(model) as path:
        for budget in budgets(model):
            with load(path, budget) as runner:
                found += results(runner, (x,))
    assert all(torch.equal(other, found[0]) for other in found[1:])
    assert error(found[0], truth) < 2 * max(error(module(x), truth), 1e-7)


def test_values_far_from_zero_lose_nothing() -> None:
    """Sums of squares would have no digit left."""
    module, x = Block(1, shift=3000.0), image()
    truth = copy.deepcopy(module).double().requires_grad_(False)(x.double())
    model = prepared(module, (x,))
    with artifact(model) as path, load(path) as runner:
        (found,) = results(runner, (x,))
    assert error(found, truth) < 2 * error(module(x), truth)


def test_narrow_values_are_summed_in_float32() -> None:
    module, x = nn.GroupNorm(1, 4).bfloat16(), image(1, 128, 96).bfloat16()
    assert len(rewrites(module, (x,))) == 1
    truth = copy.deepcopy(module).double().requires_grad_(False)(x.double())
    model = prepared(module, (x,))
    with artifact(model) as path, load(path) as runner:
        (found,) = results(runner, (x,))
    assert error(found, truth) < 3e-3


def test_memory_is_walked_twice() -> None:
    """The convolution, statistics of blocks, of all, and the pointwise rest, which keeps the convolution's order."""
    steps = prepared(Block(2), (image(),)).scheduled.schedule.steps
    assert [len([o for o in step.operands if o.access == "w"]) for step in steps[-3:]] == [2, 2, 1]
    assert len(steps) == 5


def test_the_option_is_part_of_the_text() -> None:
    (split,) = parse("split_group_norms{least_elements=16}")
    captured, _ = run_clean(load_model(Block(2).eval(), (image(1, 64, 63),)))
    _, made = PassManager((split,)).run(captured)
    assert [rewrite.what for rewrite in made] == ["statistics in 8 blocks"]
