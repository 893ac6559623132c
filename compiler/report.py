"""Reports: a plan explained as text, and as one self-contained HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ullage.budget import format_bytes
from ullage.drawing import BAR_COLOURS, frontier_chart, live_chart, memory_map, stacked_bar
from ullage.facts import Facts, command_counts, held_parts, kernel_uses, seconds_text, tensor_json

if TYPE_CHECKING:
    from ullage.codegen.tune.tuner import Tuning

_STYLE = """
:root{--ink:#1b2430;--dim:#66707d;--line:#dfe3e8;--page:#fff;--card:#f7f8fa;--accent:#0b6e99}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaef;--dim:#9aa5b1;--line:#333b45;--page:#14181d;--card:#1c2229;
--accent:#5ab4dc}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1120px;padding:2.5rem 1.5rem;background:var(--page);
color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.7rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
p{margin:.3rem 0;color:var(--dim)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.8rem;
margin:1.4rem 0}.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem}
.card b{display:block;font-size:1.25rem;font-variant-numeric:tabular-nums}.card span{color:var(--dim);font-size:.85rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{text-align:left;padding:.35rem .6rem;
border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--dim);font-weight:600}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:.85em}svg{width:100%;height:auto;display:block}
svg text{fill:var(--dim);font:11px system-ui,sans-serif}.legend span{display:inline-block;margin-right:1.1rem;
color:var(--dim);font-size:.85rem}.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;
margin-right:.35em}summary{cursor:pointer;color:var(--accent)}details{margin:.3rem 0}
"""


def explain(facts: Facts) -> str:
    """What the model holds, what was done to it, and what a run does, as plain text."""
    plan = facts.plan
    budget = format_bytes(plan.budget_bytes) if plan.budget_bytes else "none"
    counts = command_counts(plan)
    lines = [
        f"target {facts.target}, accuracy {facts.accuracy}, {plan.threads} threads",
        f"budget {budget}; peak {format_bytes(plan.peak_bytes)}; least possible {format_bytes(plan.minimum_bytes)}",
        *(f"  {name}: {format_bytes(count)}" for name, count in held_parts(plan).items()),
        f"weights {format_bytes(facts.weight_bytes)}; {format_bytes(plan.streamed_bytes_per_run)} are read in each run",
        f"one run: {counts['launches']} launches of {len(kernel_uses(plan))} kernels, {counts['gathers']} gathers, "
        f"{counts['reads']} disk reads; {seconds_text(plan.prediction.seconds)} predicted",
        f"rewrites: {len(facts.rewrites)}",
        *(f"  {name}: {what} ×{count}" for (name, what), count in _rewrite_counts(facts).most_common()),
        *([] if facts.tuning is None else _tuning_lines(facts.tuning)),
    ]
    return "\n".join(lines)


def _tuning_lines(tuning: Tuning) -> list[str]:
    """What was tried and gained, the kernels with another tiling one by one."""
    measured = sum(kernel.measured for kernel in tuning.kernels)
    others = [kernel for kernel in tuning.kernels if kernel.ratio < 1]
    return [
        f"tuning: {len(others)} of {len(tuning.kernels)} kernels with another tiling ({measured} measured now in "
        f"{seconds_text(tuning.seconds)}, the rest kept from before, {tuning.left} left); together the kernels are "
        f"expected to take {tuning.ratio:.3f} of {seconds_text(sum(k.seconds for k in tuning.kernels))}",
        *(f"  {k.name} ×{k.launches}: {k.choice}, {k.ratio:.3f} of its time, {k.tried} tried" for k in others),
    ]


def _rewrite_counts(facts: Facts) -> Counter[tuple[str, str]]:
    return Counter((note.pass_name, note.what) for note in facts.rewrites)


def html_page(facts: Facts, title: str = "Ullage plan", points: Sequence[dict[str, Any]] = ()) -> str:
    """One self-contained page: figures, memory over commands, kernels, rewrites; the frontier if `points` are given."""
    plan = facts.plan
    sections = [
        _header(facts, title),
        _section("What the peak consists of", stacked_bar(held_parts(plan)) + _legend(held_parts(plan))),
        _section("The arena: address over commands", memory_map(plan), "Hover over a rectangle to see what it is."),
        _section("Bytes in use over commands", live_chart(plan)),
        _section("One run", _prediction_table(facts)),
        _section("The frontier", frontier_chart(points) + frontier_table(points)) if points else "",
        _section("Inputs and outputs", _tensor_table(facts)),
        _section(f"Kernels ({len(plan.kernels)})", _kernel_table(facts)),
        _section(f"Rewrites ({len(facts.rewrites)})", _rewrite_tables(facts)),
        _section("Tuning", _tuning_table(facts.tuning)) if facts.tuning is not None else "",
    ]
    return _page(title, "\n".join(sections))


def frontier_page(points: Sequence[dict[str, Any]], title: str = "Ullage frontier") -> str:
    """One self-contained page with time over budget."""
    body = f"<h1>{escape(title)}</h1>" + _section("Time of one run over the budget", frontier_chart(points))
    return _page(title, body + _section("Points", frontier_table(points)))


def frontier_table(points: Sequence[dict[str, Any]]) -> str:
    """The points of a frontier as an HTML table."""
    rows = [
        [
            format_bytes(point["budget_bytes"]),
            format_bytes(point["peak_bytes"]),
            format_bytes(point["resident_bytes"]),
            format_bytes(point["streamed_bytes_per_run"]),
            seconds_text(point["predicted_seconds"]),
            "–" if point["measured_seconds"] is None else seconds_text(point["measured_seconds"]),
        ]
        for point in points
    ]
    return _table(["budget", "peak", "resident", "read per run", "predicted", "measured"], rows, numbers=range(6))


def _page(title: str, body: str) -> str:
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _section(title: str, body: str, note: str = "") -> str:
    remark = f"<p>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{remark}{body}</section>"


def _header(facts: Facts, title: str) -> str:
    plan = facts.plan
    cards = {
        "budget": format_bytes(plan.budget_bytes) if plan.budget_bytes else "unlimited",
        "planned peak": format_bytes(plan.peak_bytes),
        "least budget": format_bytes(plan.minimum_bytes),
        "weights": format_bytes(facts.weight_bytes),
        "read per run": format_bytes(plan.streamed_bytes_per_run),
        "predicted time": seconds_text(plan.prediction.seconds),
    }
    boxes = "".join(f'<div class="card"><span>{escape(k)}</span><b>{escape(v)}</b></div>' for k, v in cards.items())
    about = f"target {facts.target} · accuracy {facts.accuracy} · {plan.threads} threads"
    return f'<h1>{escape(title)}</h1><p>{escape(about)}</p><div class="cards">{boxes}</div>'


def _legend(parts: dict[str, int]) -> str:
    pairs = zip(parts.items(), BAR_COLOURS * len(parts), strict=False)
    items = (f'<span><i style="background:{c}"></i>{escape(n)} {format_bytes(b)}</span>' for (n, b), c in pairs)
    return f'<div class="legend">{"".join(items)}</div>'


def _table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = ()) -> str:
    right = set(numbers)
    mark = [' class="n"' if column in right else "" for column in range(len(header))]
    head = "".join(f"<th{m}>{escape(name)}</th>" for m, name in zip(mark, header, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{m}>{escape(str(cell))}</td>" for m, cell in zip(mark, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _prediction_table(facts: Facts) -> str:
    prediction, counts = facts.plan.prediction, command_counts(facts.plan)
    rows = [
        ("predicted time", seconds_text(prediction.seconds)),
        ("computing", seconds_text(prediction.compute_seconds)),
        ("reading from disk", seconds_text(prediction.read_seconds)),
        ("waiting for the disk", seconds_text(prediction.stall_seconds)),
        ("bytes streamed", format_bytes(prediction.streamed_bytes)),
        *((name, str(count)) for name, count in counts.items()),
    ]
    return _table(["", "value"], rows, numbers=[1])


def _tensor_table(facts: Facts) -> str:
    groups = (("input", facts.plan.inputs), ("output", facts.plan.outputs))
    rows = [
        (kind, info.name, info.dtype, " × ".join(map(str, tensor_json(info)["shape"])))
        for kind, infos in groups
        for info in infos
    ]
    return _table(["", "name", "dtype", "shape"], rows)


def _kernel_table(facts: Facts) -> str:
    return _table(["kernel", "launches per run"], kernel_uses(facts.plan).most_common(), numbers=[1])


def _tuning_table(tuning: Tuning) -> str:
    rows = [(k.name, k.launches, seconds_text(k.seconds), k.tried, k.choice, f"{k.ratio:.3f}") for k in tuning.kernels]
    header = [
        "kernel",
        "launches per run",
        "time with the own tiling",
        "tried",
        "tiling",
        "its time over the own one's",
    ]
    return _table(header, rows, numbers=(1, 2, 3, 5))


def _rewrite_tables(facts: Facts) -> str:
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for note in facts.rewrites:
        groups.setdefault((note.pass_name, note.what), []).append((note.where, f"{note.error:g}"))
    return "".join(
        f"<details><summary>{escape(name)}: {escape(what)} ×{len(rows)}</summary>"
        f"{_table(['where', 'error'], rows, numbers=[1])}</details>"
        for (name, what), rows in groups.items()
    )
