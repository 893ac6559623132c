"""Order: a legal order of the steps with a low peak: the given one, a greedy one, an exact search; the best wins."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from ullage.analysis.lifetimes import predecessors
from ullage.passes.plan.model import Problem

_SEARCH_EFFORT = 4_000_000
"""States times steps that the exact search may visit; about a second of work at the very most."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """The graph as bit masks over steps, and what each step adds to memory."""

    before: tuple[int, ...]
    after: tuple[tuple[int, ...], ...]
    users: tuple[int, ...]
    sizes: tuple[int, ...]
    touched: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[tuple[int, int], ...], ...]
    extra: tuple[int, ...]

    def run(self, done: int, live: int, step: int) -> tuple[int, int]:
        """(bytes needed while `step` runs, bytes live after it) when `done` is the mask of steps run before."""
        after = done | 1 << step
        born = dead = 0
        for storage in self.touched[step]:
            users = self.users[storage]
            if not users & done:
                born += self.sizes[storage]
            if not users & ~after:
                dead += self.sizes[storage]
        need = live + born + self.extra[step] - self._shared(done, after, step)
        return need, live + born - dead

    def _shared(self, done: int, after: int, step: int) -> int:
        saved, taken = 0, set()
        for old, new in self.pairs[step]:
            fits = self.sizes[new] <= self.sizes[old] and not self.users[new] & done
            if fits and not self.users[old] & ~after and old not in taken and new not in taken:
                saved += self.sizes[new]
                taken |= {old, new}
        return saved


def best_order(problem: Problem) -> tuple[int, ...]:
    """Step indices in an order whose peak (live storages, workspace, least streamed unit) is the lowest found."""
    facts = _facts(problem)
    given = tuple(range(len(problem.works)))
    best, least = given, _peak(facts, given)
    bound = _bound(facts)
    if least > bound:
        candidate = _greedy(facts)
        peak = _peak(facts, candidate)
        if peak < least:
            best, least = candidate, peak
    if least > bound:
        better = _search(facts, least, bound)
        best = better if better is not None else best
    return best


def step_extras(problem: Problem) -> tuple[int, ...]:
    """Bytes each step needs beside its storages when every constant is streamed in its least units."""
    result = []
    for work in problem.works:
        used = [*work.whole, *(c for c in (work.tiled, work.table) if c >= 0)]
        result.append(work.workspace_bytes + sum(problem.weights[c].unit_bytes for c in used))
    return tuple(result)


def _facts(problem: Problem) -> _Facts:
    works = problem.works
    previous = predecessors(problem.accesses)
    after: list[list[int]] = [[] for _ in works]
    for step, steps_before in enumerate(previous):
        for earlier in steps_before:
            after[earlier].append(step)
    users = [0] * len(problem.sizes)
    for step, work in enumerate(works):
        for storage in work.reads | work.writes:
            users[storage] |= 1 << step
    return _Facts(
        tuple(sum(1 << p for p in steps_before) for steps_before in previous),
        tuple(tuple(steps) for steps in after),
        tuple(users),
        problem.sizes,
        tuple(tuple(sorted(work.reads | work.writes)) for work in works),
        tuple(work.pairs for work in works),
        step_extras(problem),
    )


def _peak(facts: _Facts, order: Sequence[int]) -> int:
    done = live = peak = 0
    for step in order:
        need, live = facts.run(done, live, step)
        peak = max(peak, need)
        done |= 1 << step
    return peak


def _bound(facts: _Facts) -> int:
    """No order can need less than what some single step touches, even if all its in-place pairs share memory."""
    needs = []
    for step, storages in enumerate(facts.touched):
        shareable = {new for _, new in facts.pairs[step]}
        needs.append(sum(facts.sizes[s] for s in storages if s not in shareable) + facts.extra[step])
    return max(needs, default=0)


def _greedy(facts: _Facts) -> tuple[int, ...]:
    """List scheduling: always the ready step that leaves the least memory live, then the one that needs least."""
    ready = [s for s, mask in enumerate(facts.before) if not mask]
    order: list[int] = []
    done = live = 0
    while ready:
        outcomes = [(*reversed(facts.run(done, live, step)), step) for step in ready]
        live, _, step = min(outcomes)
        order.append(step)
        done |= 1 << step
        ready.remove(step)
        ready += [s for s in facts.after[step] if not facts.before[s] & ~done and s not in ready]
    return tuple(order)


@dataclass(frozen=True, slots=True)
class _State:
    done: int
    live: int
    ready: tuple[int, ...]
    last: int
    parent: _State | None


def _search(facts: _Facts, least: int, bound: int) -> tuple[int, ...] | None:
    """Best-first search over sets of executed steps for a peak below `least`; None if there is none or effort ends.

    A ready step that fits below the peak so far and leaves no more memory live than before is run at once: putting it
    first in any completion raises no peak, because later it frees at least as much.
    """
    count = len(facts.before)
    start = _State(0, 0, tuple(s for s, mask in enumerate(facts.before) if not mask), -1, None)
    queue: list[tuple[int, int, int, _State]] = [(0, 0, 0, start)]
    seen: dict[int, int] = {}
    effort, tick = max(200, _SEARCH_EFFORT // (count + 100)), 0
    while queue and tick < effort:
        peak, depth, _, state = heapq.heappop(queue)
        if -depth == count:
            return _trace(state)
        for step in _choices(facts, state, max(peak, bound)):
            need, live = facts.run(state.done, state.live, step)
            now, done = max(peak, need), state.done | 1 << step
            if now >= least or seen.get(done, least) <= now:
                continue
            seen[done] = now
            ready = tuple(s for s in state.ready if s != step)
            ready += tuple(s for s in facts.after[step] if not facts.before[s] & ~done)
            tick += 1
            heapq.heappush(queue, (now, depth - 1, tick, _State(done, live, ready, step, state)))
    return None


def _choices(facts: _Facts, state: _State, peak: int) -> tuple[int, ...]:
    for step in state.ready:
        need, live = facts.run(state.done, state.live, step)
        if need <= peak and live <= state.live:
            return (step,)
    return state.ready


def _trace(state: _State) -> tuple[int, ...]:
    order: list[int] = []
    node: _State | None = state
    while node is not None and node.last >= 0:
        order.append(node.last)
        node = node.parent
    return tuple(reversed(order))
