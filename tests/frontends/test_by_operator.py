"""Decomposing operator by operator gives the graph that tracing the whole model again gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.export import ExportedProgram
from torch.fx import Graph

from tests.frontends.test_operators import CASES
from tests.frontends.zoo import MODELS
from tests.samples import FAMILIES, family
from ullage.frontends.by_operator import NotFunctional, decompose_by_operator
from ullage.frontends.canonical import canonicalise
from ullage.frontends.decompositions import decomposition_table
from ullage.frontends.export import capture
from ullage.frontends.quiet import quiet
from ullage.frontends.wrap import as_module
from ullage.graph.reference import run_captured
from ullage.graph.show import show

X = torch.linspace(-1, 1, 24).reshape(4, 6)


def export(model: Any, args: tuple[Any, ...], **options: Any) -> ExportedProgram:
    with quiet(), torch.no_grad():
        return torch.export.export(as_module(model).eval(), args, options.pop("kwargs", {}), **options)


def canonical_text(graph: Graph) -> str:
    copy = Graph()
    copy.output(copy.graph_copy(graph, {}))
    module = torch.fx.GraphModule(torch.nn.Module(), copy)
    canonicalise(module)
    return show(module.graph)


def assert_same_graph(exported: ExportedProgram) -> None:
    with quiet():
        mine = decompose_by_operator(exported)
        theirs = exported.run_decompositions(decomposition_table()).graph
    assert canonical_text(mine) == canonical_text(theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_operator_samples_become_the_same_graph(name: str) -> None:
    samples = family(name)
    assert_same_graph(export(samples, samples.inputs))


@pytest.mark.parametrize("name", CASES)
def test_canonical_cases_become_the_same_graph(name: str) -> None:
    function, example, _ = CASES[name]
    assert_same_graph(export(function, (example,)))


@pytest.mark.parametrize("name", ["mpnet", "swin", "mobilenet_v2", "segformer", "t5_encoder", "llama", "assorted"])
def test_models_become_the_same_graph(name: str) -> None:
    module, args, kwargs = MODELS[name]()
    assert_same_graph(export(module, args, kwargs=kwargs))


def fresh_sum(x: torch.Tensor) -> torch.Tensor:
    return (x * 2).add_(x).relu()


def in_place_on_an_input(x: torch.Tensor) -> torch.Tensor:
    return x.add_(1)


def in_place_on_a_view(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y.reshape(-1).add_(1)
    return y


def fresh_and_read_later(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y.add_(1)
    return y * x


def in_place_on_what_was_read(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    z = y * x
    y.add_(1)
    return y * z


def in_place_on_a_slice(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y[1:] = 0
    return y


def in_place_with_another_dtype(x: torch.Tensor) -> torch.Tensor:
    return (x * 2).add_(x.double())


FRESH = [fresh_sum, fresh_and_read_later]
REFUSED = [
    in_place_on_an_input,
    in_place_on_a_view,
    in_place_on_what_was_read,
    in_place_on_a_slice,
    in_place_with_another_dtype,
]


@pytest.mark.parametrize("function", FRESH)
def test_a_fresh_value_may_be_changed_in_place(function: Callable[..., Any]) -> None:
    assert_same_graph(export(function, (X,)))


@pytest.mark.parametrize("function", REFUSED)
def test_other_mutation_is_not_for_it(function: Callable[..., Any]) -> None:
    with pytest.raises(NotFunctional, match="mutation"):
        decompose_by_operator(export(function, (X.clone(),)))


@pytest.mark.parametrize("function", [*FRESH, *REFUSED[1:]])
def test_mutation_keeps_its_meaning(function: Callable[..., Any]) -> None:
    (mine,) = run_captured(capture(function, (X,)), [X])
    torch.testing.assert_close(mine, function(X.clone()))


def test_dynamic_shapes_are_not_for_it() -> None:
    exported = export(lambda x: x + 1, (X,), dynamic_shapes=({0: torch.export.Dim("n", max=9)},))
    with pytest.raises(NotFunctional, match="dynamic"):
        decompose_by_operator(exported)


def test_dropout_in_place_does_nothing_in_eval() -> None:
    assert_same_graph(export(lambda x: F.dropout(x.flatten(), training=False, inplace=True) + 1, (X,)))


def equal_layers(x: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        a, b = torch.var_mean(x, dim=1, keepdim=True)
        x = F.batch_norm(x.transpose(0, 1), a.flatten(), b.flatten().abs() + 1).t() - x.contiguous()
    return x


def the_same_twice_and_another(x: torch.Tensor) -> torch.Tensor:
    y = x.sin()
    return torch.outer(x[0], x[0]) + torch.outer(x[0], y[0]) + torch.outer(y[0], y[0]) @ torch.outer(y[1], x[1])


def lists(x: torch.Tensor) -> torch.Tensor:
    return sum((part.square() for _ in range(2) for part in (*x.chunk(2), *x.split([1, 3]), *x.unbind(1))[:2]), x[:2])


def views_of_arguments(x: torch.Tensor) -> torch.Tensor:
    y = x.t()
    return (F.dropout(x.flatten(), training=False) + F.dropout(y.flatten(), training=False)).reshape(4, 6) + y.reshape(
        4, 6
    )


REPEATED = [equal_layers, the_same_twice_and_another, lists, views_of_arguments]


@pytest.mark.parametrize("function", REPEATED)
def test_equal_calls_come_to_the_same(function: Callable[..., Any]) -> None:
    assert_same_graph(export(function, (X,)))
    (mine,) = run_captured(capture(function, (X,)), [X])
    torch.testing.assert_close(mine, function(X))


def test_equal_calls_are_taken_apart_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    decompose = torch._ops.OpOverload.decompose

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        taken.append(self)
        return decompose(self, *args, **kwargs)

    def norms(x: torch.Tensor) -> torch.Tensor:
        for _ in range(5):
            x = F.batch_norm(x, torch.zeros(6), torch.ones(6))
        return x

    exported = export(norms, (X,))
    monkeypatch.setattr(torch._ops.OpOverload, "decompose", noting)
    graph = decompose_by_operator(exported)
    assert taken.count(torch.ops.aten.batch_norm.default) == 1
    assert sum("batch_norm" in str(node.target) for node in graph.nodes) == 5
