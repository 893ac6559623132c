"""Planner: a schedule and a byte budget in, a complete plan out; of several drafts the best predicted one wins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ullage.errors import BudgetTooSmall
from ullage.passes.plan.cut import Cut, Draft, Style, cut, draft
from ullage.passes.plan.emit import emit
from ullage.passes.plan.files import file_offsets
from ullage.passes.plan.model import PlanRequest, Problem, align, understand
from ullage.passes.plan.order import best_order
from ullage.passes.plan.pack import Packing, pack
from ullage.passes.plan.pins import all_pinned, none_pinned
from ullage.passes.plan.search import QUICK, THOROUGH, Effort, Search
from ullage.passes.plan.space import Space, critical_sizes
from ullage.plan.check import check
from ullage.plan.plan import DIRECT_IO_BYTES, Plan
from ullage.plan.simulate import Rates

__all__ = ["PlanRequest", "Planner", "Rates", "ladder", "make_plan", "minimum_bytes"]

_TIGHT = Style(1 << 62, 1)
_LEAST_SAMPLES = 14
_TABLE_PADDING_BYTES = 1024
"""Sections of the executor's tables are padded; so much more than in proportion they can take."""


def minimum_bytes(request: PlanRequest) -> int:
    """The least budget for which there is a plan: the peak of everything the loaded model holds, in whole pages."""
    return Planner(request).minimum_bytes


def make_plan(request: PlanRequest, budget_bytes: int | None) -> Plan:
    """The best plan found within the budget (None: everything resident); BudgetTooSmall below `minimum_bytes`."""
    return Planner(request).plan(budget_bytes)


def ladder(request: PlanRequest, rungs: int = 8, budget_bytes: int | None = None) -> tuple[Plan, ...]:
    """As `Planner.ladder`."""
    return Planner(request).ladder(rungs, budget_bytes)


@dataclass(frozen=True)
class Planner:
    """Plans of one request; what does not depend on the budget is found once."""

    request: PlanRequest

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
    def minimum_bytes(self) -> int:
        """The least budget, in whole pages."""
        return align(self._emit(self._least).peak_bytes, DIRECT_IO_BYTES)

    @cached_property
    def resident_bytes(self) -> int:
        """The budget from which on everything is resident, in whole pages."""
        return align(self._resident_plan.peak_bytes, DIRECT_IO_BYTES)

    def plan(self, budget_bytes: int | None, effort: Effort = THOROUGH) -> Plan:
        """As `make_plan`."""
        if budget_bytes is not None and budget_bytes < self.minimum_bytes:
            raise BudgetTooSmall({"ram": budget_bytes}, {"ram": self.minimum_bytes})
        best = self._resident if budget_bytes is None else self._best(budget_bytes, effort)
        plan = emit(best, self.file_offsets, budget_bytes, self.minimum_bytes)
        check(plan)
        return plan

    def ladder(self, rungs: int = 8, budget_bytes: int | None = None) -> tuple[Plan, ...]:
        """Plans at up to `rungs` budgets from the least one to all-resident; `budget_bytes`, if given, is one of them.

        Budgets are in geometric progression; a plan that is not predicted faster than one with less memory is left out.
        Only the plan at `budget_bytes` is searched for thoroughly.
        """
        low, high, steps = self.minimum_bytes, self.resident_bytes, max(2, rungs) - 1
        budgets = {align(round(low * (high / low) ** (i / steps)), DIRECT_IO_BYTES) for i in range(steps)} | {high}
        plans: list[Plan] = []
        for budget in sorted(budgets if budget_bytes is None else budgets | {budget_bytes}):
            plan = self.plan(budget, THOROUGH if budget == budget_bytes else QUICK)
            faster = not plans or plan.prediction.seconds < plans[-1].prediction.seconds
            if faster or budget == budget_bytes:
                plans.append(plan)
        return tuple(plans)

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
        sizes = self._least_sizes
        step = -(-len(sizes) // _LEAST_SAMPLES)
        best = min(range(0, len(sizes), step), key=lambda i: self._least_total(sizes[i]))
        near = range(max(0, best - step), min(len(sizes), best + step + 1), -(-2 * step // _LEAST_SAMPLES))
        size = min((sizes[i] for i in {best, *near}), key=self._least_total)
        return min(draft(self._tight_cut(size), False), self._resident, key=lambda d: d.arena_and_table_bytes)

    @cached_property
    def _least_sizes(self) -> list[int]:
        """Sizes at which some step begins to find room for what it streams, and some above for longer blocks."""
        sizes = critical_sizes(self.problem, self.packing)
        return sizes + [align(sizes[-1] + (sizes[-1] * i >> 6), DIRECT_IO_BYTES) for i in (1, 2, 3, 4, 6, 8, 16)]

    def _least_total(self, size: int) -> tuple[int, int]:
        """(arena and tables, bytes read) when as little as possible is pinned."""
        made = self._tight_cut(size)
        return made.arena_bytes + made.table_bytes(), made.streamed_bytes

    def _tight_cut(self, size: int) -> Cut:
        space = self._space(size)
        return cut(space, none_pinned(self.problem, space.forced), _TIGHT)

    def _emit(self, what: Draft) -> Plan:
        return emit(what, self.file_offsets, None, 0)

    def _space(self, size: int) -> Space:
        return Space(self.problem, self.packing, size)

    @cached_property
    def _search(self) -> Search:
        fixed = self._resident_plan.peak_bytes - self._resident.arena_and_table_bytes + _TABLE_PADDING_BYTES
        return Search(self.problem, self.packing, self._least, self._resident, fixed)

    def _best(self, budget_bytes: int, effort: Effort) -> Draft:
        return self._resident if budget_bytes >= self.resident_bytes else self._search.best(budget_bytes, effort)
