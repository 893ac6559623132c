"""Tuning a schedule within a number of seconds: the kernels that cost most first, each choice kept for next time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from ullage.codegen.cache import Cache, default_directory
from ullage.codegen.kernel import Kernel
from ullage.codegen.schedule.build import Scheduled
from ullage.codegen.tiling import AnyTiling, show_tiling
from ullage.codegen.tune.candidates import candidates, merged
from ullage.codegen.tune.judge import Rule
from ullage.codegen.tune.retile import retile, with_tilings
from ullage.codegen.tune.stage import Stage
from ullage.codegen.tune.store import Choice, Store
from ullage.codegen.tune.work import Work, works
from ullage.plan.simulate import Rates
from ullage.target import Target

_FIRST_OPENING_SECONDS = 1.0
"""What compiling the candidates of a kernel is taken to last before it has been seen."""
_OBJECTS, _OBJECTS_BYTES = "tuning-objects", 64 << 20
"""Candidates have a cache of their own: sharing object files with them would put their code beside a model's."""
_MISTAKEN = 3.0
"""Launches may take so many times as long as the cost model says."""


class Bench(Protocol):
    """Something that measures the kernels that it was opened with."""

    def rounds(self, order: Sequence[int], count: int) -> list[list[float]]:
        """Seconds of the kernels numbered by `order`, launched in this order, in each of `count` rounds."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


Opener = Callable[[Work, Sequence[Kernel]], Bench]


@dataclass(frozen=True, slots=True)
class Request:
    """What tuning may do: `seconds` of measuring, compilation included (0: none, only what is kept is used), over
    operands of at most `most_bytes`; `rates` are those of the cost model."""

    target: Target
    seconds: float
    rates: Rates
    most_bytes: int
    report: Callable[[str, float], None]
    clock: Callable[[], float] = time.monotonic
    open: Opener | None = None
    rule: Rule = field(default_factory=Rule)

    def opener(self) -> Opener:
        """How kernels are measured: by the executor, unless told otherwise."""
        if self.open is not None:
            return self.open
        cache = Cache(default_directory() / _OBJECTS, _OBJECTS_BYTES)
        return lambda work, kernels: Stage(work, kernels, self.target, cache)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What became of one kernel; `ratio` is the chosen tiling's time over that of the template's own, `seconds` what
    all launches of a run take with the template's own, as measured."""

    kernel: str
    name: str
    launches: int
    seconds: float
    choice: str
    ratio: float
    tried: int
    measured: bool
    """Whether it was measured now, and not taken from what was kept."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What tuning came to: kernels with a choice, and how many were left because the time or memory was used up."""

    seconds: float
    kernels: tuple[Tuned, ...]
    left: int

    @property
    def ratio(self) -> float:
        """What the kernels are expected to take together over what they took with their own tilings."""
        own = sum(k.seconds for k in self.kernels)
        return sum(k.seconds * k.ratio for k in self.kernels) / own if own else 1.0


@dataclass(frozen=True, slots=True)
class _Contest:
    """Ratios of the tilings that were not given up, and seconds of the template's own."""

    ratios: dict[AnyTiling, list[float]]
    own_seconds: list[float]


@dataclass
class _Session:
    """The state of one tuning."""

    scheduled: Scheduled
    store: Store
    request: Request
    start: float
    opening_seconds: float = _FIRST_OPENING_SECONDS

    def left_seconds(self) -> float:
        return self.request.seconds - (self.request.clock() - self.start)

    def choose(self, work: Work) -> tuple[Choice | None, bool]:
        """The choice for a kernel, if there is one, and whether it was measured now."""
        known = self.store.choices.get(work.key)
        if known is not None:
            return known, False
        found = self._measure(work)
        if found is not None:
            self.store.add(work.key, found)
        return found, found is not None

    def _measure(self, work: Work) -> Choice | None:
        """None if time or memory do not suffice."""
        if self.left_seconds() < self.opening_seconds or work.bytes > self.request.most_bytes:
            return None
        own = work.spec.tiling
        dims = dict(zip(work.kernel.dims, work.dims, strict=True))
        singles = self._distinct(work, candidates(work.spec, self.request.target, dims))
        if not singles:
            return Choice(own, 1.0, 0, 0.0)
        contest = self._contest(work, singles)
        if contest is None:
            return None
        promising = _ranked({tiling: found for tiling, found in contest.ratios.items() if median(found) < 1.0})
        pairs = self._distinct(work, merged(promising, own))
        if pairs:
            contest = self._contest(work, {promising[0]: singles[promising[0]]} | pairs)
        if contest is None:
            return None
        taken = {tiling: found for tiling, found in contest.ratios.items() if self.request.rule.takes(found)}
        best = next(iter(_ranked(taken)), own)
        ratio = median(taken[best]) if taken else 1.0
        return Choice(best, ratio, len(singles) + len(pairs), median(contest.own_seconds))

    def _distinct(self, work: Work, tilings: Sequence[AnyTiling]) -> dict[AnyTiling, Kernel]:
        """The tilings that make kernels which differ from the own one and from each other."""
        seen, found = {work.kernel.symbol}, dict[AnyTiling, Kernel]()
        for tiling in tilings:
            kernel = retile(work.spec, tiling, self.request.target).kernel
            if kernel.symbol not in seen:
                seen.add(kernel.symbol)
                found[tiling] = kernel
        return found

    def _contest(self, work: Work, entries: Mapping[AnyTiling, Kernel]) -> _Contest | None:
        """The tilings beside the own one; None if the time ends before there is a decision."""
        if self.left_seconds() < self.opening_seconds:
            return None
        began = self.request.clock()
        bench = self.request.opener()(work, [work.kernel, *entries.values()])
        try:
            self.opening_seconds = max(self.opening_seconds, self.request.clock() - began)
            return self._rounds(bench, list(entries), work.seconds / work.launches)
        finally:
            bench.close()

    def _rounds(self, bench: Bench, tilings: Sequence[AnyTiling], predicted_seconds: float) -> _Contest | None:
        rule, count = self.request.rule, self.request.rule.batch
        took = _MISTAKEN * predicted_seconds * (len(tilings) + 1) * (count + 1)
        ratios: dict[AnyTiling, list[float]] = {tiling: [] for tiling in tilings}
        own: list[float] = []
        alive = list(range(1, len(tilings) + 1))
        for batch in range(rule.batches):
            if not alive:
                break
            if self.left_seconds() < took:
                return None
            began = self.request.clock()
            order = [0, *alive] if batch % 2 == 0 else [*reversed(alive), 0]
            for seconds in bench.rounds(order, count):
                own.append(seconds[order.index(0)])
                for number in alive:
                    ratios[tilings[number - 1]].append(seconds[order.index(number)] / own[-1])
            each = (self.request.clock() - began) / count
            count = rule.rounds(each)
            took = each * count
            alive = [number for number in alive if not rule.gives_up(ratios[tilings[number - 1]])]
        return _Contest({tilings[number - 1]: ratios[tilings[number - 1]] for number in alive}, own)


def _ranked(ratios: Mapping[AnyTiling, Sequence[float]]) -> list[AnyTiling]:
    """Tilings by the median of their ratios, the least first."""
    return sorted(ratios, key=lambda tiling: median(ratios[tiling]))


def tune(scheduled: Scheduled, store: Store, request: Request) -> tuple[Scheduled, Tuning]:
    """The schedule with the tilings that are kept for its kernels, or that win when measured in the seconds given.

    The same choices in the store give the same schedule. Results of the kernels do not change by a bit.
    """
    session = _Session(scheduled, store, request, request.clock())
    found, tuned = dict[str, AnyTiling](), list[Tuned]()
    every = works(scheduled, request.rates)
    for number, work in enumerate(every):
        request.report(f"tune {number + 1} of {len(every)}: {work.name}", number / len(every))
        choice, measured = session.choose(work)
        if choice is None:
            continue
        if choice.tiling != work.spec.tiling:
            found[work.kernel.symbol] = choice.tiling
        tuned.append(_note(work, choice, measured))
    spent = request.clock() - session.start
    return with_tilings(scheduled, found, request.target), Tuning(spent, tuple(tuned), len(every) - len(tuned))


def _note(work: Work, choice: Choice, measured: bool) -> Tuned:
    seconds, text = work.launches * choice.own_seconds, show_tiling(choice.tiling)
    return Tuned(work.kernel.symbol, work.name, work.launches, seconds, text, choice.ratio, choice.tried, measured)
