"""Attempts as text: a table, and failures grouped by cause."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from benchmarks.configurations.attempt import Attempt
from ullage.budget import format_bytes

_HEAD = (
    "| configuration | task | parameters | least budget | all in memory | error | float32's own | |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"
)


def markdown(attempts: Sequence[Attempt]) -> str:
    """One line for each."""
    return "\n".join([_HEAD, *map(_row, attempts)])


def _row(one: Attempt) -> str:
    start = f"| {one.library}: {one.name.removesuffix(f' ({one.task})')} | {one.task} |"
    if one.problem:
        return f"{start} | | | | | {one.cause} |"
    sizes = f"{one.parameters} | {format_bytes(one.least_bytes)} | {format_bytes(one.generous_bytes)}"
    return f"{start} {sizes} | {one.error:.1e} | {one.eager_error:.1e} | right |"


def summary(attempts: Sequence[Attempt]) -> str:
    """How many are right, of how many architectures, and why the others are not."""
    right = [one for one in attempts if not one.problem]
    kinds = {(one.library, one.architecture) for one in right}
    share = 100 * len(right) / len(attempts)
    lines = [
        f"{len(right)} of {len(attempts)} configurations are right ({share:.1f} %), of {len(kinds)} architectures."
    ]
    causes = defaultdict[str, list[str]](list)
    for one in attempts:
        if one.problem:
            causes[one.cause].append(one.name)
    for cause, names in sorted(causes.items(), key=lambda entry: -len(entry[1])):
        lines.append(f"- {len(names)} × {cause}: {', '.join(names)}")
    return "\n".join(lines)
