"""Nothing that a node says is passed over, and nothing that a file claims is believed before it is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from tests.frontends.onnx.test_capture import floats, model_of
from ullage.errors import CaptureError, UllageError
from ullage.frontends.load import load_model
from ullage.frontends.onnx.module import OnnxModule
from ullage.frontends.onnx.read import from_proto


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(UllageError) as caught:
        load_model(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_operator_sets_that_are_not_known_yet_are_refused() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"], {}, opset=29)
    assert "operator set 29; the newest known is 28" in refusal(model)


BATCH_NORM = {"s": floats(3), "b": floats(3), "m": floats(3), "v": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    ("node", "weights", "opset", "text"),
    [
        (helper.make_node("Relu", ["x", "w"], ["y"]), {"w": floats(2)}, 17, "input 1 is not supported"),
        (helper.make_node("Softmax", ["x"], ["y"], mode="hard"), {}, 17, "the attribute mode is not supported"),
        (
            helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3]),
            {"w": floats(4, 3, 1, 1)}, 17, "kernel_shape",
        ),
        (
            helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], spatial=0),
            BATCH_NORM, 8, "spatial=0",
        ),
        (
            helper.make_node("LayerNormalization", ["x", "w"], ["y"], stash_type=11),
            {"w": floats(4)}, 17, "another type than float",
        ),
        (helper.make_node("Reshape", ["w", "s"], ["y"], order=1), {"w": floats(4), "s": np.array([2, 2])}, 17, "order"),
        (
            helper.make_node("GRU", ["x3", "r", "r"], ["y"], clip=3.0),
            {"x3": floats(2, 1, 4), "r": floats(1, 12, 4)}, 17, "clip",
        ),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)  # fmt: skip
def test_what_a_node_says_is_looked_at(
    node: onnx.NodeProto, weights: dict[str, np.ndarray], opset: int, text: str
) -> None:
    """On values that are computed ahead as well."""
    assert text in refusal(model_of([node], {"x": [2, 3, 4, 4]}, ["y"], weights, opset))


def test_group_indices_of_packed_weights_are_refused() -> None:
    weights = {"w": np.zeros((8, 1, 8), np.uint8), "s": floats(8, 1), "g": np.zeros(16, np.int32)}
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s", "", "g"], ["y"], domain="com.microsoft", N=8, K=16, bits=4, block_size=16
    )
    model = model_of([node], {"x": [2, 16]}, ["y"], weights)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "input 4 is not supported" in refusal(model)


@pytest.mark.parametrize("claimed", [[4], [1 << 40], [-3, 5]])
def test_initializers_whose_bytes_do_not_fit_are_refused(claimed: list[int]) -> None:
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [2]}, ["y"], {"w": floats(2)})
    stored = model.graph.initializer[0]
    del stored.dims[:]
    stored.dims.extend(claimed)
    assert "'w'" in refusal(model)


BIG = 1 << 36
GROWING: list[tuple[list[onnx.NodeProto], dict[str, Any]]] = [
    ([helper.make_node("ConstantOfShape", ["n"], ["y"])], {"n": np.array([BIG])}),
    ([helper.make_node("Expand", ["one", "n"], ["y"])], {"one": floats(1), "n": np.array([BIG])}),
    ([helper.make_node("Tile", ["one", "n"], ["y"])], {"one": floats(1), "n": np.array([BIG])}),
    (
        [helper.make_node("Range", ["zero", "n", "step"], ["y"])],
        {"zero": np.array(0), "n": np.array(BIG), "step": np.array(1)},
    ),
    ([helper.make_node("Pad", ["one", "n"], ["y"])], {"one": floats(1), "n": np.array([0, BIG])}),
    ([helper.make_node("Pad", ["one", "n"], ["y"], mode="wrap")], {"one": floats(1), "n": np.array([0, BIG])}),
    (
        [helper.make_node("OneHot", ["i", "n", "two"], ["y"])],
        {"i": np.array([1]), "n": np.array(BIG), "two": floats(2)},
    ),
    ([helper.make_node("Add", ["a", "b"], ["y"])], {"a": np.zeros((4096, 1), int), "b": np.zeros((1, 4096), int)}),
    (
        [helper.make_node("Resize", ["image", "", "scales"], ["y"], mode="linear")],
        {"image": floats(1, 1, 4), "scales": np.array([1, 1, 1e10], np.float32)},
    ),
    ([helper.make_node("HannWindow", ["n"], ["y"])], {"n": np.array(BIG)}),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "weights"), GROWING, ids=[nodes[0].op_type for nodes, _ in GROWING])
def test_nodes_that_grow_are_not_computed_while_the_graph_is_read(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]
) -> None:
    """Tracing holds no values; what is refused is refused in one line."""
    model = model_of(nodes, {"x": [2]}, ["y"], weights, opset=19)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = _peak_kib()
    try:
        load_model(model)
    except UllageError as error:
        assert "\n" not in str(error)
    assert _peak_kib() - before < 200 * 1024


def _peak_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_loops_in_loops_are_not_unrolled_without_end() -> None:
    """Steps multiply; the nodes that they are unrolled to are counted together."""

    def loop(name: str, inner: list[onnx.NodeProto]) -> onnx.NodeProto:
        step = helper.make_tensor_value_info(f"{name}_i", TensorProto.INT64, [])
        go = helper.make_tensor_value_info(f"{name}_c", TensorProto.BOOL, [])
        keep = helper.make_node("Identity", [f"{name}_c"], [f"{name}_k"])
        out = helper.make_tensor_value_info(f"{name}_k", TensorProto.BOOL, [])
        body = helper.make_graph([keep, *inner], name, [step, go], [out])
        return helper.make_node("Loop", ["n", "true"], [], body=body)

    nodes = [loop("a", [loop("b", [loop("c", [])])]), helper.make_node("Relu", ["x"], ["y"])]
    weights = {"n": np.array(1 << 30), "true": np.array(True)}
    assert "the loops of the model are too long" in refusal(model_of(nodes, {"x": [2]}, ["y"], weights))


RECURRENT = {
    "LeakyRelu": ({"activation_alpha": [0.3]}, lambda x: np.where(x > 0, x, 0.3 * x)),
    "ScaledTanh": ({"activation_alpha": [1.5], "activation_beta": [0.5]}, lambda x: 1.5 * np.tanh(0.5 * x)),
    "HardSigmoid": ({}, lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    "Elu": ({}, lambda x: np.where(x > 0, x, np.expm1(x))),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_activations_of_recurrent_cells_have_their_factors(name: str) -> None:
    attributes, function = RECURRENT[name]
    weights = {"w": floats(1, 4, 3), "r": floats(1, 4, 4)}
    node = helper.make_node("RNN", ["x", "w", "r"], ["y"], hidden_size=4, activations=[name], **attributes)
    module, x = OnnxModule(from_proto(model_of([node], {"x": [2, 1, 3]}, ["y"], weights))), floats(2, 1, 3)
    (found,) = module(torch.from_numpy(x))
    hidden = np.zeros((1, 4))
    for step in range(2):
        hidden = function(x[step] @ weights["w"][0].T + hidden @ weights["r"][0].T)
        np.testing.assert_allclose(found[step, 0].numpy(), hidden, rtol=1e-5, atol=1e-6)
    with pytest.raises(CaptureError, match="2 activations for 1 directions"):
        load_model(model_of([_with(node, activations=["Tanh", "Tanh"])], {"x": [2, 1, 3]}, ["y"], weights))


def _with(node: onnx.NodeProto, **attributes: Any) -> onnx.NodeProto:
    kept = {a.name: helper.get_attribute_value(a) for a in node.attribute} | attributes
    return helper.make_node(node.op_type, list(node.input), list(node.output), **kept)
