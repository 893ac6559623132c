"""Planner: a schedule and a byte budget in, a complete plan out; of several drafts the best predicted one wins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest

from ullage.errors import BudgetTooSmall
from ullage.passes.plan.cut import Draft, Style, cut, draft
from ullage.passes.plan.emit import emit
from ullage.passes.plan.files import file_offsets
from ullage.passes.plan.model import PlanRequest, Problem, align, understand
from ullage.passes.plan.order import best_order
from ullage.passes.plan.pack import Packing, pack
from ullage.passes.plan.pins import Economy, all_pinned, choose, none_pinned
from ullage.passes.plan.space import Space, streaming_bytes
from ullage.plan.check import check
from ullage.plan.plan import DIRECT_IO_BYTES, Plan
from ullage.plan.simulate import Rates

__all__ = ["PlanRequest", "Planner", "Rates", "ladder", "make_plan", "minimum_bytes"]

_KIB, _MIB = 1 << 10, 1 << 20
_STYLES = (Style(4 * _MIB, 3), Style(_MIB, 3), Style(256 * _KIB, 4))
_TIGHT = Style(1 << 62, 1)
_RING_BYTES = tuple(64 * _KIB << i for i in range(0, 14))
_PIN_STEPS = 256
"""Memory for pinned constants comes in this many steps, so that drafts are the same ones for every budget."""
_ROUNDS = 4
_LEAST_STEPS = 8
_TABLE_PADDING_BYTES = 1024
_DRAFT_EFFORT = 60_000
"""Launches and blocks that all drafts for one budget may have together."""


def minimum_bytes(request: PlanRequest) -> int:
    """The least budget for which there is a plan: the peak of everything the loaded model holds, in whole pages."""
    return Planner(request).minimum_bytes


def make_plan(request: PlanRequest, budget_bytes: int | None) -> Plan:
    """The best plan found within the budget (None: everything resident); BudgetTooSmall below `minimum_bytes`."""
    return Planner(request).plan(budget_bytes)


def ladder(request: PlanRequest, rungs: int = 8, budget_bytes: int | None = None) -> tuple[Plan, ...]:
    """Plans at up to `rungs` budgets from the least one to all-resident, `budget_bytes` being one of them if given.

    Budgets are in geometric progression; no plan is predicted slower than one with less memory.
    """
    planner = Planner(request)
    low, high = planner.minimum_bytes, planner.resident_bytes
    count = max(2, rungs) - 1
    budgets = {align(round(low * (high / low) ** (i / count)), DIRECT_IO_BYTES) for i in range(count)} | {high}
    plans: list[Plan] = []
    for budget in sorted(budgets | ({budget_bytes} if budget_bytes is not None else set())):
        plan = planner.plan(budget)
        if not plans or plan.prediction.seconds < plans[-1].prediction.seconds or budget == budget_bytes:
            plans.append(plan)
    return tuple(plans)


@dataclass(frozen=True, slots=True)
class _Choice:
    """What distinguishes drafts: size of the shared space, steps of memory for pinned constants, style."""

    space_bytes: int
    pin_step: int
    style: Style
    tables_first: bool


@dataclass(frozen=True)
class Planner:
    """Plans of one request; what does not depend on the budget is found once."""

    request: PlanRequest
    _spaces: dict[int, Space] = field(default_factory=dict, init=False, repr=False, compare=False)
    _drafts: dict[_Choice, Draft | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def problem(self) -> Problem:
        """The request in numbers."""
        return understand(self.request)

    @cached_property
    def packing(self) -> Packing:
        """Order of steps, and places of activations."""
        return pack(self.problem, best_order(self.problem))

    @cached_property
    def file_offsets(self) -> tuple[int, ...]:
        """Where the constants lie in the weight section; the same for all plans."""
        return file_offsets(self.problem, self.packing.order)

    @cached_property
    def economy(self) -> Economy:
        """What reading each constant costs."""
        return Economy(self.problem, self.packing.order)

    @cached_property
    def minimum_bytes(self) -> int:
        """The least budget, in whole pages."""
        return align(self._emit(self._least).peak_bytes, DIRECT_IO_BYTES)

    @cached_property
    def resident_bytes(self) -> int:
        """The budget from which on everything is resident, in whole pages."""
        return align(self._resident_plan.peak_bytes, DIRECT_IO_BYTES)

    def plan(self, budget_bytes: int | None) -> Plan:
        """As `make_plan`."""
        if budget_bytes is not None and budget_bytes < self.minimum_bytes:
            raise BudgetTooSmall({"ram": budget_bytes}, {"ram": self.minimum_bytes})
        best = self._resident if budget_bytes is None else self._best(budget_bytes)
        plan = emit(best, self.file_offsets, budget_bytes, self.minimum_bytes)
        check(plan)
        return plan

    @cached_property
    def _resident(self) -> Draft:
        space = self._space(align(self.packing.height, DIRECT_IO_BYTES))
        return draft(cut(space, all_pinned(self.problem), _TIGHT), False)

    @cached_property
    def _resident_plan(self) -> Plan:
        return self._emit(self._resident)

    @cached_property
    def _least(self) -> Draft:
        """The draft with the least peak: one tile at a time where it is tight, longer blocks where there is room."""
        cuts = [cut(space, none_pinned(self.problem, space.forced), _TIGHT)
                for space in self._least_spaces() if space.forced is not None]  # fmt: skip
        least = draft(min(cuts, key=lambda c: (c.arena_bytes + c.table_bytes(), c.streamed_bytes)), False)
        return min(least, self._resident, key=lambda d: d.arena_and_table_bytes)

    def _least_spaces(self) -> Iterator[Space]:
        low = align(self.packing.height, DIRECT_IO_BYTES)
        high = streaming_bytes(self.problem, self.packing)
        sizes = {low + align((high - low) * i // _LEAST_STEPS, DIRECT_IO_BYTES) for i in range(_LEAST_STEPS + 1)}
        sizes |= {align(high + (high >> shift), DIRECT_IO_BYTES) for shift in range(2, 8)}
        for size in sorted(sizes):
            yield self._space(size)

    def _emit(self, what: Draft) -> Plan:
        return emit(what, self.file_offsets, None, 0)

    def _space(self, size: int) -> Space:
        if size not in self._spaces:
            self._spaces[size] = Space(self.problem, self.packing, size)
        return self._spaces[size]

    def _peak_bound(self, what: Draft) -> int:
        """An upper bound of a draft's peak, tight up to a page, without writing the plan."""
        grown = what.table_bytes - self._resident.table_bytes + _TABLE_PADDING_BYTES
        return self._resident_plan.peak_bytes + what.cut.arena_bytes - self._resident.cut.arena_bytes + align(
            grown, DIRECT_IO_BYTES
        )

    def _best(self, budget_bytes: int) -> Draft:
        """The best predicted draft within the budget; which drafts are compared depends on it only by what fits."""
        if budget_bytes >= self.resident_bytes:
            return self._resident
        best, effort = self._least, _DRAFT_EFFORT
        for choice in self._choices(budget_bytes):
            if effort <= 0:
                break
            if self._least_seconds(choice) >= best.prediction.seconds:
                continue
            found = self._draft(choice)
            if found is None:
                continue
            effort -= len(found.cut.shots) + len(found.cut.chunks)
            if self._peak_bound(found) <= budget_bytes and found.rank < best.rank:
                best = found
        return best

    def _choices(self, budget_bytes: int) -> Iterator[_Choice]:
        """Choices that may fit, in rounds of decreasing memory for pinned constants, the most promising ones first."""
        fixed = self._resident_plan.peak_bytes - self._resident.cut.arena_bytes
        tables = (False, True) if any(w.gathered for w in self.problem.weights) else (False,)
        rows: list[list[_Choice]] = []
        for size in self._sizes():
            steps = (budget_bytes - fixed - size) // self._pin_bytes
            if steps >= 0:
                last = min(steps, _PIN_STEPS)
                rows += [
                    [_Choice(size, step, style, first) for step in range(last, max(-1, last - _ROUNDS), -1)]
                    for style in _STYLES for first in tables
                ]  # fmt: skip
        for choices in zip_longest(*rows):
            yield from sorted((c for c in choices if c is not None), key=self._least_seconds)

    @cached_property
    def _pin_bytes(self) -> int:
        return max(1, -(-self._resident.cut.resident_bytes // _PIN_STEPS))

    def _sizes(self) -> list[int]:
        """Sizes of the shared space that are worth a try, from activations alone to a ring of many blocks."""
        low = align(self.packing.height, DIRECT_IO_BYTES)
        high = streaming_bytes(self.problem, self.packing)
        most = high + self._resident.cut.resident_bytes
        middle = align((low + high) // 2, DIRECT_IO_BYTES)
        return sorted({low, middle, high} | {high + ring for ring in _RING_BYTES if high + ring < most})

    def _least_seconds(self, choice: _Choice) -> float:
        """A lower bound of the predicted time: computing, and reading what cannot be pinned."""
        streamed = max(0, self._streamable_bytes - choice.pin_step * self._pin_bytes)
        return max(self._resident.prediction.seconds, streamed / self.request.rates.disk_bytes_per_s)

    @cached_property
    def _streamable_bytes(self) -> int:
        return sum(w.bytes for w in self.problem.weights if w.uses and not w.gathered)

    def _draft(self, choice: _Choice) -> Draft | None:
        if choice not in self._drafts:
            space = self._space(choice.space_bytes)
            pins = choose(space, self.economy, choice.pin_step * self._pin_bytes, choice.style, choice.tables_first)
            self._drafts[choice] = None if pins is None else draft(cut(space, pins, choice.style), True)
        return self._drafts[choice]
