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

from ullage.frontends.onnx.fixed import inputs_behind, known_example
from ullage.frontends.onnx.module import OnnxModule, input_value
from ullage.frontends.onnx.narrow import Narrow, decoded, narrow_type
from ullage.frontends.onnx.read import from_proto, torch_dtype
from ullage.frontends.onnx.table import ComputedValue
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
    array = array_of(array)
    if array is None or isinstance(array, list):
        return None if array is None else [value_of(item) for item in array]
    dtype = ir.DataType.from_numpy(array.dtype)
    kind = narrow_type(dtype)
    if kind is not None:
        return torch.from_numpy(kind.codes_of(array).copy())
    return tensor_of(array, torch_dtype(dtype, "an input"))


def array_of(array: Any) -> Any:
    """An input or output of a case as an array, a list of them, or None."""
    if array is None or isinstance(array, list):
        return None if array is None else [array_of(item) for item in array]
    return numpy_helper.to_array(array) if isinstance(array, onnx.TensorProto) else np.asarray(array)


_HALF = 4e-3
"""Absolute tolerance of the half types, whose last places are further apart than the cases' own tolerances."""


def check_eagerly(case: Case) -> None:
    """Run the translation with real tensors; raises whatever is wrong with it."""
    module = OnnxModule(from_proto(case.model))
    for inputs, expected in case.data:
        given = dict(zip((v.name for v in module.inputs), map(value_of, inputs), strict=False))
        with torch.no_grad():
            found = _walked(module, given)
        for got, wanted in zip(found, expected, strict=True):
            check(case, got, wanted)


def _walked(module: OnnxModule, given: dict[Any, Any]) -> list[Any]:
    """The outputs; inputs that sizes follow from are known, as they are when a model is captured with examples."""
    inside = {v.name: input_value(v, given.get(v.name)) for v in module.inputs}
    while True:
        try:
            return module._walk(module.model.graph, inside)
        except ComputedValue as error:
            names = {name for name in inputs_behind(module, error.value) if not isinstance(inside[name], Known)}
            if not names:
                raise
            inside |= {name: known_example(given[name]) for name in names}


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
    kind = narrow_type(ir.DataType.from_numpy(array_of(expected).dtype))
    if kind is not None:
        tensor = tensor.codes if isinstance(tensor, Narrow) else tensor
        assert tensor.dtype == wanted.dtype and tensor.shape == wanted.shape, "other codes"
        assert torch.equal(*(torch.nan_to_num(decoded(Narrow(t, kind)), 1e9) for t in (tensor, wanted))), "other values"
        return
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
