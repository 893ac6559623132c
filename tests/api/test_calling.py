"""The calling convention: arguments in any legal spelling, the original's output structure, clear refusals."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from ullage.calling import Convention
from ullage.errors import InputError
from ullage.frontends.export import capture
from ullage.graph.reference import run_captured


class Pair(NamedTuple):
    """Two outputs."""

    total: torch.Tensor
    product: torch.Tensor


class Model(nn.Module):
    """Nested outputs, a flag, an optional argument."""

    def forward(
        self, a: torch.Tensor, b: torch.Tensor, flag: bool = True, bias: torch.Tensor | None = None
    ) -> dict[str, Any]:
        """A dictionary with a tuple, a named tuple, a constant and None."""
        total = a + b if flag else a - b
        return {"pair": Pair(total, a * b), "list": [total * 2, 3], "none": bias}


A, B = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)


def convention(*args: Any, **kwargs: Any) -> tuple[Convention, Any]:
    """The convention of the model captured with these arguments, and the captured graph."""
    captured = capture(Model(), args, kwargs)
    return Convention.of(captured, Model()), captured


@pytest.mark.parametrize(
    ("example", "call"),
    [
        (((A, B), {}), ((A, B), {})),
        (((A, B), {}), ((A,), {"b": B})),
        (((A, B), {}), ((), {"b": B, "a": A})),
        (((A, B), {}), ((A, B, True), {})),
        (((A, B), {}), ((A, B), {"flag": True, "bias": None})),
        (((A, B, True), {}), ((A, B), {})),
        (((A,), {"b": B}), ((A, B), {})),
        (((A,), {"b": B, "flag": False}), ((A, B, False), {})),
        (((), {"b": B, "a": A}), ((A, B), {})),
    ],
)
def test_every_legal_spelling_of_a_call_binds(example: Any, call: Any) -> None:
    made, _ = convention(*example[0], **example[1])
    bound = made.bind(*call)
    assert bound.keys() == {"a", "b"}
    assert bound["a"] is A
    assert bound["b"] is B


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((A,), {}, "missing|signature"),
        ((A, B, False), {}, "fixed at capture|structure"),
        ((A, B), {"flag": False}, "fixed at capture|structure"),
        ((A, B), {"bias": A}, "structure|fixed"),
        ((A, B), {"colour": 1}, "signature"),
        ((A, 3.0), {}, "must be a tensor"),
        (((A, A), B), {}, "structure"),
    ],
)
def test_other_calls_are_refused(args: Any, kwargs: Any, message: str) -> None:
    made, _ = convention(A, B, True)
    with pytest.raises(InputError, match=message):
        made.bind(args, kwargs)


def test_outputs_get_their_structure_back() -> None:
    made, captured = convention(A, B)
    bound = made.bind((A, B), {})
    result = made.restore(run_captured(captured, list(bound.values())))
    expected = Model()(A, B)
    assert result.keys() == expected.keys()
    assert isinstance(result["pair"], Pair)
    assert torch.equal(result["pair"].product, expected["pair"].product)
    assert torch.equal(result["list"][0], expected["list"][0])
    assert result["list"][1] == 3
    assert result["none"] is None
