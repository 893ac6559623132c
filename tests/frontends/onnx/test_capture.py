"""ONNX models as users give them: files, names, dynamic dimensions, weights beside the file, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import ullage
from ullage.codegen.lower.table import TABLE
from ullage.errors import CaptureError, InputError, UllageError, UnsupportedOperator
from ullage.frontends.load import load_model
from ullage.graph.sources import FileSlice

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(
    nodes: list[onnx.NodeProto], inputs: dict[str, list[Any]], outputs: list[str], weights: dict[str, np.ndarray],
    opset: int = 17,
) -> onnx.ModelProto:  # fmt: skip
    """A model of float inputs; outputs have no shapes."""
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def network(batch: Any = 2) -> onnx.ModelProto:
    """A convolution, a pool, and a product behind a flattening that is computed from the shape."""
    nodes = [
        helper.make_node("Conv", ["pixels.1", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["p"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "first"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "d"], ["classes/1"], transB=1),
    ]
    weights = {
        "w": floats(8, 3, 3, 3), "b": floats(8), "v": floats(5, 8 * 5 * 6), "d": floats(5),
        "zero": np.array(0), "first": np.array([0]), "rest": np.array([-1]),
    }  # fmt: skip
    return model_of(nodes, {"pixels.1": [batch, 3, 10, 12]}, ["classes/1"], weights)


def expected(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    """What the standard's reference gives."""
    (found,) = ReferenceEvaluator(model).run(None, inputs)
    return np.asarray(found)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def test_a_file_keeps_its_names_and_gives_the_standards_result(tmp_path: Path) -> None:
    model, x = network(), floats(2, 3, 10, 12)
    captured = load_model(saved(model, tmp_path))
    assert [spec.name for spec in captured.inputs] == ["pixels.1"]
    assert [spec.name for spec in captured.outputs] == ["classes/1"]
    compiled = ullage.compile(str(tmp_path / "model.onnx"))
    (found,) = compiled(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected(model, **{"pixels.1": x}), rtol=1e-4, atol=1e-5)
    compiled.close()


def test_a_batch_decides_at_run_time(tmp_path: Path) -> None:
    """An open dimension with a range is dynamic, through shapes that the model computes with."""
    model = network("batch")
    compiled = ullage.compile(str(saved(model, tmp_path)), dynamic_shapes={"pixels.1": {0: (1, 6)}})
    for count in (1, 3, 6):
        x = floats(count, 3, 10, 12)
        (found,) = compiled(torch.from_numpy(x))
        np.testing.assert_allclose(found.numpy(), expected(model, **{"pixels.1": x}), rtol=1e-4, atol=1e-5)
    compiled.close()


def test_open_dimensions_need_a_size(tmp_path: Path) -> None:
    path = saved(network("batch"), tmp_path)
    with pytest.raises(InputError, match=r"dimension 0 of input 'pixels.1' is open \(batch\)"):
        load_model(path)
    captured = load_model(path, input_specs={"pixels.1": ("float32", (4, 3, 10, 12))})
    assert captured.inputs[0].shape == (4, 3, 10, 12)
    with pytest.raises(InputError, match="no input 'x'"):
        load_model(path, input_specs={"x": ("float32", (4, 3, 10, 12))})


def _external(folder: Path) -> Path:
    path = folder / "model.onnx"
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [3, 96]}, ["y"], {"w": floats(96, 96)})
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_large_weights_beside_the_file_stay_there(tmp_path: Path) -> None:
    path = _external(tmp_path)
    (constant,) = load_model(path).constants.values()
    assert isinstance(constant.source, FileSlice) and constant.source.path.name == "weights.bin"
    compiled, x = ullage.compile(str(path)), floats(3, 96)
    (found,) = compiled(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected(onnx.load(path), x=x), rtol=1e-4, atol=1e-4)
    compiled.close()


def test_weights_that_are_cut_short_or_gone_are_refused(tmp_path: Path) -> None:
    path = _external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 100)
    with pytest.raises(CaptureError, match="cut short"):
        load_model(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(CaptureError, match="does not exist"):
        load_model(path)


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/hostname"])
def test_weights_outside_of_the_folder_are_refused(place: str, tmp_path: Path) -> None:
    model = onnx.load(_external(tmp_path), load_external_data=False)
    (tmp_path.parent / "weights.bin").write_bytes(b"\0" * 96 * 96 * 4)
    for entry in model.graph.initializer[0].external_data:
        entry.value = place if entry.key == "location" else entry.value
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CaptureError, match="outside of the model's folder"):
        load_model(path)


def test_functions_are_computed_with_the_attributes_of_their_calls() -> None:
    body = helper.make_node("LeakyRelu", ["a"], ["b"])
    body.attribute.append(onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope"))
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Leaky", ["a"], ["b"], [body], opset, ["slope"])
    calls = [
        helper.make_node("Leaky", ["x"], ["h"], domain="own", slope=0.5),
        helper.make_node("Leaky", ["h"], ["y"], domain="own", slope=0.25),
    ]
    model = model_of(calls, {"x": [2, 3]}, ["y"], {})
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    compiled, x = ullage.compile(model), floats(2, 3)
    (found,) = compiled(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), np.where(x < 0, x / 8, x), rtol=1e-6)
    compiled.close()


def test_branches_have_weights_of_their_own() -> None:
    """Initializers of two subgraphs may have one name."""

    def branch(name: str, value: float) -> onnx.GraphProto:
        node = helper.make_node("Add", ["x", "w"], [f"{name}_out"])
        result = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [2, 3])
        weight = numpy_helper.from_array(np.full((2, 3), value, np.float32), "w")
        return helper.make_graph([node], name, [], [result], [weight])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["test"]),
        helper.make_node("If", ["test"], ["y"], then_branch=branch("yes", 10.0), else_branch=branch("no", -10.0)),
    ]
    model = model_of(nodes, {"x": [2, 3]}, ["y"], {"zero": np.array(0, np.float32)})
    compiled = ullage.compile(model)
    for value in (1.0, -1.0):
        (found,) = compiled(torch.full((2, 3), value))
        assert torch.equal(found, torch.full((2, 3), 11 * value))
    compiled.close()


def _refused(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None) -> UllageError:
    with pytest.raises(UllageError) as caught:
        load_model(model_of(nodes, {"x": [2, 3]}, ["y"], weights or {}))
    assert "\n" not in str(caught.value)
    return caught.value


def test_unknown_operators_are_named_with_their_nodes() -> None:
    nodes = [helper.make_node("Unheard", ["x"], ["y"], name="third", domain="some.where")]
    error = _refused(nodes)
    assert isinstance(error, UnsupportedOperator) and "some.where::Unheard (from node 'third')" in str(error)


def test_attributes_that_no_translation_reads_are_refused() -> None:
    """Else a model would be computed as something that it is not."""
    error = _refused([helper.make_node("Relu", ["x"], ["y"], name="it", slope=2.0)])
    assert "ai.onnx::Relu (node 'it'): the attribute slope" in str(error)


def test_sizes_that_data_decide_are_refused() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Tile", ["x", "i"], ["y"], name="tile"),
    ]
    assert "computed from data" in str(_refused(nodes))


def test_circles_are_refused() -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    nodes.append(helper.make_node("Relu", ["b"], ["y"]))
    assert "circle" in str(_refused(nodes))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12\xff\xff\xff\xff\x0f" * 9])
def test_damaged_files_are_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UllageError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_shapes_that_do_not_fit_are_refused() -> None:
    error = _refused([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], {"w": floats(5, 2)})
    assert "ai.onnx::MatMul (node 'product')" in str(error)


def _reshaping() -> onnx.ModelProto:
    model = model_of([helper.make_node("Reshape", ["x", "n"], ["y"])], {"x": [4, 6]}, ["y"], {})
    model.graph.input.append(helper.make_tensor_value_info("n", TensorProto.INT64, [2]))
    return model


def test_inputs_that_sizes_follow_from_are_fixed_at_their_examples(tmp_path: Path) -> None:
    """Another value is refused, by the compiled model and by the artifact."""
    x, shape = floats(4, 6), np.array([8, 3])
    compiled = ullage.compile(_reshaping(), example_inputs=(torch.from_numpy(x), torch.from_numpy(shape)))
    (found,) = compiled(torch.from_numpy(x), torch.from_numpy(shape))
    np.testing.assert_array_equal(found.numpy(), x.reshape(8, 3))
    with pytest.raises(InputError, match=r"input n: .* fixed at \[8, 3\]"):
        compiled(torch.from_numpy(x), torch.tensor([3, 8]))
    compiled.save(tmp_path / "m.ullage")
    compiled.close()
    runner = ullage.load(tmp_path / "m.ullage")
    np.testing.assert_array_equal(runner(x, shape), x.reshape(8, 3))
    with pytest.raises(InputError, match=r"fixed at \[8, 3\]"):
        runner(x, np.array([3, 8]))
    runner.close()
    document = json.loads(subprocess.run(
        [sys.executable, "-m", "ullage", "inspect", str(tmp_path / "m.ullage"), "--json"],
        capture_output=True, check=True,
    ).stdout)  # fmt: skip
    assert [tensor.get("fixed") for tensor in document["inputs"]] == [None, [8, 3]]


def test_sizes_need_examples_of_the_inputs_that_they_follow_from() -> None:
    with pytest.raises(CaptureError, match=r"Give example values of n to fix them"):
        load_model(_reshaping())
    with pytest.raises(CaptureError, match=r"computed from data"):
        node = helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64)
        model = model_of([node, helper.make_node("Expand", ["x", "i"], ["y"])], {"x": [100]}, ["y"], {})
        load_model(model, (torch.ones(100),))


def test_operators_without_a_lowering_are_named_by_their_onnx_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (TABLE.lowerings, TABLE.kinds):
        monkeypatch.delitem(table, torch.ops.aten.erf.default)
    model = model_of([helper.make_node("Erf", ["x"], ["y"], name="third")], {"x": [2, 3]}, ["y"], {})
    with pytest.raises(UnsupportedOperator, match=r"aten.erf.default \(from ai.onnx::Erf \(node 'third'\)\)"):
        ullage.compile(model, example_inputs=(torch.ones(2, 3),))
