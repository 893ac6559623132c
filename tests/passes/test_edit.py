"""Editing: fake results are right and found once, and new constants lie behind the old ones."""

from __future__ import annotations

import pytest
import torch

from ullage.frontends.load import load_model
from ullage.graph.captured import CapturedModel
from ullage.graph.elementwise import literal
from ullage.passes.edit import Editor, value_of

aten = torch.ops.aten


class Shifted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.shift).relu()


@pytest.fixture
def model() -> CapturedModel:
    return load_model(Shifted(), (torch.ones(4, 6),))


def editor(model: CapturedModel) -> Editor:
    return Editor.of(model).at(model.module.graph.output_node())


def test_results_of_equal_calls_are_inferred_once(model: CapturedModel) -> None:
    edit = editor(model)
    (x,) = (node for node in edit.graph.nodes if node.name in model.input_nodes)
    first, again = edit.call(aten.permute.default, x, [1, 0]), edit.call(aten.permute.default, x, [1, 0])
    assert value_of(first) is value_of(again) and value_of(first).shape == (6, 4)
    assert value_of(edit.call(aten.permute.default, x, [0, 1])).shape == (4, 6)
    assert value_of(edit.call(aten.full.default, [2], 1, dtype=torch.int32)).dtype == torch.int32
    assert value_of(edit.call(aten.full.default, [2], 1, dtype=torch.int64)).dtype == torch.int64


@pytest.mark.parametrize("shape", [(24,), (2, 3, 4), (1, 24, 1)])
def test_a_reshape_has_the_shape_that_it_names(model: CapturedModel, shape: tuple[int, ...]) -> None:
    edit = editor(model)
    (x,) = (node for node in edit.graph.nodes if node.name in model.input_nodes)
    reshaped = edit.call(aten.reshape.default, x, list(shape))
    assert value_of(reshaped).shape == shape and value_of(reshaped).dtype == torch.float32
    assert value_of(edit.call(aten.reshape.default, x, [-1, 2])).shape == (12, 2)
    with pytest.raises(RuntimeError, match="invalid for input of size 24"):
        edit.call(aten.reshape.default, x, [5, 5])


def test_constants_stand_together_in_front(model: CapturedModel) -> None:
    edit = editor(model)
    added = [edit.add_constant(literal("c", torch.full((n,), 1.0))) for n in (1, 2)]
    edit.call(aten.neg.default, added[0])
    edit.remove_dead()
    added = [edit.add_constant(literal("c", torch.full((n,), 1.0))) for n in (3, 4)]
    names = [node.name for node in edit.graph.nodes]
    count = len(model.constants)
    assert set(names[:count]) == set(model.constants) and [node.name for node in added] == names[count - 2 : count]
