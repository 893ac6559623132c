"""ONNX out: what ONNX Runtime computes from written models, how weights, names and sizes leave, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ullage
import ullage.codegen.lower
from benchmarks.round_trip import relative_error, round_trip, runtime_results
from tests.flow.test_samples import error
from tests.frontends.onnx.onnx_samples import MORE
from tests.samples import FAMILIES, Family, Sample, floats, ints
from ullage.cli import main
from ullage.codegen.lower.table import TABLE
from ullage.codegen.lower.templates import TEMPLATES
from ullage.driver import Options, rewritten
from ullage.errors import CaptureError, InputError, UnsupportedOperator
from ullage.frontends.load import load_model, write_onnx
from ullage.frontends.onnx.write import file
from ullage.frontends.onnx.write.file import write_file
from ullage.frontends.onnx.write.model import onnx_model
from ullage.frontends.onnx.write.operators import load_forms
from ullage.frontends.onnx.write.table import FORMS
from ullage.graph.constants import Box, ConstantRef
from ullage.graph.operators import ARGSORT
from ullage.graph.reference import run_captured
from ullage.graph.sources import FileSlice
from ullage.passes.quantize.measure import run_as_kernels
from ullage.passes.quantize.names import parse_scheme
from ullage.target import Target

try:
    import onnxruntime
except ImportError:
    onnxruntime = None
aten = torch.ops.aten
with_runtime = pytest.mark.skipif(onnxruntime is None, reason="onnxruntime is not installed (extra: dev)")


def written(model: nn.Module, folder: Path, *inputs: torch.Tensor, **options: Any) -> Path:
    path = folder / "model.onnx"
    assert ullage.export_onnx(model, path, inputs, **options) == (path,)
    onnx.checker.check_model(path, full_check=True)
    return path


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


class Perceptron(nn.Module):
    """Two linear layers of 128 by 128, whose weights suit every scheme."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(128, 128), nn.Linear(128, 128)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


# ---- operators --------------------------------------------------------------------------------------------------
def recent() -> list[Sample]:
    """Shifts, pools of three dimensions, positions of maxima, and order among equal and special values."""
    places, own, solid = F.max_pool2d_with_indices, F.max_pool3d_with_indices, floats(2, 3, 5, 6, 7)
    one, inverse = torch.tensor(1, dtype=torch.uint8), (("asinh", -1e3, 1e3), ("acosh", 1, 1e3), ("atanh", -0.99, 0.99))
    samples = [
        *(Sample(name, getattr(torch, name), (floats(99, low=low, high=high),)) for name, low, high in inverse),
        Sample("places_up", lambda a: places(a, (3, 2), 2, 1, 1, True)[1], (ints(2, 3, 9, 10).half(),)),
        Sample("places_apart", lambda a: places(a, 2, 1, 0, 2)[1], (floats(3, 9, 8),)),
        Sample("places_solid", lambda a: own(a, 2, (1, 2, 2), 1, (1, 2, 1))[1], (solid,)),
        Sample("max_solid", lambda a: F.max_pool3d(a, (2, 3, 2), 2, 1, 1, True), (solid,)),
        Sample("mean_solid", lambda a: F.avg_pool3d(a, (2, 3, 2), 2, 1, True, False), (solid[0],)),
        Sample("adaptive_solid", lambda a: F.adaptive_avg_pool3d(a, (5, 2, 3)), (solid,)),
        *(Sample(f"{run.__name__}_of_one", partial(run, dim=0), (one,)) for run in (torch.all, torch.argmax)),
        Sample("all_bits", lambda a, b: aten.__xor__(aten.__and__(a, b), aten.__or__(a, 3)), (ints(20), ints(20))),
    ]
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        ends, bits = torch.iinfo(dtype), torch.iinfo(dtype).bits
        x = torch.cat([torch.tensor([ends.max, ends.min]), ints(40)]).to(dtype)
        counts = (torch.arange(42) * 5 % (bits + 2) - int(ends.min < 0)).to(dtype)
        for run in (torch.bitwise_left_shift, torch.bitwise_right_shift):
            samples.append(Sample(f"{run.__name__}_{dtype}", run, (x, counts)))
            samples.append(Sample(f"{run.__name__}_of_number_{dtype}", partial(run, 100), (counts,)))
        if dtype != torch.int64:
            samples.append(Sample(f"max_{dtype}", nn.MaxPool2d(3, 2), (x[:36].reshape(1, 1, 6, 6),)))
    for dtype in (torch.float16, torch.float32, torch.float64):
        most = torch.finfo(dtype).max
        kinds = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0, -1.0, most, -most]).to(dtype)
        for largest in (False, True):
            run = partial(ARGSORT, dim=1, descending=largest, count=9)
            samples.append(Sample(f"order_{largest}_{dtype}", run, (kinds[ints(3, 300, low=0, high=9)],)))
    return samples


@with_runtime
@pytest.mark.parametrize("name", [*FAMILIES, *MORE, "recent"])
def test_written_operators_are_as_close_to_the_truth_as_eager(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    samples: list[Sample] = {**FAMILIES, **MORE, "recent": recent}[name]()
    model = Family(tuple(samples)).eval()
    (path,) = write_onnx(load_model(model, model.inputs), tmp_path / "family.onnx")
    onnx.checker.check_model(path, full_check=True)
    results = runtime_results(path, model.inputs)
    found = {s.name: error(s, r) for s, r in zip(samples, results, strict=True)}
    assert {key: what for key, what in found.items() if what is not None} == {}


def _is_of_graphs(target: Any) -> bool:
    """Whether a graph can hold an overload: one on tensors that returns its result."""
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    kinds = [str(argument.type) for argument in target._schema.arguments]
    makes = str(target).split(".")[1] in ("full", "zeros", "ones", "arange", "scalar_tensor")
    of_lists = target._overloadname.endswith(("hacked_twin", "list_Tensor"))
    return not of_lists and (makes or any("Tensor" in kind for kind in kinds))


def test_every_operator_with_a_lowering_has_a_form() -> None:
    ullage.codegen.lower.load_table()
    load_forms()
    missing = [str(t) for t in (*TABLE.lowerings, *TEMPLATES) if _is_of_graphs(t) and t not in FORMS]
    assert missing == []


def test_operators_without_a_form_are_refused_together(tmp_path: Path) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0(x) + torch.linalg.det(x.reshape(2, 2))

    with pytest.raises(UnsupportedOperator, match=r"i0.*det.*no ONNX form") as caught:
        ullage.export_onnx(model, tmp_path / "m.onnx", (floats(4),))
    assert len(caught.value.operators) == 2
    assert list(tmp_path.iterdir()) == []


def test_sums_by_index_are_no_row_writes(tmp_path: Path) -> None:
    # ONNX Runtime adds from several threads at once in `ScatterND`, and loses some of what has the same place.
    def model(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return x.index_put((i,), x[:4], accumulate=True)

    found = operators(written(model, tmp_path, floats(9, 2), ints(4, low=0, high=9)))  # type: ignore[arg-type]
    assert found["ScatterElements"] == 1 and found["ScatterND"] == 0


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2)])
def test_pools_of_wide_integers_are_refused(pool: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperator, match=r"_pool2d.*of int64"):
        ullage.export_onnx(pool, tmp_path / "m.onnx", (ints(1, 1, 4, 4),))


# ---- whole models -----------------------------------------------------------------------------------------------
@with_runtime
@pytest.mark.parametrize("name", ["mamba", "unet"])
def test_models_go_to_onnx_and_back(name: str, tmp_path: Path) -> None:
    row = round_trip(name, tmp_path)
    assert row.passed, row


def test_norms_and_products_stay_whole(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(2, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(x)
            return y @ y.transpose(-1, -2)

    found = operators(written(Model(), tmp_path, floats(1, 64, 64, 64)))
    assert found == {"GroupNormalization": 1, "Transpose": 1, "MatMul": 1}


# ---- weights ----------------------------------------------------------------------------------------------------
BITS = {"int8-weights": 8, "int4-weights/64": 4, "int2-weights": 2}


@with_runtime
@pytest.mark.parametrize("scheme", [*BITS, "int3-weights", "int8", "bfloat16"])
def test_narrow_weights_stay_narrow(scheme: str, tmp_path: Path) -> None:
    model, x = Perceptron(), floats(5, 128)
    path = written(model, tmp_path, x, quantize=scheme)
    captured = load_model(model, (x,))
    options = Options(Target.parse("cpu", 1), quantize=parse_scheme(scheme), samples=({"x": x},))
    wanted = run_as_kernels(rewritten(captured, options)[0], {"x": x}, {})
    assert relative_error(runtime_results(path, [x]), wanted) < 5e-5
    weights = {value.name: value for value in onnx.load(path).graph.initializer if len(value.dims) > 1}
    sizes = sum(len(value.raw_data) for value in weights.values())
    if scheme in BITS:
        assert operators(path)["MatMulNBits"] == 2
        assert sizes == 2 * 128 * 128 * BITS[scheme] // 8
    elif scheme == "bfloat16":
        assert sizes == 2 * 128 * 128 * 2
    else:
        assert operators(path)["DequantizeLinear"] == 2
        assert sizes <= 1.3 * 2 * 128 * 128


@with_runtime
def test_codes_are_read_back(tmp_path: Path) -> None:
    x = floats(3, 128)
    path = written(Perceptron(), tmp_path, x, quantize="int4-weights")
    assert relative_error(ullage.compile(path)(x), runtime_results(path, [x])) < 1e-5


@with_runtime
@pytest.mark.parametrize("form", ["per_channel", "per_tensor", "with_zeros"])
def test_weights_that_came_as_codes_leave_as_codes(form: str, tmp_path: Path) -> None:
    count = 1 if form == "per_tensor" else 70
    codes = torch.randint(-9, 9, (128, 70), dtype=torch.int8)
    scales = torch.rand(count) + 0.5
    zeros = torch.randint(-3, 3, (count,), dtype=torch.int8) if form == "with_zeros" else None
    proto = _with_codes(codes, scales.reshape(()) if count == 1 else scales, zeros)
    path, x = tmp_path / "again.onnx", floats(3, 128)
    ullage.export_onnx(proto, path)
    onnx.checker.check_model(path, full_check=True)
    assert operators(path) == {"DequantizeLinear": 1, "MatMul": 1}
    wanted = x @ ((codes.float() - (0 if zeros is None else zeros.float())) * scales)
    assert relative_error(runtime_results(path, [x]), [wanted]) < 1e-6


def _with_codes(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None) -> onnx.ModelProto:
    helper, parts = onnx.helper, {"w": codes, "s": scales} | ({} if zeros is None else {"z": zeros})
    decoding = helper.make_node("DequantizeLinear", list(parts), ["f"], axis=1)
    nodes = [decoding, helper.make_node("MatMul", ["x", "f"], ["y"])]
    values = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [3, 128]), ("y", [3, 70]))]
    held = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in parts.items()]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


@with_runtime
def test_large_weights_lie_beside_the_model(tmp_path: Path) -> None:
    model, x = Perceptron(), floats(5, 128)
    path = tmp_path / "model.onnx"
    files = write_file(onnx_model(load_model(model, (x,))), path, embedded_bytes=1000)
    assert [f.name for f in files] == ["model.onnx", "model.onnx.data"] == sorted(f.name for f in tmp_path.iterdir())
    onnx.checker.check_model(path, full_check=True)
    assert relative_error(runtime_results(path, [x]), [model(x)]) < 1e-6
    sources = [ref.source for ref in load_model(path).constants.values() if len(ref.shape) == 2]
    assert len(sources) == 2 and all(isinstance(source, FileSlice) for source in sources)


@dataclass(frozen=True)
class Counting:
    """Rows of whole numbers; remembers the bytes of the largest box, and fails at a row."""

    largest: list[int]
    fails_at: int = 1 << 60

    def read(self, box: Box) -> torch.Tensor:
        if box[0].stop > self.fails_at:
            raise CaptureError("the weights file changed.")
        rows = torch.arange(box[0].start, box[0].stop).unsqueeze(1).expand(-1, 50).int()
        self.largest.append(rows.numel() * 4)
        return rows.contiguous()

    key = "counting"


class Rows(nn.Module):
    """A buffer that is added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(1000, 50, dtype=torch.int32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.rows


@pytest.mark.parametrize("embedded_bytes", [0, 1 << 20])
def test_weights_are_written_in_pieces(embedded_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "PIECE_BYTES", 3000)
    captured, source = load_model(Rows(), (torch.ones(50).int(),)), Counting([])
    (name,) = captured.constants
    captured.constants[name] = ConstantRef("rows", torch.int32, (1000, 50), source)
    path = tmp_path / "model.onnx"
    write_file(onnx_model(captured), path, embedded_bytes)
    assert max(source.largest) <= 3000
    (value,) = [v for v in onnx.load(path).graph.initializer if v.name == "rows"]
    assert np.array_equal(onnx.numpy_helper.to_array(value)[:, 7], np.arange(1000))


@pytest.mark.parametrize("embedded_bytes", [0, 1 << 20])
def test_what_fails_leaves_nothing(embedded_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "PIECE_BYTES", 3000)
    captured = load_model(Rows(), (torch.ones(50).int(),))
    (name,) = captured.constants
    captured.constants[name] = ConstantRef("rows", torch.int32, (1000, 50), Counting([], fails_at=700))
    path = tmp_path / "model.onnx"
    path.write_text("what was there before")
    with pytest.raises(CaptureError, match="changed"):
        write_file(onnx_model(captured), path, embedded_bytes)
    assert [f.name for f in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_text() == "what was there before"


# ---- names, types and sizes -------------------------------------------------------------------------------------
@with_runtime
def test_dynamic_dimensions_keep_names_and_ranges(tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            joined = torch.cat([x, y], 1)
            return {"pairs": joined.reshape(-1, 2).mean(1), "joined": joined + torch.arange(joined.shape[1])}

    batch, length = torch.export.Dim("batch", min=1, max=9), torch.export.Dim("length", min=2, max=30)
    shapes = {"x": {0: batch, 1: 2 * length}, "y": {0: batch}}
    path = written(Model(), tmp_path, floats(3, 8), floats(3, 4), dynamic_shapes=shapes)
    proto = onnx.load(path)
    dims = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.input}
    assert dims == {"x": ["batch", "2*length"], "y": ["batch", 4]}
    assert [v.name for v in proto.graph.output] == ["pairs", "joined"]
    assert {p.key: p.value for p in proto.metadata_props}["ullage.range.batch"] == "1..9"
    for rows, columns in ((1, 4), (9, 60), (4, 18)):
        inputs = floats(rows, columns), floats(rows, 4)
        assert relative_error(runtime_results(path, inputs), list(Model()(*inputs).values())) < 1e-6


@with_runtime
def test_writes_and_orders_have_dynamic_sizes(tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, i: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, ...]:
            put = aten.index_put(x.unsqueeze(1).repeat(1, 4, 1), [None, i[0] % 4, i[0]], s[:1, 1:], True)
            ordered = torch.sort(x.double(), stable=True)[1], x.topk(2, 1)[1], x.cummin(1)[0]
            places = F.max_pool2d(x.unsqueeze(1), (1, 2), return_indices=True)[1]
            return x.scatter(1, i, s), x.scatter(1, i, 1.5), x.scatter_reduce(1, i, s, "amax"), put, *ordered, places

    rows, length = torch.export.Dim("rows", min=1, max=9), torch.export.Dim("length", min=2, max=30)
    shapes = {"x": {0: rows, 1: 2 * length}, "i": {0: rows}, "s": {0: rows + 2}}
    made = {(r, n): (floats(r, n), ints(r, 5, low=0, high=n), floats(r + 2, 6)) for r, n in ((3, 8), (1, 4), (9, 60))}
    path = written(Model(), tmp_path, *made[3, 8], dynamic_shapes=shapes)
    for inputs in made.values():
        assert relative_error(runtime_results(path, inputs), Model()(*inputs)) < 1e-6


def test_ranges_are_read_back(tmp_path: Path) -> None:
    class Positions(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.arange(x.shape[1])

    path = written(Positions(), tmp_path, floats(3, 8), dynamic_shapes={"x": {1: (1, 40)}})
    captured = load_model(path)
    assert [(d.name, d.minimum, d.maximum) for d in captured.dims] == [("x_1", 1, 40)]
    assert torch.equal(run_captured(captured, (torch.ones(3, 40),))[0][1], torch.arange(40.0))
    fixed = load_model(path, (floats(3, 8),))
    assert (fixed.dims, fixed.inputs[0].shape) == ((), (3, 8))


def test_results_that_are_inputs_constants_or_the_same_have_names_of_their_own(tmp_path: Path) -> None:
    def model(x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = x * 2
        return {"same": x, "one": torch.ones(3), "y": y, "again": y, "narrow": y.bfloat16()}

    path = written(model, tmp_path, floats(4))  # type: ignore[arg-type]
    outputs = {value.name: value.type.tensor_type.elem_type for value in onnx.load(path).graph.output}
    assert list(outputs) == ["same", "one", "y", "again", "narrow"]
    assert outputs["narrow"] == onnx.TensorProto.BFLOAT16


# ---- the command ------------------------------------------------------------------------------------------------
MODEL = "tests.small_models:perceptron"


def test_the_command_writes_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.onnx"
    assert main(["convert", MODEL, "-o", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["files"], document["file_bytes"]) == ([str(path)], path.stat().st_size)
    assert [value.name for value in onnx.load(path).graph.output] == ["hidden", "last_0"]


@pytest.mark.parametrize(
    "flags", [["--budget", "24MiB"], ["--threads", "2"], ["--tune", "5"], ["--target", "cpu:generic"]]
)
def test_what_says_how_an_artifact_runs_is_refused(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", MODEL, "-o", str(tmp_path / "p.onnx"), *flags]) == 2
    assert f"nothing is meant by {flags[0][2:]}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_compiled_model_is_not_saved_as_onnx(tmp_path: Path) -> None:
    compiled = ullage.compile(lambda x: x + 1, (floats(3),))
    with pytest.raises(InputError, match="export_onnx"):
        compiled.save(tmp_path / "m.onnx")
