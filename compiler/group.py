"""Groups: several compiled pieces (graphs of one module, shape classes of one function) inside one budget.

Pieces never run at the same time. They share one arena for activations and workspaces, one set of threads, and each
resident weight that several of them hold; code, tables and results are each piece's own. All pieces stay loaded while
that fits, each with the plan that serves all of them best; where it does not, those that ran longest ago are unloaded
and loaded again when they are called.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ullage.artifact.reader import Artifact
from ullage.budget import format_bytes
from ullage.errors import BudgetTooSmall
from ullage.facts import seconds_text
from ullage.flow import Built
from ullage.plan.plan import Plan
from ullage.plan.shared import Rung, Sharing, check_sharing, share
from ullage.runtime.contents import Contents
from ullage.runtime.load import check_machine
from ullage.runtime.runner import Runner
from ullage.runtime.shared import Shared, packed_blocks, statistics


@dataclass(frozen=True)
class Piece:
    """A compiled piece as its group knows it; the artifact stays open so that weights can be compared."""

    name: str
    built: Built
    artifact: Artifact
    rungs: tuple[Rung, ...]

    @property
    def minimum_bytes(self) -> int:
        """The least budget with which the piece works alone."""
        return self.built.plan.minimum_bytes


@dataclass(frozen=True)
class Part:
    """What one piece holds of its group's budget; nothing if it is not loaded."""

    name: str
    loaded: bool
    resident_bytes: int
    space_bytes: int
    own_bytes: int
    predicted_seconds: float
    minimum_bytes: int


class Group:
    """One budget (bytes of RAM, or None) for pieces that are added as they are compiled; safe to use from threads."""

    def __init__(self, budget_bytes: int | None, name: str = "the model", threads: int | None = None) -> None:
        self.budget_bytes = budget_bytes
        self.name = name
        self._threads = threads
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._pieces: dict[int, Piece] = {}
        self._contents = Contents()
        self._recent: list[int] = []
        self._left: deque[int] = deque()
        self._shared: Shared | None = None
        weakref.finalize(self, _close_artifacts, self._pieces)

    def add(self, name: str, make: Callable[[], Built]) -> Member:
        """Compile a piece with `make` and take it in; raises BudgetTooSmall if not even it alone fits the budget."""
        try:
            built = make()
        except BudgetTooSmall as error:
            raise self._refusal(name, error) from error
        artifact = Artifact(built.path)
        with self._lock:
            self._reap()
            number = next(self._numbers)
            self._pieces[number] = Piece(name, built, artifact, self._rungs(artifact))
            self._arrange(number)
            return Member(self, number)

    def run(self, number: int, inputs: dict[str, Any]) -> dict[str, Any]:
        """Run one piece with named inputs."""
        with self._lock:
            return self._awake(number).run(inputs)

    def plan(self, number: int) -> Plan:
        """The plan that a piece has now, or the one that it would have alone."""
        with self._lock:
            piece = self._pieces[number]
            loaded = self._loaded(number)
            return piece.built.plan if loaded is None else piece.artifact.plan(loaded.plan_index)

    def built(self, number: int) -> Built:
        """What was written for a piece."""
        return self._pieces[number].built

    def parts(self) -> tuple[Part, ...]:
        """What each piece holds."""
        with self._lock:
            self._reap()
            return tuple(self._part(number) for number in self._pieces)

    def stats(self, number: int) -> dict[str, Any]:
        """The last run of a piece, and what the whole group holds now."""
        with self._lock:
            return {**statistics(self._awake(number)), **self.summary()}

    def summary(self) -> dict[str, Any]:
        """What all pieces hold together, and each one's part."""
        with self._lock:
            held = self.held_bytes()
            total = sum(held.values())
            parts = [vars(part) for part in self.parts()]
            budget = self.budget_bytes or total
            return {"budget_bytes": budget, "peak_bytes": total, "high_water_bytes": held, "pieces": parts}

    def held_bytes(self) -> dict[str, int]:
        """Bytes mapped for each purpose by all pieces together."""
        with self._lock:
            return {} if self._shared is None else self._shared.held_bytes()

    def measured_bytes(self) -> int:
        """Bytes that all pieces really hold in memory now, asked of the kernel."""
        with self._lock:
            return 0 if self._shared is None else self._shared.measured_bytes()

    def explain(self) -> str:
        """The group's budget and a table of its pieces, as text."""
        with self._lock:
            return "\n".join(self._lines())

    def close(self) -> None:
        """Give all memory back; the next call of a piece takes its part again."""
        with self._lock:
            if self._shared is not None:
                self._shared.close()
                self._shared = None

    def leave(self, number: int) -> None:
        """Note that a piece is no longer used; its memory is given back when the group is used again."""
        self._left.append(number)

    def _awake(self, number: int) -> Runner:
        self._reap()
        if self._loaded(number) is None:
            self._arrange(number)
        if self._shared is None:
            raise AssertionError("a group arranges its pieces before it runs one")
        self._recent = [n for n in self._recent if n != number] + [number]
        return self._shared.wake(number)

    def _loaded(self, number: int) -> Rung | None:
        return None if self._shared is None else self._shared.sharing.rungs.get(number)

    def _arrange(self, wanted: int) -> None:
        """Load anew: the wanted piece and, of the others, all that fit, those first that ran last."""
        sharing = self._choose(wanted)
        check_sharing(sharing, self.budget_bytes)
        self.close()
        paths = {number: str(self._pieces[number].built.path) for number in sharing.rungs}
        self._shared = Shared(sharing, paths, self._threads)

    def _choose(self, wanted: int) -> Sharing:
        others = [n for n in reversed(self._recent) if n != wanted]
        others += [n for n in self._pieces if n != wanted and n not in others]
        for count in range(len(others), -1, -1):
            kept = (*others[:count], wanted)
            found = share({n: self._pieces[n].rungs for n in sorted(kept)}, self.budget_bytes)
            if found is not None:
                return found
        piece = self._pieces[wanted]
        least = {"ram": piece.minimum_bytes}
        raise self._refusal(piece.name, BudgetTooSmall({"ram": self.budget_bytes or 0}, least))

    def _rungs(self, artifact: Artifact) -> tuple[Rung, ...]:
        check_machine(artifact.manifest, artifact.path)
        plans = [artifact.plan(index) for index in range(len(artifact.manifest.plans))]
        contents = self._contents.add(artifact, plans[0])
        return tuple(Rung.of(plan, index, contents, packed_blocks(plan)) for index, plan in enumerate(plans))

    def _refusal(self, name: str, error: BudgetTooSmall) -> BudgetTooSmall:
        """The same error in terms of the whole; others can give back all that they hold, so they add nothing."""
        held = sum(self.held_bytes().values())
        others = f"{len(self._pieces)} other pieces hold {format_bytes(held)} and would give all of it back"
        remedies = (*error.remedies, others) if self._pieces else error.remedies
        minimum = max((piece.minimum_bytes for piece in self._pieces.values()), default=0)
        least = {tier: max(need, minimum if tier == "ram" else 0) for tier, need in error.minimum.items()}
        return BudgetTooSmall(error.requested, least, remedies, whose=f"{name}, a piece of {self.name},")

    def _reap(self) -> None:
        """Forget the pieces that are no longer used."""
        left = {self._left.popleft() for _ in range(len(self._left))} & self._pieces.keys()
        for number in left:
            piece = self._pieces.pop(number)
            self._contents.forget(piece.artifact)
            piece.artifact.close()
        self._recent = [n for n in self._recent if n not in left]
        if any(self._loaded(number) for number in left):
            self.close()

    def _part(self, number: int) -> Part:
        piece, rung = self._pieces[number], self._loaded(number)
        if rung is None:
            seconds = piece.built.plan.prediction.seconds
            return Part(piece.name, False, 0, 0, 0, seconds, piece.minimum_bytes)
        return Part(
            piece.name, True, rung.resident_bytes, rung.space_bytes, rung.own_bytes, rung.seconds, piece.minimum_bytes
        )

    def _lines(self) -> Iterable[str]:
        budget = "none" if self.budget_bytes is None else format_bytes(self.budget_bytes)
        parts = self.parts()
        yield f"{self.name}: {len(parts)} pieces in one budget of {budget}"
        if self._shared is not None:
            yield _sharing_line(self._shared.sharing)
        for part in parts:
            yield f"  {_part_line(part)}"


def _close_artifacts(pieces: dict[int, Piece]) -> None:
    for piece in pieces.values():
        piece.artifact.close()


def _sharing_line(s: Sharing) -> str:
    return (
        f"planned {format_bytes(s.peak_bytes)}: a common space of {format_bytes(s.space_bytes)}, resident weights of "
        f"{format_bytes(sum(r.bytes for r in s.offsets))} ({format_bytes(s.saved_bytes)} more if each piece had its "
        f"own), stacks of {format_bytes(s.stack_bytes)}, code, tables and results of {format_bytes(s.own_bytes)}"
    )


def _part_line(part: Part) -> str:
    if not part.loaded:
        return f"{part.name}: not loaded; loaded again when it is called"
    return (
        f"{part.name}: resident {format_bytes(part.resident_bytes)}, space {format_bytes(part.space_bytes)}, own "
        f"{format_bytes(part.own_bytes)}, {seconds_text(part.predicted_seconds)} predicted"
    )


class Member:
    """A piece of a group, which leaves the group when nobody holds this any more."""

    def __init__(self, group: Group, number: int) -> None:
        self.group = group
        self._number = number
        self._leave = weakref.finalize(self, group.leave, number)

    @property
    def path(self) -> Path:
        """The artifact."""
        return self.group.built(self._number).path

    @property
    def plan(self) -> Plan:
        """The plan within the group's budget."""
        return self.group.plan(self._number)

    @property
    def built(self) -> Built:
        """What was written."""
        return self.group.built(self._number)

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Run once; waits for the other pieces."""
        return self.group.run(self._number, inputs)

    def stats(self) -> dict[str, Any]:
        """The last run, and what the group holds."""
        return self.group.stats(self._number)

    def explain(self) -> str:
        """The group's budget and pieces, as text."""
        return self.group.explain()

    def close(self) -> None:
        """Give the group's memory back until the next call."""
        self.group.close()
