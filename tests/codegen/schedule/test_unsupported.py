"""What cannot be lowered is refused at once: every operator, and where in the model it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.codegen.schedule.scheduling import schedule
from ullage.errors import UnsupportedOperator


class Sorter(nn.Module):
    """Sorts rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, columns] → the same, each row in order."""
        return x.sort(-1).values


class Digamma(nn.Module):
    """A function without a kernel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of each element."""
        return torch.digamma(x)


class Unsupported(nn.Module):
    """Two modules with operators that have no lowering, between some that have."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.sorter, self.digamma = nn.Linear(4, 4), Sorter(), Digamma()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[4, 4] → [4, 4]."""
        return self.digamma(self.sorter(self.scale(x)).relu())


def test_all_unsupported_operators_are_named_with_their_origin() -> None:
    with pytest.raises(UnsupportedOperator) as refused:
        schedule(Unsupported(), (torch.randn(4, 4),))
    operators = {name.split(".")[1]: places for name, places in refused.value.operators.items()}
    assert set(operators) == {"sort", "digamma"}
    assert "sorter" in operators["sort"][0] and "digamma" in operators["digamma"][0]
    assert "sort" in str(refused.value) and "digamma" in str(refused.value)


def test_a_computed_convolution_weight_is_refused_by_name() -> None:
    class Computed(nn.Module):
        def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(x, w)

    with pytest.raises(UnsupportedOperator, match="computed weight"):
        schedule(Computed(), (torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)))
