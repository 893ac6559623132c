"""`load_model` finds the way in for whatever it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ullage.errors import CaptureError, InputError
from ullage.frontends.load import load_model
from ullage.graph.reference import run_captured
from ullage.graph.verify import verify


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, values: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.norm(self.linear(values)) * weights["out"]


EXAMPLE = (torch.ones(2, 4), {"out": torch.full((3,), 2.0)})


def with_inputs() -> tuple[nn.Module, tuple[Any, ...]]:
    return Scaled().eval(), EXAMPLE


def with_keywords() -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    return Scaled(), EXAMPLE[:1], {"weights": EXAMPLE[1]}


def failing() -> None:
    raise RuntimeError("no weights today")


def wrong() -> tuple[int]:
    return (1,)


def test_a_pt2_file_keeps_names_shapes_and_values(tmp_path: Path) -> None:
    module, path = Scaled().eval(), tmp_path / "model.pt2"
    batch = torch.export.Dim("batch", min=1, max=6)
    torch.export.save(torch.export.export(module, EXAMPLE, dynamic_shapes=({0: batch}, {"out": None})), path)
    captured = load_model(path)
    verify(captured)
    assert [spec.name for spec in captured.inputs] == ["values", "weights_out"]
    assert [(dim.minimum, dim.maximum) for dim in captured.dims] == [(1, 6)]
    x = torch.randn(5, 4)
    (result,) = run_captured(captured, [x, EXAMPLE[1]["out"]])
    torch.testing.assert_close(result, module(x, EXAMPLE[1]).detach())


@pytest.mark.parametrize("name", ["with_inputs", "with_keywords"])
def test_a_factory_gives_module_and_inputs(name: str) -> None:
    captured = load_model(f"{__name__}:{name}")
    assert [spec.name for spec in captured.inputs] == ["values", "weights_out"]


def test_input_specs_replace_a_factory_s_inputs() -> None:
    captured = load_model("torch.nn:Identity", input_specs={"input": ("int32", (2, 3))})
    assert [(spec.name, spec.dtype, spec.shape) for spec in captured.inputs] == [("input", torch.int32, (2, 3))]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (f"{__name__}:failing", CaptureError, "RuntimeError: no weights today"),
        (f"{__name__}:wrong", CaptureError, "must return"),
        (f"{__name__}:missing", CaptureError, "cannot be imported"),
        ("no.such.package:f", CaptureError, "cannot be imported"),
        ("nowhere/model.onnx", InputError, "does not exist"),
        ("nowhere/model.pt2", InputError, "does not exist"),
        ("nowhere", InputError, "does not exist"),
        (nn.Linear(2, 2), InputError, "example inputs are needed"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_model(source)
    assert "\n" not in str(caught.value)


def test_a_damaged_pt2_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"not an archive")
    with pytest.raises(CaptureError, match="cannot be loaded"):
        load_model(path)
