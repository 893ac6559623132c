"""The standard's own backend tests: cases of the default domain, and their translations run by PyTorch.

`python -m tests.frontends.onnx.standard [TEXT]` prints how many cases with the text in their name pass, and the others
by reason.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from ullage.frontends.onnx.module import OnnxModule
from ullage.frontends.onnx.read import from_proto, torch_dtype
from ullage.frontends.onnx.values import Known, tensor_of

_KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
_OTHER_DOMAINS = frozenset({"ai.onnx.preview.training", "ai.onnx.preview", "ai.onnx.ml"})


@dataclass(frozen=True)
class Case:
    """One test: a model, its data sets (inputs and expected outputs as arrays or lists of them), and tolerances."""

    name: str
    model: onnx.ModelProto
    data: tuple[tuple[Sequence[Any], Sequence[Any]], ...]
    rtol: float
    atol: float


@cache
def cases() -> tuple[Case, ...]:
    """All cases in the default domain, without training and strings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [case for kind in _KINDS for case in _loaded(kind)]
    return tuple(case for case in found if _is_ours(case))


def _loaded(kind: str) -> Iterator[Case]:
    for case in load_model_tests(kind=kind):
        if case.model is not None:
            yield Case(case.name, case.model, tuple(case.data_sets or ()), case.rtol, case.atol)
        elif case.model_dir is not None and (Path(case.model_dir) / "model.onnx").exists():
            folder = Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            sets = tuple(_stored(model, data) for data in sorted(folder.glob("test_data_set_*")))
            yield Case(case.name, model, sets, case.rtol, case.atol)


def _stored(model: onnx.ModelProto, folder: Path) -> tuple[list[Any], list[Any]]:
    sides = (("input", model.graph.input), ("output", model.graph.output))
    inputs, outputs = (
        [
            _array(folder / f"{side}_{i}.pb", v.type)
            for i, v in enumerate(values)
            if (folder / f"{side}_{i}.pb").exists()
        ]
        for side, values in sides
    )
    return inputs, outputs


def _array(path: Path, kind: onnx.TypeProto) -> Any:
    data = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def _is_ours(case: Case) -> bool:
    domains = {imported.domain for imported in case.model.opset_import}
    strings = any("elem_type: 8\n" in str(v.type) for v in (*case.model.graph.input, *case.model.graph.output))
    return domains.isdisjoint(_OTHER_DOMAINS) and not strings


def value_of(array: Any) -> Any:
    """A tensor, a list of them, or None."""
    if array is None or isinstance(array, list):
        return None if array is None else [value_of(item) for item in array]
    array = numpy_helper.to_array(array) if isinstance(array, onnx.TensorProto) else np.asarray(array)
    return tensor_of(array, torch_dtype(ir.DataType.from_numpy(array.dtype), "an input"))


def constants_of(case: Case) -> frozenset[str]:
    """Inputs whose values are needed: shapes, axes and counts that sizes follow from, and weights of convolutions."""
    wanted = {
        node.input[place]
        for node in case.model.graph.node
        for place in _PLACES.get(node.op_type, ())
        if place < len(node.input)
    }
    return frozenset(value.name for value in case.model.graph.input if value.name in wanted)


_PLACES = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "ConvInteger": (1, 2, 3), "QLinearConv": (1, 2, 3, 4, 5, 6, 7, 8),
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2, 3, 4), "Pad": (1, 2, 3), "Resize": (1, 2, 3),
    "Upsample": (1,), "TopK": (1,), "Split": (1,), "Squeeze": (1,), "Unsqueeze": (1,), "ConstantOfShape": (0,),
    "Range": (0, 1, 2), "OneHot": (1,), "Trilu": (1,), "CumSum": (1,), "CumProd": (1,),
    "CenterCropPad": (1,), "Col2Im": (1, 2),
    "MaxUnpool": (2,), "AffineGrid": (1,), "Compress": (1,), "HannWindow": (0,), "HammingWindow": (0,),
    "BlackmanWindow": (0,), "Loop": (0, 1), "If": (0,), "SequenceAt": (1,), "SequenceInsert": (2,),
    "SequenceErase": (1,), "SplitToSequence": (1,), "Dropout": (2,), "MelWeightMatrix": (0, 1, 2, 3, 4), "DFT": (1, 2),
    "STFT": (1, 3), "ReduceSum": (1,), "ReduceMean": (1,), "ReduceMax": (1,), "ReduceMin": (1,), "ReduceProd": (1,),
    "ReduceL1": (1,), "ReduceL2": (1,), "ReduceLogSum": (1,), "ReduceLogSumExp": (1,), "ReduceSumSquare": (1,),
}  # fmt: skip


def _given(value: Any, known: bool) -> Any:
    if known and isinstance(value, torch.Tensor) and value.dtype != torch.bfloat16:
        return Known(value.numpy(), value.dtype, value)
    return value


_HALF = 4e-3
"""Absolute tolerance of the half types, whose last places are further apart than the cases' own tolerances."""


def check_eagerly(case: Case) -> None:
    """Run the translation with real tensors; raises whatever is wrong with it."""
    module = OnnxModule(from_proto(case.model))
    known = constants_of(case)
    for inputs, expected in case.data:
        values = dict(zip((v.name for v in module.inputs), map(value_of, inputs), strict=False))
        for value in module.inputs[len(inputs) :]:
            values[value.name] = None
        given = {name: _given(value, name in known) for name, value in values.items()}
        with torch.no_grad():
            found = module._walk(module.model.graph, given)
        for got, wanted in zip(found, expected, strict=True):
            check(case, got, wanted)


def check(case: Case, found: Any, expected: Any) -> None:
    """Equal in dtype, shape and, within the case's tolerances, values."""
    if isinstance(expected, list):
        assert len(found) == len(expected), f"{len(found)} items instead of {len(expected)}"
        for a, b in zip(found, expected, strict=True):
            check(case, a, b)
        return
    if expected is None:
        assert found is None
        return
    tensor, wanted = found.as_tensor() if isinstance(found, Known) else found, value_of(expected)
    assert tensor.dtype == wanted.dtype, f"{tensor.dtype} instead of {wanted.dtype}"
    assert tensor.shape == wanted.shape, f"shape {tuple(tensor.shape)} instead of {tuple(wanted.shape)}"
    if not (wanted.is_floating_point() or wanted.is_complex()):
        assert torch.equal(tensor, wanted), "other integers"
        return
    coarse = wanted.dtype in (torch.float16, torch.bfloat16)
    a, b = (t.to(torch.complex128) if t.is_complex() else t.double() for t in (tensor, wanted))
    assert torch.allclose(a, b, case.rtol, _HALF if coarse else case.atol, equal_nan=True), "other values"


def main() -> int:
    """Print passes and failures."""
    text = sys.argv[1] if len(sys.argv) > 1 else ""
    failures: dict[str, list[str]] = defaultdict(list)
    chosen = [case for case in cases() if text in case.name]
    for case in chosen:
        try:
            check_eagerly(case)
        except Exception as error:
            failures[f"{type(error).__name__}: {str(error)[:120]}"].append(case.name)
    bad = sum(map(len, failures.values()))
    print(f"{len(chosen) - bad} of {len(chosen)} pass")
    for why, names in sorted(failures.items(), key=lambda item: -len(item[1])):
        print(f"{len(names):4} {why}  {' '.join(names[:4])}")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
