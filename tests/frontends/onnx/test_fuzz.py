"""Files changed at random are read or refused; what was found once stays refused."""

from __future__ import annotations

import random

import pytest
from onnx import TensorProto, helper

from tests.frontends.onnx.fuzz import findings, read, seeds, timed
from tests.frontends.onnx.test_capture import model_of


def test_changed_models_are_read_or_refused() -> None:
    """The long form is `python -m tests.frontends.onnx.fuzz`."""
    found = [f"{type(error).__name__}: {error}" for _, error in findings(seeds(), random.Random(7), 40)]
    assert not found


@pytest.mark.parametrize("size", [-1, -(1 << 31), 1 << 40, (1 << 63) - 1])
def test_inputs_of_impossible_sizes_are_refused(size: int) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [size, 4]}, ["y"], {})
    assert "input 'x'" in timed(lambda: read(model.SerializeToString()))


def test_names_with_line_breaks_stay_in_one_line() -> None:
    model = model_of([helper.make_node("Re\nlu", ["x"], ["y"], name="a\nb")], {"x": [2]}, ["y"], {})
    assert "ai.onnx::Re lu" in read(model.SerializeToString())


def test_outputs_that_nobody_computes_are_refused() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["z"])], {"x": [2]}, ["y"], {})
    assert read(model.SerializeToString())


def test_two_nodes_of_one_result_are_refused() -> None:
    nodes = [helper.make_node(kind, ["x"], ["y"]) for kind in ("Relu", "Neg")]
    assert read(model_of(nodes, {"x": [2]}, ["y"], {}).SerializeToString())


def test_inputs_of_no_type_are_refused() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"], {})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UNDEFINED
    assert "undefined" in read(model.SerializeToString())
