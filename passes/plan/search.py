"""Search: which drafts are made for a budget, and which one wins.

A draft is fixed by a `Choice`, and so is its peak: a larger budget admits the same drafts and more of them, and is
therefore never predicted slower.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from ullage.passes.plan.cut import Draft, Pins, Style, cut, draft, tiles_per_block
from ullage.passes.plan.model import Problem, align
from ullage.passes.plan.pack import Packing
from ullage.passes.plan.pins import Economy, choose
from ullage.passes.plan.space import Space, streaming_bytes
from ullage.plan.plan import DIRECT_IO_BYTES

_KIB, _MIB = 1 << 10, 1 << 20
_STYLES = (Style(4 * _MIB, 2), Style(4 * _MIB, 3), Style(_MIB, 3))
_RING_BYTES = tuple(unit * _KIB << i for i in range(14) for unit in (64, 96))
_PIN_STEPS = 256
"""Memory for pinned constants comes in so many steps (of a page at least): drafts are the same for every budget."""
_WORTHWHILE = 0.002


@dataclass(frozen=True, slots=True)
class Effort:
    """When to stop: launches and blocks that all drafts for one budget may have together (`total`), and those of
    drafts in a row (`patience`) of which none is faster by at least `_WORTHWHILE`.
    """

    total: int
    patience: int


THOROUGH = Effort(80_000, 24_000)
QUICK = Effort(20_000, 8_000)


@dataclass(frozen=True, slots=True)
class Choice:
    """What tells drafts apart: size of the shared space, steps of memory for pinned constants, style."""

    space_bytes: int
    pin_step: int
    style: Style
    tables_first: bool


@dataclass(frozen=True, slots=True)
class _Score:
    """What a draft is judged by: its peak, predicted seconds, rank among drafts, and number of launches and blocks."""

    peak_bytes: int
    seconds: float
    rank: tuple[float, ...]
    size: int


@dataclass(frozen=True)
class Search:
    """Drafts of one problem between the least one and the all-resident one.

    A draft's peak is at most its arena and growing tables plus `fixed_bytes`, rounded up to a page.
    """

    problem: Problem
    packing: Packing
    least: Draft
    resident: Draft
    fixed_bytes: int
    _scores: dict[Choice, _Score | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    _costs: dict[tuple[int, Style], _ReadCosts] = field(default_factory=dict, init=False, repr=False, compare=False)
    _spaces: dict[int, Space] = field(default_factory=dict, init=False, repr=False, compare=False)
    _known: dict[Hashable, _Score] = field(default_factory=dict, init=False, repr=False, compare=False)

    def best(self, budget_bytes: int, effort: Effort = THOROUGH) -> Draft:
        """The draft with the least predicted time whose peak is within the budget."""
        best, chosen, spent, idle = self._score(self.least), None, 0, 0
        for choice in self._choices(budget_bytes):
            if self.least_seconds(choice) >= best.seconds:
                continue
            found = self._scored(choice)
            if found is None:
                continue
            spent, idle = spent + found.size, idle + found.size
            if found.peak_bytes <= budget_bytes and found.rank < best.rank:
                idle = 0 if found.seconds < best.seconds * (1 - _WORTHWHILE) else idle
                best, chosen = found, choice
            if spent >= effort.total or idle >= effort.patience:
                break
        made = self.least if chosen is None else self._draft(chosen)
        assert made is not None
        return made

    def _scored(self, choice: Choice) -> _Score | None:
        """The score of a draft; scores are kept for later budgets, drafts are not, since they are large."""
        if choice not in self._scores:
            self._scores[choice] = self._new_score(choice)
        return self._scores[choice]

    def _new_score(self, choice: Choice) -> _Score | None:
        """Score a choice, unless another one led to the same pins or to the same blocks, and so launches."""
        pins = self._pins(choice)
        if pins is None:
            return None
        pinned = (choice.space_bytes, choice.style, tuple(pins.values()))
        if pinned not in self._known:
            made = cut(self._space(choice.space_bytes), pins, choice.style)
            blocks = (choice.space_bytes, made.chunks)
            if blocks not in self._known:
                self._known[blocks] = self._score(draft(made, True))
            self._known[pinned] = self._known[blocks]
        return self._known[pinned]

    def _score(self, made: Draft) -> _Score:
        size = len(made.cut.shots) + len(made.cut.chunks)
        return _Score(self._peak_bytes(made), made.prediction.seconds, made.rank, size)

    def _peak_bytes(self, what: Draft) -> int:
        return align(what.arena_and_table_bytes + self.fixed_bytes, DIRECT_IO_BYTES)

    def _choices(self, budget_bytes: int) -> Iterator[Choice]:
        """Choices that may fit: first the most pinned memory for each size and style, then step by step less.

        Within a round large spaces come first, since their long blocks make for few launches and quick drafts.
        """
        tables = (False, True) if any(w.gathered for w in self.problem.weights) else (False,)
        rows: list[tuple[int, int, Style, bool]] = []
        for size in sorted(self._sizes, reverse=True):
            last = min((budget_bytes - self.fixed_bytes - size) // self._pin_bytes, _PIN_STEPS)
            rows += [(size, last, style, first) for style in _STYLES for first in tables]
        for less in range(_PIN_STEPS + 1):
            made = [Choice(size, last - less, style, first) for size, last, style, first in rows if last >= less]
            yield from [c for c in made if c.style is _STYLES[0]]
            yield from sorted([c for c in made if c.style is not _STYLES[0]], key=self.least_seconds)

    @cached_property
    def _economy(self) -> Economy:
        return Economy(self.problem, self.packing.order)

    @cached_property
    def _pin_bytes(self) -> int:
        return max(DIRECT_IO_BYTES, -(-self.resident.cut.resident_bytes // _PIN_STEPS))

    @cached_property
    def _sizes(self) -> frozenset[int]:
        """Sizes of the shared space that are worth a try, from activations alone to a ring of many blocks."""
        low = align(self.packing.height, DIRECT_IO_BYTES)
        high = streaming_bytes(self.problem, self.packing)
        most = high + self.resident.cut.resident_bytes
        middle = align((low + high) // 2, DIRECT_IO_BYTES)
        return frozenset({low, middle, high, *(high + ring for ring in _RING_BYTES if high + ring < most)})

    def least_seconds(self, choice: Choice) -> float:
        """A lower bound of the predicted time: computing and memory traffic, or the disk alone."""
        key = (choice.space_bytes, choice.style)
        if key not in self._costs:
            self._costs[key] = _read_costs(self._space(choice.space_bytes), choice.style)
        costs = self._costs[key]
        streamed = max(0, costs.total_bytes - choice.pin_step * self._pin_bytes)
        traffic = self.problem.request.rates.traffic_seconds(streamed)
        return max(self.resident.prediction.seconds + traffic, costs.least_seconds(streamed))

    def _draft(self, choice: Choice) -> Draft | None:
        pins = self._pins(choice)
        return None if pins is None else draft(cut(self._space(choice.space_bytes), pins, choice.style), True)

    def _pins(self, choice: Choice) -> Pins | None:
        space, pinned_bytes = self._space(choice.space_bytes), choice.pin_step * self._pin_bytes
        return choose(space, self._economy, pinned_bytes, choice.style, choice.tables_first)

    def _space(self, size: int) -> Space:
        """One space per size: drafts of all styles and pins share what it knows."""
        if size not in self._spaces:
            self._spaces[size] = Space(self.problem, self.packing, size)
        return self._spaces[size]


@dataclass(frozen=True, slots=True)
class _ReadCosts:
    """Constants that can be streamed, cheapest to read first: running totals of bytes and disk seconds."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def total_bytes(self) -> int:
        """All of them."""
        return self.sizes[-1]

    def least_seconds(self, streamed: int) -> float:
        """Disk seconds for at least `streamed` bytes."""
        at = bisect_left(self.sizes, streamed)
        if at == 0:
            return 0.0
        part = (streamed - self.sizes[at - 1]) / (self.sizes[at] - self.sizes[at - 1])
        return self.seconds[at - 1] + part * (self.seconds[at] - self.seconds[at - 1])


def _read_costs(space: Space, style: Style) -> _ReadCosts:
    """What streaming costs at least if no block is longer than the style and the largest hole allow."""
    rates, hole = space.problem.request.rates, max(space.holes, default=0)
    costs = []
    for weight in space.problem.weights:
        if not weight.uses or weight.gathered or not weight.bytes:
            continue
        tiles = tiles_per_block(weight, hole, style) if weight.splittable else weight.tiles
        seconds = weight.bytes / rates.disk_bytes_per_s + weight.tiles / tiles * rates.disk_latency_s
        costs.append((seconds / weight.bytes, weight.bytes, seconds))
    costs.sort()
    return _ReadCosts((0, *accumulate(c[1] for c in costs)), (0.0, *accumulate(c[2] for c in costs)))
