"""The pass manager: text forms, fuel, bisecting, instruments; the input model is never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch.fx import Node

from tests.graphs import build, random_inputs
from ullage.errors import InputError
from ullage.graph.captured import CapturedModel
from ullage.graph.reference import run_captured
from ullage.graph.show import show
from ullage.graph.verify import IllegalGraph
from ullage.passes.clean.rules import RulePass
from ullage.passes.edit import Editor, calls, is_call
from ullage.passes.instruments import Dump, Timing, Verify
from ullage.passes.manager import Pass, PassManager, Rewrite, RewriteLog, bisect, parse_pipeline, summarise
from ullage.passes.pipelines import KNOWN, PIPELINES, parse, passes_of, run_clean

aten = torch.ops.aten


@dataclass(frozen=True)
class Swap(Pass):
    """Makes every `add` a `sub`, which is wrong."""

    name: ClassVar[str] = "swap"
    most: int = 8
    share: float = 0.5
    loud: bool = False
    label: str = "x"

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        for node in calls(model.module.graph):
            if is_call(node, aten.add.Tensor) and log.allow("swap", node.name):
                node.target = aten.sub.Tensor


def chain(count: int = 4) -> CapturedModel:
    """`x0 + x1 + x1 …`"""

    def make(edit: Editor, x: Node, y: Node) -> Node:
        for _ in range(count):
            x = edit.call(aten.add.Tensor, x, y)
        return x

    return build([(2, 3), (2, 3)], make)


@pytest.mark.parametrize("step", [Swap(), Swap(3, 0.25, True, "left"), Swap(most=0), Swap(loud=True)])
def test_text_form_round_trips(step: Swap) -> None:
    assert parse_pipeline(str(step), {"swap": Swap}) == (step,)


def test_text_form_shows_only_what_is_not_default() -> None:
    assert str(Swap()) == "swap"
    assert str(Swap(most=3, loud=True)) == "swap{most=3,loud=true}"


@pytest.mark.parametrize("name", PIPELINES)
def test_named_pipelines_round_trip(name: str) -> None:
    manager = PassManager(passes_of(name))
    assert parse(str(manager)) == manager.passes


def test_integers_are_numbers_where_a_float_is_wanted() -> None:
    assert parse_pipeline("swap{share=1}", {"swap": Swap}) == (Swap(share=1.0),)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("swop", "unknown pass 'swop'; known are swap"),
        ("swap{mast=1}", "no option mast; it has most, share, loud, label"),
        ("swap{most=many}", "option most of pass 'swap' must be int, found 'many'"),
        ("swap{most}", "cannot read option 'most'"),
        ("swap swap", "cannot read a pass at"),
    ],
)
def test_mistakes_in_a_pipeline_are_named(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        parse_pipeline(text, {"swap": Swap})


def test_every_known_pass_is_called_by_its_name() -> None:
    assert all(parse(name) == (kind(),) for name, kind in KNOWN.items())


def test_the_input_model_is_not_changed() -> None:
    model = chain()
    before = show(model)
    changed, rewrites = PassManager((Swap(),)).run(model)
    assert show(model) == before != show(changed)
    assert [r.where for r in rewrites] == [n.name for n in calls(model.module.graph)]
    assert {(r.pass_name, r.what, r.error) for r in rewrites} == {("swap", "swap", 0.0)}


@pytest.mark.parametrize("fuel", range(5))
def test_fuel_allows_the_first_rewrites_only(fuel: int) -> None:
    changed, rewrites = PassManager((Swap(),), fuel=fuel).run(chain())
    swapped = [n.target is aten.sub.Tensor for n in calls(changed.module.graph)]
    assert swapped == [i < fuel for i in range(4)] and len(rewrites) == fuel


def test_without_fuel_a_pipeline_changes_nothing() -> None:
    model = chain()
    changed, rewrites = PassManager(passes_of("clean"), fuel=0).run(model)
    assert rewrites == [] and show(changed) == show(model)


def test_bisect_names_the_first_bad_rewrite() -> None:
    model = chain(7)
    names = [n.name for n in calls(model.module.graph)]

    def is_good(changed: CapturedModel) -> bool:
        return all(n.target is aten.add.Tensor for n in calls(changed.module.graph) if n.name == names[4])

    culprit = bisect(PassManager((Swap(),)), model, is_good)
    assert culprit is not None and culprit.where == names[4]


def test_bisect_of_a_good_pipeline_and_of_a_bad_model() -> None:
    assert bisect(PassManager((Swap(),)), chain(), lambda m: True) is None
    with pytest.raises(InputError, match="before any rewrite"):
        bisect(PassManager((Swap(),)), chain(), lambda m: False)


def test_bisect_finds_a_wrong_value() -> None:
    model = chain()
    inputs = random_inputs(model)
    (wanted,) = run_captured(model, inputs)
    manager = PassManager((*passes_of("clean"), Swap()))
    culprit = bisect(manager, model, lambda m: torch.allclose(run_captured(m, inputs)[0], wanted))
    assert culprit is not None and culprit.pass_name == "swap"


def test_dumps_show_the_graph_before_and_after_each_change(tmp_path: Path) -> None:
    run_clean(build([(2, 3)], lambda edit, x: edit.call(aten.square.default, x)), (Dump.to(tmp_path / "dumps"),))
    files = sorted(p.name for p in (tmp_path / "dumps").iterdir())
    assert files == ["00-start.txt", "02-canonicalize.txt"]
    text = (tmp_path / "dumps" / "02-canonicalize.txt").read_text()
    assert text.startswith("# square_default: spell square as product\n") and "mul.Tensor(x0, x0)" in text


def test_timing_lists_every_pass() -> None:
    timing = Timing()
    PassManager((Swap(most=2), Swap()), (timing,)).run(chain())
    assert [name for name, _ in timing.seconds] == ["swap{most=2}", "swap"]
    assert all(seconds >= 0 for _, seconds in timing.seconds)


@dataclass(frozen=True)
class Forget(Pass):
    """Leaves a node without a value."""

    name: ClassVar[str] = "forget"

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        next(calls(model.module.graph)).meta.pop("val")


def test_summary_counts_rewrites_of_one_kind() -> None:
    done = [Rewrite("a", "x", "n1"), Rewrite("b", "x", "n2"), Rewrite("a", "x", "n3", 0.5), Rewrite("a", "y", "n4")]
    wanted = [Rewrite("a", "x", "n1 and 1 more", 0.5), Rewrite("b", "x", "n2"), Rewrite("a", "y", "n4")]
    assert summarise(done) == wanted


def test_verify_names_the_pass_that_broke_the_graph() -> None:
    with pytest.raises(IllegalGraph) as caught:
        PassManager((Swap(), Forget()), (Verify(),)).run(chain())
    assert caught.value.__notes__ == ["after pass forget, step 1"]


def test_instruments_see_the_rewrites_of_their_pass_alone() -> None:
    seen: list[tuple[str, int]] = []

    class Count:
        def before(self, step: int, current: Pass, model: CapturedModel) -> None: ...

        def after(self, step: int, current: Pass, model: CapturedModel, rewrites: Sequence[object]) -> None:
            seen.append((current.name, len(rewrites)))

    PassManager((Swap(), Swap()), (Count(),)).run(chain())
    assert seen == [("swap", 4), ("swap", 0)]


@pytest.mark.parametrize("kind", [Pass, RulePass])
def test_a_pass_that_cannot_run_cannot_be_made(kind: type[Pass]) -> None:
    with pytest.raises(TypeError, match="abstract"):
        kind()
