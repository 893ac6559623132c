"""What cannot be lowered is refused at once: every operator, and where in the model it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.codegen.schedule.scheduling import schedule
from ullage.errors import UnsupportedOperator


class Counter(nn.Module):
    """Counts values by their sizes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, columns] → [4, 4]."""
        return torch.histc(x, 16).reshape(4, 4)


class Digamma(nn.Module):
    """A function without a kernel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of each element."""
        return torch.digamma(x)


class Unsupported(nn.Module):
    """Two modules with operators that have no lowering, between some that have."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.counter, self.digamma = nn.Linear(4, 4), Counter(), Digamma()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[4, 4] → [4, 4]."""
        return self.digamma(self.counter(self.scale(x)).relu())


def test_all_unsupported_operators_are_named_with_their_origin() -> None:
    with pytest.raises(UnsupportedOperator) as refused:
        schedule(Unsupported(), (torch.randn(4, 4),))
    operators = {name.split(".")[1]: places for name, places in refused.value.operators.items()}
    assert set(operators) == {"histc", "digamma"}
    assert "counter" in operators["histc"][0] and "digamma" in operators["digamma"][0]
    assert "histc" in str(refused.value) and "digamma" in str(refused.value)


class Convolutions(nn.Module):
    """Convolutions that no template covers, beside an unknown operator."""

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """[1, 3, 8, 8] and [4, 3, 3, 3] → [1, 4, 6, 6]."""
        return torch.digamma(torch.conv2d(x, w))


def test_convolutions_that_no_template_covers_are_refused_with_the_rest() -> None:
    heights = {"x": {2: (4, 16)}}
    with pytest.raises(UnsupportedOperator) as refused:
        schedule(Convolutions(), (torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)), heights)
    message = str(refused.value)
    assert "with a computed weight" in message and "digamma" in message
    assert len(refused.value.operators) == 2


@pytest.mark.parametrize("draw", [torch.rand_like, torch.randn_like, lambda x: nn.functional.dropout(x, training=True)])
def test_random_numbers_are_refused_with_what_to_do(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + draw(x)

    with pytest.raises(UnsupportedOperator, match="Draw random numbers outside"):
        schedule(Noisy(), (torch.randn(2, 3),))


def test_a_form_of_an_operator_that_has_no_lowering_is_refused_with_its_reason() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    with pytest.raises(UnsupportedOperator, match="5 dimensions"):
        schedule(Attention(), (torch.randn(2, 2, 2, 4, 8),))
