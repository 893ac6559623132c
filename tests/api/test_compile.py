"""`ullage.compile` as function and decorator: results, structure, budgets, shapes, files."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ullage
from tests.small_models import Perceptron, perceptron
from ullage.compiled import Compiled

PAGE = 4096


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return perceptron()[0]


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, ...]:
    return perceptron()[1]


@pytest.fixture(scope="module")
def compiled(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Compiled:
    made = ullage.compile(model, inputs)
    assert isinstance(made, Compiled)
    return made


def agree(found: Any, expected: Any) -> bool:
    """Whether two results of the perceptron have the same structure and nearly the same values."""
    assert found.keys() == expected.keys()
    assert isinstance(found["last"], tuple)
    pairs = [(found["hidden"], expected["hidden"]), (found["last"][0], expected["last"][0])]
    return all(a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


def test_a_module_gives_its_own_results_in_its_own_structure(
    compiled: Compiled, model: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> None:
    assert agree(compiled(*inputs), model(*inputs))
    assert agree(compiled(x=inputs[0]), model(*inputs))
    other = torch.randn(4, 256)
    assert agree(compiled(other, scale=2.0), model(other))


def test_earlier_results_stay_valid(compiled: Compiled, inputs: tuple[torch.Tensor, ...]) -> None:
    first = compiled(*inputs)["hidden"]
    copy = first.clone()
    for _ in range(4):
        compiled(torch.randn(4, 256))
    assert torch.equal(first, copy)


@pytest.mark.parametrize(
    "call",
    [
        {"x": torch.zeros(5, 256)},
        {"x": torch.zeros(4, 256, dtype=torch.float64)},
        {"x": torch.zeros(4, 256), "scale": 3.0},
    ],
)
def test_another_shape_dtype_or_constant_is_refused(compiled: Compiled, call: dict[str, Any]) -> None:
    with pytest.raises(ullage.InputError):
        compiled(**call)


def test_the_least_budget_works_and_a_page_less_does_not(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    least = ullage.minimum_budget(model, inputs)
    assert least.ram is not None
    small = ullage.compile(model, inputs, budget=least)
    assert small.plan.peak_bytes["ram"] <= least.ram == small.plan.minimum_bytes["ram"]
    assert small.plan.streamed_bytes_per_run > 0
    with pytest.raises(ullage.BudgetTooSmall) as refusal:
        ullage.compile(model, inputs, budget=least.ram - PAGE)
    assert refusal.value.minimum == {"ram": least.ram}
    assert refusal.value.requested == {"ram": least.ram - PAGE}


def test_bits_do_not_depend_on_the_budget(
    compiled: Compiled, model: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> None:
    least = ullage.minimum_budget(model, inputs)
    small = ullage.compile(model, inputs, budget=least)
    assert small.plan.peak_bytes["ram"] < compiled.plan.peak_bytes["ram"]
    left, right = compiled(*inputs), small(*inputs)
    assert torch.equal(left["hidden"], right["hidden"])
    assert torch.equal(left["last"][0], right["last"][0])


def test_a_saved_artifact_gives_the_same_bits(
    compiled: Compiled, inputs: tuple[torch.Tensor, ...], tmp_path: Path
) -> None:
    compiled.save(tmp_path / "m.ullage")
    assert [p.name for p in tmp_path.iterdir()] == ["m.ullage"]
    with ullage.load(tmp_path / "m.ullage") as runner:
        found = runner.run({"x": inputs[0].numpy()})
    expected = compiled(*inputs)
    assert np.array_equal(next(iter(found.values())), expected["hidden"].numpy())


def test_closing_gives_memory_back_until_the_next_call(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    made = ullage.compile(model, inputs)
    made.close()
    assert agree(made(*inputs), model(*inputs))


def test_what_the_result_offers(compiled: Compiled, inputs: tuple[torch.Tensor, ...], tmp_path: Path) -> None:
    compiled(*inputs)
    assert compiled.plan.peak_bytes["ram"] >= compiled.plan.resident_bytes > 0
    assert compiled.plan.streamed_bytes_per_run == 0
    assert compiled.plan.predicted_seconds > 0
    assert len(compiled.plan.commands) > 0
    assert compiled.plan.to_json().startswith("{")
    assert compiled.stats()["seconds"] > 0
    assert "peak" in compiled.explain()
    compiled.report(tmp_path / "page.html")
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_temporary_files_go_with_the_model(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    made = ullage.compile(model, inputs)
    folder = made._home.built.path.parent
    assert folder.exists()
    made.close()
    del made
    gc.collect()
    assert not folder.exists()


def test_a_function_with_modules_in_its_closure(inputs: tuple[torch.Tensor, ...]) -> None:
    layer = nn.Linear(256, 8)

    def function(x: torch.Tensor) -> torch.Tensor:
        return layer(x).softmax(-1)

    made = ullage.compile(function, inputs)
    assert torch.allclose(made(*inputs), function(*inputs), atol=1e-6)


def test_a_decorated_function_is_captured_at_each_new_shape() -> None:
    @ullage.compile(budget="8MiB")
    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """A product."""
        return (a @ b).relu()

    assert product.__name__ == "product"
    assert product.__doc__ == "A product."
    with pytest.raises(AttributeError, match="nothing is compiled yet"):
        _ = product.plan
    for rows in (3, 5, 3):
        a, b = torch.randn(rows, 32), torch.randn(32, 7)
        assert torch.allclose(product(a, b), (a @ b).relu(), atol=1e-5)
    assert product.plan.peak_bytes["ram"] <= 8 << 20


def test_a_decorated_class_compiles_its_instances() -> None:
    torch.manual_seed(3)
    plain = Perceptron().eval()
    made = ullage.compile(budget="8MiB")(Perceptron)()
    assert isinstance(made, Perceptron)
    made.load_state_dict(plain.state_dict())
    made.eval()
    x = torch.randn(2, 256)
    with torch.no_grad():
        assert agree(made(x), plain(x))
        assert agree(made(x), plain(x))
    assert made.state_dict().keys() == plain.state_dict().keys()


def test_dynamic_shapes_are_one_plan() -> None:
    batch = torch.export.Dim("batch", min=1, max=16)

    @ullage.compile(budget="8MiB", dynamic_shapes={"x": {0: batch}})
    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x.exp() / 3

    for rows in (4, 16, 2):
        x = torch.randn(rows, 5)
        assert torch.allclose(scaled(x), x.exp() / 3, atol=1e-6)
    assert len({id(made) for made in scaled._made.values()}) == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"budget": "plenty"}, ullage.InputError),
        ({"budget": 0}, ullage.InputError),
        ({"budget": ullage.Budget(device=1 << 20)}, ullage.InputError),
        ({"target": "abacus"}, ullage.InputError),
        ({"target": "cuda"}, ullage.UllageError),
        ({"accuracy": "rough"}, ullage.InputError),
        ({"accuracy": -0.01}, ullage.InputError),
        ({"accuracy": float("nan")}, ullage.InputError),
        ({"accuracy": True}, ullage.InputError),
        ({"quantize": "int9"}, ullage.InputError),
        ({"quantize": 8}, ullage.InputError),
        ({"sparsify": "2:4"}, ullage.UllageError),
        ({"calibration": [torch.ones(1)]}, ullage.InputError),
        ({"accuracy": 0.01, "calibration": torch.ones}, ullage.CalibrationError),
        ({"accuracy": 0.01, "calibration": {"x": torch.ones(1)}}, ullage.CalibrationError),
    ],
)
def test_options_are_checked_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ullage.compile(**options)


def test_a_disk_budget_is_kept(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(ullage.BudgetTooSmall) as refusal:
        ullage.compile(model, inputs, budget=ullage.Budget(ram=8 << 20, disk=1000))
    assert refusal.value.minimum["disk"] > 2 * 256 * 256 * 4


def test_only_module_classes_can_be_decorated() -> None:
    with pytest.raises(ullage.InputError, match="Module"):
        ullage.compile(dict, budget="1MiB")


def test_the_frontier_can_be_measured(model: nn.Module, inputs: tuple[torch.Tensor, ...], tmp_path: Path) -> None:
    frontier = ullage.frontier(model, inputs, budgets=["1MiB", "2MiB"], measure=True)
    assert [p.budget_bytes for p in frontier.points] == [1 << 20, 2 << 20]
    assert all(p.measured_seconds is not None and p.measured_seconds > 0 for p in frontier.points)
    frontier.plot(tmp_path / "frontier.html")
    assert "<svg" in (tmp_path / "frontier.html").read_text()


def calibrations(x: torch.Tensor) -> dict[str, list[object]]:
    """The same inputs in every form that is taken."""
    return {"tuple": [(x,)], "tensor": [x, x], "keywords": [{"x": x}], "several": [(x,), {"x": -x}]}


@pytest.mark.parametrize("form", ["none", "tuple", "tensor", "keywords", "several"])
def test_an_accuracy_is_kept_on_calibration_inputs(form: str) -> None:
    """Half the memory, an error within bounds, and the same bits at every budget."""
    module, (x,) = perceptron()
    calibration = None if form == "none" else iter(calibrations(x)[form])
    exact = ullage.compile(module, (x,))
    loose = ullage.compile(module, (x,), accuracy=0.01, calibration=calibration)
    tight = ullage.compile(module, (x,), accuracy=0.01, budget=ullage.minimum_budget(module, (x,), accuracy=0.01))
    wanted, found = exact(x)["last"][0], loose(x)["last"][0]
    assert 1e-4 < (found - wanted).norm() / wanted.norm() <= 0.01
    assert torch.equal(found, tight(x)["last"][0])
    assert loose.plan.peak_bytes["ram"] < exact.plan.peak_bytes["ram"]
    assert "multiply in int8" in loose.explain() and "multiply in" not in exact.explain()


BAD: list[list[object]] = [
    [], [torch.ones(4, 3)], [{"y": torch.ones(4, 256)}], [torch.ones(4, 256).double()], [3],
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{len(bad)} {type(bad[0] if bad else None).__name__}")
def test_calibration_that_does_not_fit_is_refused(bad: list[object]) -> None:
    """Before anything is built."""
    module, inputs = perceptron()
    with pytest.raises(ullage.CalibrationError):
        ullage.compile(module, inputs, accuracy=0.01, calibration=bad)


def test_judging_on_random_inputs_is_said(tmp_path: Path) -> None:
    """A file brings no example inputs; calibration inputs silence the warning."""
    module, (x,) = perceptron()
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "m.pt2")
    with pytest.warns(UserWarning, match="random inputs"):
        ullage.compile(tmp_path / "m.pt2", accuracy=0.01)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "accuracy is judged")
        ullage.compile(tmp_path / "m.pt2", accuracy=0.01, calibration=[(x,)])


class SameNames(nn.Module):
    """Inputs, outputs, a weight and a value in between are called alike."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, sample: torch.Tensor, add: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """[3, 3] each."""
        total = sample + add
        return {"sample": torch.cumsum(total + total.sum(), 0), "add": add, "weight": weight.T @ self.weight}


def test_inputs_outputs_weights_and_values_may_have_equal_names() -> None:
    module, inputs = SameNames().eval(), (torch.randn(3, 3), torch.randn(3, 3), torch.randn(3, 3))
    compiled = ullage.compile(module, inputs, budget="4MiB")
    found, expected = compiled(*inputs), module(*inputs)
    assert list(found) == ["sample", "add", "weight"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
