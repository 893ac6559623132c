"""Runners of several artifacts in one mapping: one space that they use in turns, and each resident weight once."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from ullage.artifact.reader import Artifact
from ullage.plan.plan import Plan
from ullage.plan.shared import Resident, Rung, Sharing
from ullage.runtime.checks import is_packed
from ullage.runtime.memory import Region, present_bytes
from ullage.runtime.placement import Placement
from ullage.runtime.runner import Runner


def packed_blocks(plan: Plan) -> tuple[bool, ...]:
    """For each block, whether it lies off whole pages and exactly its data is read."""
    return tuple(is_packed(plan.constants[block.constant], block) for block in plan.blocks)


class Shared:
    """The memory of a `Sharing`, and a runner for each piece that has run; `paths` are the pieces' artifacts.

    The mapping is made at once, a piece's own code and tables at its first run. At most one piece is awake: it has
    threads, and may use the space. Not for use by two threads at once.
    """

    def __init__(self, sharing: Sharing, paths: Mapping[int, str], threads: int | None = None) -> None:
        self.sharing = sharing
        self._paths = dict(paths)
        self._threads = threads
        self._region = Region(sharing.region_bytes, "the shared arena")
        self._runners: dict[int, Runner] = {}
        self._present: set[Resident] = set()
        self._awake: int | None = None
        self._finalizer = weakref.finalize(self, _release, self._runners, self._region)

    def wake(self, piece: int) -> Runner:
        """The runner of a piece, ready to run; the one that was awake is at rest."""
        if self._awake == piece:
            return self._runners[piece]
        if self._awake is not None:
            self._runners[self._awake].rest()
            self._awake = None
        if piece in self._runners:
            self._runners[piece].wake()
        else:
            self._runners[piece] = self._opened(piece)
        self._awake = piece
        return self._runners[piece]

    def runner(self, piece: int) -> Runner | None:
        """The runner of a piece, if it has run."""
        return self._runners.get(piece)

    def held_bytes(self) -> dict[str, int]:
        """Bytes mapped for each purpose, all pieces together."""
        total = {"arena": self._region.bytes}
        for runner in self._runners.values():
            for purpose, count in runner.held_bytes().items():
                total[purpose] = total.get(purpose, 0) + count
        return total

    def measured_bytes(self) -> int:
        """Bytes really held in memory now, asked of the kernel page by page."""
        own = sum(runner.measured_bytes() for runner in self._runners.values())
        return own + present_bytes(self._region.address, self._region.bytes)

    def close(self) -> None:
        """Give everything back; results that callers hold stay valid."""
        self._finalizer()

    def _opened(self, piece: int) -> Runner:
        rung = self.sharing.rungs[piece]
        artifact = Artifact(self._paths[piece])
        try:
            plan = artifact.plan(rung.plan_index)
            runner = Runner(artifact, rung.plan_index, self._threads, self._placement(plan, rung))
        except BaseException:
            artifact.close()
            raise
        self._present.update(rung.residents.values())
        return runner

    def _placement(self, plan: Plan, rung: Rung) -> Placement:
        base = self._region.address
        places = {number: self.sharing.offsets[resident] for number, resident in rung.residents.items()}
        blocks = tuple(base + places.get(number, block.offset) for number, block in enumerate(plan.blocks))
        present = frozenset(number for number, r in rung.residents.items() if r in self._present)
        return Placement(base, rung.space_bytes, blocks, present)


def _release(runners: dict[int, Runner], region: Region) -> None:
    """Threads first, then what they use."""
    for runner in runners.values():
        runner.close()
    region.close()


def statistics(runner: Runner) -> dict[str, Any]:
    """What a runner tells of its last run, without what it holds."""
    kept = ("seconds", "stall_seconds", "bytes_read", "gathered_bytes")
    return {key: value for key, value in runner.stats().items() if key in kept}
