"""Reports: the picture agrees with the plan, the page is self-contained, the figures add up."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from ullage.drawing import live_bytes, regions
from ullage.facts import Facts, Note, held_parts, notes, plan_json, seconds_text
from ullage.flow import ladder
from ullage.frontiers import Frontier, point_of
from ullage.passes.plan.planner import Planner, PlanRequest
from ullage.plan.plan import Held, Plan, TensorInfo
from ullage.plan.simulate import Rates
from ullage.plan.sizes import Size
from ullage.plan.steps import Constant, Operand, Schedule, Step, Storage
from ullage.report import explain, frontier_page, html_page

KIB = 1024


def chain(layers: int = 6) -> Planner:
    """A chain of matrix products over 64 KiB activations with 256 KiB of weights each."""
    storages = [Storage("x", Size.of(64 * KIB), "input")]
    steps, constants = [], []
    for layer in range(layers):
        out = Storage(f"y{layer}", Size.of(64 * KIB), "output" if layer == layers - 1 else "temp")
        constants.append(Constant(f"w{layer}", 16, 16 * KIB))
        operands = (Operand(storages[-1].name, "r"), Operand(f"w{layer}", "r", tiled=True), Operand(out.name, "w"))
        steps.append(Step(f"step{layer}", "gemm", operands, (), Size.of(1), flops=10**7, bytes=256 * KIB))
        storages.append(out)
    schedule = Schedule(tuple(steps), tuple(storages), tuple(constants), ())
    tensors = [TensorInfo(name, "float32", ((16 * KIB,),)) for name in ("x", storages[-1].name)]
    rates = Rates(1e11, 3e10, 1.5e9, 1e-4, 3e-6)
    return Planner(PlanRequest(schedule, (tensors[0],), (tensors[1],), (Held("code", 8192),), 2, rates))


@pytest.fixture(scope="module")
def planner() -> Planner:
    return chain()


@pytest.fixture(scope="module", params=["least", "half way", "generous"])
def plan(request: pytest.FixtureRequest, planner: Planner) -> Plan:
    least, most = planner.minimum_bytes, planner.plan(None).peak_bytes
    return planner.plan({"least": least, "half way": (least + most) // 2, "generous": most}[request.param])


def facts(plan: Plan) -> Facts:
    """The plan with two rewrites that HTML must escape."""
    rewrites = (Note("fuse", "a<b", "x&y", 0.0), Note("fuse", "a<b", "z", 0.0))
    return Facts(plan, "cpu:avx2", "exact", 6 * 256 * KIB, rewrites)


class _Links(HTMLParser):
    """Collects whatever a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember scripts and references."""
        self.found += [tag] if tag in ("script", "link", "img", "iframe") else []
        self.found += [name for name, _ in attrs if name in ("src", "href")]


def test_the_page_is_self_contained_and_escaped(plan: Plan) -> None:
    page = html_page(facts(plan), "a <title>")
    links = _Links()
    links.feed(page)
    assert links.found == []
    assert "http" not in page
    assert "a &lt;title&gt;" in page
    assert "a&lt;b ×2" in page
    assert "x&amp;y" in page


def test_every_region_is_drawn(plan: Plan) -> None:
    page = html_page(facts(plan))
    assert len(re.findall(r"<rect [^>]*stroke=", page)) == len(regions(plan))


def test_regions_lie_in_the_arena_and_share_no_byte_at_a_time(plan: Plan) -> None:
    found = [r for r in regions(plan) if r.bytes]
    assert all(r.offset >= 0 and r.offset + r.bytes <= plan.arena_bytes for r in found)
    buffers = {b.name: b for b in plan.buffers}
    for number, a in enumerate(found):
        for b in found[:number]:
            in_time = a.first <= b.last and b.first <= a.last
            in_space = a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes
            taken_over = any(buffers[r.name].alias_of >= 0 for r in (a, b) if r.name in buffers)
            assert not (in_time and in_space) or taken_over


def test_every_weight_byte_in_use_is_drawn(plan: Plan) -> None:
    drawn = {r.name for r in regions(plan) if r.kind != "temporary"}
    assert len(drawn) == len(plan.blocks)


def test_live_bytes_never_exceed_the_arena(plan: Plan) -> None:
    live = live_bytes(plan)
    assert len(live) == len(plan.commands)
    assert 0 < max(live) <= plan.arena_bytes


def test_parts_add_up_to_the_peak(plan: Plan) -> None:
    assert sum(held_parts(plan).values()) == plan.peak_bytes
    assert all(count >= 0 for count in held_parts(plan).values())


def test_the_explanation_has_the_figures(plan: Plan) -> None:
    text = explain(facts(plan))
    assert "cpu:avx2" in text
    assert "fuse: a<b ×2" in text
    assert plan_json(facts(plan))["peak_bytes"] == {"ram": plan.peak_bytes}


def test_the_frontier_ascends_and_never_gets_slower(planner: Planner) -> None:
    budgets = ladder(planner.minimum_bytes, planner.plan(None).peak_bytes)
    frontier = Frontier(tuple(point_of(planner.plan(b), b) for b in budgets))
    points = frontier.points
    assert [p.budget_bytes for p in points] == sorted(p.budget_bytes for p in points)
    assert all(p.peak_bytes <= p.budget_bytes for p in points)
    assert points[-1].streamed_bytes_per_run == 0
    assert all(a.streamed_bytes_per_run >= b.streamed_bytes_per_run for a, b in pairwise(points))
    assert len(frontier.table().splitlines()) == len(points) + 1
    assert frontier_page(frontier.to_json()).count("<circle") == len(points)


def test_notes_come_from_manifests_too() -> None:
    assert notes([{"pass": "p", "what": "w", "where": "h", "error": 0.0}]) == (Note("p", "w", "h", 0.0),)


@pytest.mark.parametrize(("seconds", "text"), [(2.0, "2 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 µs"), (3e-9, "3 ns")])
def test_durations_for_people(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
