"""Inline SVG of a plan: the arena's address space over time, the bytes in use, and the frontier."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import log10
from typing import Any

from ullage.budget import format_bytes
from ullage.facts import seconds_text
from ullage.plan.plan import Command, Gather, Launch, Plan, Read, Wait

BAR_COLOURS = ["#3b6ea5", "#e8964a", "#6aa56b", "#8e6fb0", "#b5555a", "#4a9c9c", "#999999"]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 1080, 420, 70, 24
_RESIDENT, _STREAMED, _TEMPORARY = "#3b6ea5", "#e8964a", ("#6aa56b", "#8bbd7c", "#4a9c9c", "#a3c585")


@dataclass(frozen=True)
class Region:
    """Bytes `offset .. offset + bytes` of the arena in use over the commands `first .. last` inclusive."""

    name: str
    kind: str
    offset: int
    bytes: int
    first: int
    last: int


def regions(plan: Plan) -> list[Region]:
    """Everything in the arena with its life time: buffers, resident blocks, and each stay of a streamed block."""
    end = max(0, len(plan.commands) - 1)
    names = [info.name for info in plan.constants]
    found = [Region(b.name, "temporary", b.offset, b.bytes, b.first, b.last) for b in plan.buffers]
    found += [
        Region(names[b.constant], "resident", b.offset, b.bytes, 0, end) for b in plan.blocks if b.resident and b.bytes
    ]
    return found + list(_stays(plan, names))


def _stays(plan: Plan, names: Sequence[str]) -> Iterator[Region]:
    """One region per read of a streamed block: from its `Read` to its last use before the next one.

    A block that is read for the next call stays to the end, and from the beginning to its first use there.
    """
    end = max(0, len(plan.commands) - 1)
    reads, uses = _reads_and_uses(plan)
    for block, info in enumerate(plan.blocks):
        if info.resident:
            continue
        label = f"{names[info.constant]} tiles {info.first_tile}–{info.first_tile + info.tiles - 1}"
        for opened, closed in pairwise([-1, *reads[block], end + 1]):
            used = [i for i in uses[block] if opened < i < closed]
            if opened < 0 and not used:
                continue
            last = used[-1] if used else end
            yield Region(label, "streamed", info.offset, info.bytes, max(0, opened), last)


def _reads_and_uses(plan: Plan) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Positions of the commands that read, and that use, each block."""
    reads: dict[int, list[int]] = defaultdict(list)
    uses: dict[int, list[int]] = defaultdict(list)
    for position, command in enumerate(plan.commands):
        if isinstance(command, Read):
            reads[command.block].append(position)
        for block in _used_blocks(command):
            uses[block].append(position)
    return reads, uses


def _used_blocks(command: Command) -> list[int]:
    if isinstance(command, Launch):
        return [pointer.index for pointer in command.pointers if pointer.base == "block"]
    if isinstance(command, Gather):
        return [command.block] if command.block >= 0 else []
    return [command.block] if isinstance(command, Wait) else []


def memory_map(plan: Plan) -> str:
    """Rectangles of all regions: commands to the right, addresses upward."""
    commands, top = max(1, len(plan.commands)), max(1, plan.arena_bytes)
    across, up = (_WIDTH - _LEFT) / commands, (_HEIGHT - _BOTTOM) / top
    shapes = [_axes(commands, top)]
    for number, region in enumerate(sorted(regions(plan), key=lambda r: r.kind != "resident")):
        x, width = _LEFT + region.first * across, max(0.6, (region.last - region.first + 1) * across)
        height = max(0.6, region.bytes * up)
        y = _HEIGHT - _BOTTOM - region.offset * up - height
        shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{_colour(region, number)}" '
            f'fill-opacity=".85" stroke="var(--page)" stroke-width=".4"><title>{_hover(region)}</title></rect>'
        )
    return _svg(_HEIGHT, shapes) + _kinds()


def _kinds() -> str:
    kinds = (("resident weights", _RESIDENT), ("streamed weights", _STREAMED), ("activations", _TEMPORARY[0]))
    spans = "".join(f'<span><i style="background:{colour}"></i>{name}</span>' for name, colour in kinds)
    return f'<div class="legend">{spans}</div>'


def _colour(region: Region, number: int) -> str:
    if region.kind == "temporary":
        return _TEMPORARY[number % len(_TEMPORARY)]
    return _RESIDENT if region.kind == "resident" else _STREAMED


def _hover(region: Region) -> str:
    return escape(
        f"{region.name}: {region.kind}, {format_bytes(region.bytes)} at {region.offset}, "
        f"commands {region.first}–{region.last}"
    )


def live_chart(plan: Plan) -> str:
    """The bytes in use at every command, as an area under the arena's size."""
    commands = max(1, len(plan.commands))
    live = live_bytes(plan)
    top = max(1, plan.arena_bytes)
    height = _HEIGHT / 2
    across, up = (_WIDTH - _LEFT) / commands, (height - _BOTTOM) / top
    steps = [
        f"L{_LEFT + (i + side) * across:.1f},{height - _BOTTOM - value * up:.1f}"
        for i, value in enumerate(live)
        for side in (0, 1)
    ]
    floor = height - _BOTTOM
    path = f"M{_LEFT},{floor:.1f}{''.join(steps)}L{_WIDTH},{floor:.1f}Z"
    area = f'<path d="{path}" fill="{_TEMPORARY[0]}" fill-opacity=".55" stroke="{_TEMPORARY[0]}"/>'
    return _svg(height, [_axes(commands, top, height), area])


def live_bytes(plan: Plan) -> list[int]:
    """Bytes of the arena in use at each command; storages that share memory in place count once."""
    count = max(1, len(plan.commands))
    spans: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for region in regions(plan):
        for position in range(region.first, min(region.last, count - 1) + 1):
            spans[position].append((region.offset, region.offset + region.bytes))
    return [_covered(found) for found in spans]


def _covered(spans: list[tuple[int, int]]) -> int:
    total, reach = 0, 0
    for start, end in sorted(spans):
        total += max(0, end - max(start, reach))
        reach = max(reach, end)
    return total


def stacked_bar(parts: Mapping[str, int]) -> str:
    """One horizontal bar of the parts."""
    total = max(1, sum(parts.values()))
    shapes, x = [], 0.0
    for (name, count), colour in zip(parts.items(), BAR_COLOURS * len(parts), strict=False):
        width = _WIDTH * count / total
        title = escape(f"{name}: {format_bytes(count)}")
        shapes.append(
            f'<rect x="{x:.1f}" width="{width:.1f}" height="26" fill="{colour}"><title>{title}</title></rect>'
        )
        x += width
    return _svg(26, shapes)


def frontier_chart(points: Sequence[Mapping[str, Any]]) -> str:
    """Predicted and measured seconds over the budget, time on a logarithmic axis."""
    series = {"predicted_seconds": _RESIDENT, "measured_seconds": _STREAMED}
    times = [point[key] for point in points for key in series if point[key]]
    low, high = log10(min(times)) - 0.1, log10(max(times)) + 0.1
    first, last = points[0]["budget_bytes"], max(points[-1]["budget_bytes"], points[0]["budget_bytes"] + 1)
    shapes = []
    for key, colour in series.items():
        places = []
        for point in points:
            if not point[key]:
                continue
            x = _LEFT + 10 + (_WIDTH - _LEFT - 30) * (point["budget_bytes"] - first) / (last - first)
            y = (_HEIGHT - _BOTTOM - 10) * (1 - (log10(point[key]) - low) / (high - low)) + 5
            title = escape(f"{format_bytes(point['budget_bytes'])}: {seconds_text(point[key])} ({key.split('_')[0]})")
            places.append(f"{x:.1f},{y:.1f}")
            shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"><title>{title}</title></circle>')
        shapes.append(f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-opacity=".5"/>')
    ends = (
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{format_bytes(first)}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 6}" text-anchor="end">{format_bytes(last)}</text>'
        f'<text x="0" y="14">{seconds_text(max(times))}</text>'
        f'<text x="0" y="{_HEIGHT - _BOTTOM}">{seconds_text(min(times))}</text>'
    )
    return _svg(_HEIGHT, [ends, *shapes])


def _axes(commands: int, top: int, height: float = _HEIGHT) -> str:
    floor = height - _BOTTOM
    lines = [f'<line x1="{_LEFT}" y1="{floor}" x2="{_WIDTH}" y2="{floor}" stroke="var(--line)"/>']
    for quarter in range(5):
        y = floor - floor * quarter / 4
        lines.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH}" y2="{y:.1f}" stroke="var(--line)"/>')
        label = format_bytes(top * quarter // 4)
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 10:.1f}" text-anchor="end">{label}</text>')
    lines.append(f'<text x="{_WIDTH}" y="{height - 6}" text-anchor="end">{commands} commands</text>')
    return "".join(lines)


def _svg(height: float, shapes: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img">{"".join(shapes)}</svg>'
