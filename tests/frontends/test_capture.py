"""The calling convention of captured models, what is refused, and that the caller's module is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ullage.errors import CaptureError, InputError
from ullage.frontends.export import capture
from ullage.graph.captured import FROZEN_NONE, CapturedModel, ConstantOutput
from ullage.graph.reference import run_captured
from ullage.graph.verify import verify


def captured(model: Any, *args: Any, **kwargs: Any) -> CapturedModel:
    result = capture(model, args, kwargs)
    verify(result)
    return result


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: Any, *rest: Any, flag: Any = None, scale: int = 2, tree: Any = None, **more: Any) -> Any:
        return {
            "same": x, "table": self.table, "nothing": None, "three": 3,
            "list": [rest[0] * scale, tree["q"][1]], "more": more["extra"].sum(),
        }  # fmt: skip


def structured() -> CapturedModel:
    x = torch.ones(2, 4)
    tree = {"q": (torch.ones(2, dtype=torch.int32), torch.tensor([True]))}
    return captured(Structured(), x, x.half(), flag=None, tree=tree, extra=x)


def test_inputs_are_named_after_parameters_and_keys() -> None:
    model = structured()
    assert [spec.name for spec in model.inputs] == ["x", "rest_0", "tree_q_0", "tree_q_1", "extra"]
    assert [spec.dtype for spec in model.inputs] == [
        torch.float32, torch.float16, torch.int32, torch.bool, torch.float32,
    ]  # fmt: skip


def test_values_that_are_no_tensors_are_frozen() -> None:
    assert structured().input_leaves == (None, None, FROZEN_NONE, None, None, None)
    assert captured(lambda x, n: x * n, torch.ones(2), 3).input_leaves == (None, 3)


def test_outputs_are_named_after_keys_and_keep_constants() -> None:
    model = structured()
    assert [spec.name for spec in model.outputs] == ["same", "table", "list_0", "list_1", "more"]
    assert model.output_leaves[2:4] == (ConstantOutput(None), ConstantOutput(3))


def test_outputs_without_keys_are_numbered() -> None:
    model = captured(lambda x: (x + 1, [x + 2, x + 3]), torch.ones(2))
    assert [spec.name for spec in model.outputs] == ["output", "output_1", "output_2"]


def test_placeholders_keep_their_names_when_a_graph_is_copied() -> None:
    model = captured(nn.ReLU(), torch.ones(2))
    copied = torch.fx.Graph()
    copied.graph_copy(model.module.graph, {})
    assert tuple(node.name for node in copied.find_nodes(op="placeholder")) == model.input_nodes


def test_one_tensor_given_twice_is_two_inputs() -> None:
    x = torch.ones(3)
    a, b = torch.tensor([5.0, 6.0, 7.0]), torch.tensor([1.0, 2.0, 3.0])
    (result,) = run_captured(captured(lambda a, b: a - b, x, x), [a, b])
    assert torch.equal(result, a - b)


def test_a_parameter_given_as_input_stays_an_input() -> None:
    linear = nn.Linear(3, 3, bias=False)
    model = captured(linear, linear.weight)
    (result,) = run_captured(model, [torch.eye(3)])
    torch.testing.assert_close(result, linear.weight.detach().T)


def test_an_input_and_a_constant_may_be_outputs() -> None:
    model = structured()
    x, other = torch.full((2, 4), 7.0), torch.zeros(2, 4)
    inputs = [x, other.half(), torch.zeros(2, dtype=torch.int32), torch.tensor([False]), other]
    same, table, *_ = run_captured(model, inputs)
    assert torch.equal(same, x)
    assert torch.equal(table, torch.arange(3.0))


def test_one_result_may_be_returned_twice() -> None:
    doubled = captured(lambda x: (x * 2,) * 2, torch.ones(2))
    assert len(doubled.outputs) == 2


def test_keywords_may_come_in_any_order() -> None:
    model = captured(lambda a, b: a - b, b=torch.ones(2), a=torch.zeros(2))
    assert [spec.name for spec in model.inputs] == ["b", "a"]
    (result,) = run_captured(model, [torch.full((2,), 3.0), torch.full((2,), 10.0)])
    assert result.tolist() == [7.0, 7.0]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(ids))


def test_tied_weights_are_one_constant() -> None:
    model = captured(Tied(), torch.tensor([1, 2]))
    assert len(model.constants) == 1


def test_unused_constants_and_unused_inputs_are_told_apart() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + 1

    model = captured(Unused(), torch.ones(2), torch.ones(3))
    assert not model.constants
    assert [spec.name for spec in model.inputs] == ["x", "y"]


def test_a_function_may_use_modules_through_its_closure() -> None:
    linear = nn.Linear(4, 4)
    model = captured(lambda x: linear(x) + 1, torch.ones(2, 4))
    assert sorted(ref.name for ref in model.constants.values()) == ["linear.bias", "linear.weight"]


def test_a_bound_method_brings_its_module() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    assert len(captured(Encoder().encode, torch.ones(2, 4)).constants) == 2


def test_capture_is_in_eval_mode_and_leaves_the_modes_as_they_were() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    module[2].eval()
    before = [child.training for child in module.modules()]
    x = torch.randn(3, 4)
    (result,) = run_captured(captured(module, x), [x])
    assert [child.training for child in module.modules()] == before
    torch.testing.assert_close(result, module.eval()(x).detach())


def test_gradient_switches_inside_the_model_disappear() -> None:
    class Switching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                y = x * 2
            with torch.no_grad():
                return y + x

    assert len(captured(Switching(), torch.ones(2)).module.graph.nodes) == 4


def test_writing_into_local_tensors_becomes_functional() -> None:
    def write(x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(2, 4)
        y[:, 1:3] = x[:, 1:3]
        y[1] = 5
        return y.add_(1)

    x = torch.randn(2, 4)
    (result,) = run_captured(captured(write, x), [x])
    torch.testing.assert_close(result, write(x))


def test_a_view_of_what_was_written_into_needs_no_order_in_memory() -> None:
    def write(x: torch.Tensor) -> torch.Tensor:
        y = x.permute(1, 0, 2).contiguous().permute(1, 0, 2)
        y[:, :, 1:] *= 2
        return y.permute(1, 0, 2).view(6, 4)

    x = torch.randn(2, 3, 4)
    (result,) = run_captured(captured(write, x), [x])
    torch.testing.assert_close(result, write(x))


class Padded(nn.Module):
    """Keeps its padding as a buffer, which numbers in Python follow from."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.register_buffer("padding", torch.tensor(padding), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = self.padding // 2
        return nn.functional.pad(x, (int(left), int(self.padding - left))) if self.padding > 0 else x


@pytest.mark.parametrize("padding", [0, 3])
def test_python_code_may_depend_on_numbers_in_buffers(padding: int) -> None:
    module, x = Padded(padding), torch.randn(2, 4)
    (result,) = run_captured(captured(module, x), [x])
    torch.testing.assert_close(result, module(x))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x + self.count


def control_flow(x: torch.Tensor) -> torch.Tensor:
    return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


def choose(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Counting(), "buffer 'count'.*Return the new value"),
        (lambda x: x.add_(1), "input 'x'"),
        (choose, "data-dependent.*torch.where"),
        (lambda x: x[x > 0], "depend on values"),
        (control_flow, "cond.*torch.where"),
        (nn.Linear(5, 5), "could not capture"),
        ("no model", "module or a function"),
    ],
)
def test_what_cannot_be_captured_is_refused_with_a_hint(model: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message) as caught:
        capture(model, (torch.ones(2, 4),))
    assert "\n" not in str(caught.value)


def test_a_refused_capture_says_nothing_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError):
        capture(choose, (torch.ones(2, 4),))
    assert capfd.readouterr().err == ""


def test_dynamic_dimensions_carry_their_declared_bounds() -> None:
    batch = torch.export.Dim("batch", min=3, max=7)
    model = capture(nn.Linear(4, 2), (torch.ones(5, 4),), dynamic_shapes={"input": {0: batch}})
    verify(model)
    (dim,) = model.dims
    assert (dim.minimum, dim.maximum) == (3, 7)
    assert [str(n) for n in model.outputs[0].shape] == [dim.symbol, "2"]
    assert run_captured(model, [torch.ones(7, 4)])[0].shape == (7, 2)


def test_ranges_are_enough_and_an_example_of_size_one_is_enlarged() -> None:
    model = capture(lambda x, y: x @ y, (torch.ones(1, 4), torch.ones(4, 2)), dynamic_shapes={"x": {0: (1, 9)}})
    (dim,) = model.dims
    assert (dim.minimum, dim.maximum) == (1, 9)
    assert run_captured(model, [torch.ones(1, 4), torch.ones(4, 2)])[0].shape == (1, 2)


def test_dimensions_that_the_model_ties_become_one() -> None:
    shapes = {"x": {0: (1, 9)}, "y": {0: (1, 9)}}
    assert len(capture(lambda x, y: x + y, (torch.ones(1, 4), torch.ones(1, 4)), dynamic_shapes=shapes).dims) == 1


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        ({"x": {0: torch.export.Dim("batch")}}, CaptureError, "axis 0 of input 'x'.*no upper bound"),
        ({"z": {0: (1, 2)}}, InputError, "names z; the inputs are x"),
        ({"x": {0: (5, 2)}}, InputError, "5..2"),
        ({"x": {1: (1, 8)}}, CaptureError, "could not capture"),
    ],
)
def test_dynamic_shapes_that_cannot_hold_are_refused(shapes: Any, error: type[Exception], message: str) -> None:
    weight = torch.ones(4, 4)
    with pytest.raises(error, match=message):
        capture(lambda x: x @ weight, (torch.ones(2, 4),), dynamic_shapes=shapes)


def test_a_number_that_depends_on_a_dynamic_size_is_refused() -> None:
    with pytest.raises(CaptureError, match="dynamic dimension"):
        capture(lambda x: (x, x.shape[0]), (torch.ones(2, 4),), dynamic_shapes={"x": {0: (1, 4)}})
