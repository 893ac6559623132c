"""`verify` accepts captured graphs and names the rule that a broken one breaks; `show` prints graphs as stable text."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from ullage.frontends.export import capture
from ullage.graph.captured import CapturedModel, DimBounds
from ullage.graph.show import show
from ullage.graph.verify import MODEL_RULES, NODE_RULES, IllegalGraph, verify

aten = torch.ops.aten


def example() -> CapturedModel:
    return capture(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (torch.ones(2, 4),))


def relu(model: CapturedModel) -> torch.fx.Node:
    (node,) = model.module.graph.find_nodes(op="call_function", target=aten.relu.default)
    return node


TEXT = """\
p_0_weight: float32[3, 4] = constant(0.weight)
p_0_bias: float32[3] = constant(0.bias)
input_1: float32[2, 4] = input
linear: float32[2, 3] = linear(input_1, p_0_weight, p_0_bias)
relu: float32[2, 3] = relu(linear)
return (relu)
"""


def test_a_graph_has_a_stable_text() -> None:
    assert show(example()) == TEXT


def test_sizes_dtypes_lists_and_parts_have_a_text() -> None:
    def model(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.frexp(x.half()).mantissa, torch.arange(x.shape[0])

    text = show(capture(model, (torch.ones(3, 4),), dynamic_shapes={"x": {0: (1, 9)}}))
    symbol = text.split("[", 1)[1].split(",", 1)[0]
    assert re.sub(r"sym_size_int_\d+", "size", text.replace(symbol, "s")) == (
        "x: float32[s, 4] = input\n"
        "size: int = sym_size.int(x, 0)\n"
        "_to_copy: float16[s, 4] = _to_copy(x, dtype=float16)\n"
        "frexp: (float16[s, 4], int32[s, 4]) = frexp.Tensor(_to_copy)\n"
        "getitem: float16[s, 4] = getitem(frexp, 0)\n"
        "arange: int64[s] = arange.start_step(0, size, 1, dtype=int64)\n"
        "return (getitem, arange)\n"
    )


def test_a_captured_graph_is_legal() -> None:
    model = example()
    verify(model)
    assert [r.name for r in NODE_RULES if not all(map(r.holds, model.module.graph.nodes))] == []
    assert [breach for rule in MODEL_RULES for breach in rule.breaches(model)] == []


def forget_value(model: CapturedModel) -> None:
    del relu(model).meta["val"]


def mutate(model: CapturedModel) -> None:
    relu(model).target = aten.relu_.default


def foreign(model: CapturedModel) -> None:
    relu(model).target = torch.relu


def by_strides(model: CapturedModel) -> None:
    node = relu(model)
    node.target, node.args = aten.view.default, (node.args[0], [2, 3])


def part_of_one(model: CapturedModel) -> None:
    node = relu(model)
    node.target, node.args = operator.getitem, (node.args[0], 0)


def nested_output(model: CapturedModel) -> None:
    model.module.graph.output_node().args = ((relu(model), [relu(model)]),)


def lose_a_constant(model: CapturedModel) -> None:
    del model.constants["p_0_bias"]


def other_constant(model: CapturedModel) -> None:
    model.constants["p_0_bias"] = replace(model.constants["p_0_bias"], shape=(4,))


def other_input(model: CapturedModel) -> None:
    model.inputs = (replace(model.inputs[0], dtype=torch.float64),)


def other_output(model: CapturedModel) -> None:
    model.outputs = (replace(model.outputs[0], shape=(2, 4)),)


def empty_bounds(model: CapturedModel) -> None:
    model.dims = (DimBounds("s0", 5, 2),)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (forget_value, r"value: meta\[\"val\"\] is missing"),
        (mutate, "functional: "),
        (foreign, "operator: only aten"),
        (by_strides, "strides: "),
        (part_of_one, "part: getitem"),
        (nested_output, "outputs: the output must be a flat tuple"),
        (lose_a_constant, "placeholders: .* found .*p_0_bias"),
        (other_constant, r"constants: constant p_0_bias is float32\[4\], its placeholder float32\[3\]"),
        (other_input, r"inputs: input input is declared float64\[2, 4\], its placeholder float32\[2, 4\]"),
        (other_output, r"outputs: output output is declared float32\[2, 4\], returned is float32\[2, 3\]"),
        (empty_bounds, "dims: dimension s0 has the bounds 5..2"),
    ],
)
def test_a_broken_graph_is_refused_with_the_rule(break_it: Callable[[CapturedModel], None], message: str) -> None:
    model = example()
    break_it(model)
    with pytest.raises(IllegalGraph, match=message):
        verify(model)


def test_the_broken_node_is_shown_in_its_place() -> None:
    model = example()
    mutate(model)
    with pytest.raises(IllegalGraph) as caught:
        verify(model)
    assert "relu: float32[2, 3] = relu_(linear)\n    ^ functional: an operator must not" in str(caught.value)
