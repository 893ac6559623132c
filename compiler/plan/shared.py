"""Several plans in one budget: which plan each piece runs, and where the weights lie that stay in memory.

Pieces never run at the same time, so that one space holds the activations and streamed blocks of whichever runs, and
one set of stacks its threads. What stays resident lies behind that space; bytes that several hold lie there once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from ullage.plan.plan import DIRECT_IO_BYTES, Gather, Launch, Plan
from ullage.plan.tables import round_up

_PACKED_ALIGNMENT_BYTES = 64
_MOST_LIMITS = 8
_STACKS = "stacks"

Content = int
"""A number for the bytes of a packed constant; two constants with the same number hold the same bytes."""


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes that stay in memory: tiles of a constant. Equal ones can lie at one place."""

    content: Content
    first_tile: int
    tiles: int
    lead: int
    bytes: int
    whole_pages: bool


@dataclass(frozen=True)
class Rung:
    """One of the plans of a piece, as far as sharing memory goes."""

    plan_index: int
    seconds: float
    space_bytes: int
    """Activations, workspaces, staging and streamed blocks: the part of the arena that others may use in turns."""
    own_bytes: int
    """Code, tables and results: held by the piece alone."""
    stack_bytes: int
    residents: Mapping[int, Resident] = field(repr=False)
    """By number of the block."""

    @staticmethod
    def of(plan: Plan, plan_index: int, contents: Sequence[Content], packed: Sequence[bool]) -> Rung:
        """A plan whose constants have `contents`; `packed` says which blocks do not lie on whole pages."""
        held = {item.name: item.bytes for item in plan.held}
        stacks = held.pop(_STACKS, 0)
        residents = {
            number: Resident(contents[b.constant], b.first_tile, b.tiles, b.lead, b.bytes, not packed[number])
            for number, b in enumerate(plan.blocks)
            if b.resident
        }
        seconds = plan.prediction.seconds
        return Rung(plan_index, seconds, space_bytes(plan), sum(held.values()), stacks, residents)

    @cached_property
    def resident_bytes(self) -> int:
        """Bytes of all residents."""
        return sum(r.bytes for r in set(self.residents.values()))


def space_bytes(plan: Plan) -> int:
    """The end of all that is not resident in a plan's arena, in whole pages."""
    ends = [buffer.offset + buffer.bytes for buffer in plan.buffers]
    ends += [block.offset + block.bytes for block in plan.blocks if not block.resident]
    for command in plan.commands:
        if isinstance(command, Launch):
            ends += [command.shared + command.shared_bytes, command.thread + plan.threads * command.thread_stride]
        elif isinstance(command, Gather) and command.block < 0:
            ends.append(command.staging + command.staging_bytes)
    return round_up(max(ends, default=0), DIRECT_IO_BYTES)


@dataclass(frozen=True)
class Sharing:
    """The plan of each piece by the piece's number, and what all of them take together."""

    rungs: Mapping[int, Rung]

    @cached_property
    def space_bytes(self) -> int:
        """The space that pieces use in turns: as long as the longest one needs."""
        return max((rung.space_bytes for rung in self.rungs.values()), default=0)

    @cached_property
    def stack_bytes(self) -> int:
        """The stacks of the piece that runs."""
        return max((rung.stack_bytes for rung in self.rungs.values()), default=0)

    @cached_property
    def offsets(self) -> Mapping[Resident, int]:
        """Where each resident lies in the region, behind the space; whole pages first."""
        every = dict.fromkeys(r for rung in self.rungs.values() for r in rung.residents.values())
        offsets: dict[Resident, int] = {}
        end = self.space_bytes
        for resident in sorted(every, key=lambda r: not r.whole_pages):
            end = round_up(end, DIRECT_IO_BYTES if resident.whole_pages else _PACKED_ALIGNMENT_BYTES)
            offsets[resident] = end
            end += resident.bytes
        return offsets

    @cached_property
    def region_bytes(self) -> int:
        """The one mapping that holds the space and what is resident."""
        end = max((offset + r.bytes for r, offset in self.offsets.items()), default=self.space_bytes)
        return round_up(max(end, self.space_bytes), DIRECT_IO_BYTES)

    @property
    def own_bytes(self) -> int:
        """Code, tables and results of all pieces."""
        return sum(rung.own_bytes for rung in self.rungs.values())

    @property
    def peak_bytes(self) -> int:
        """All that the pieces hold together."""
        return self.region_bytes + self.stack_bytes + self.own_bytes

    @property
    def saved_bytes(self) -> int:
        """Resident bytes that pieces would hold more than once if each had its own."""
        return sum(rung.resident_bytes for rung in self.rungs.values()) - sum(r.bytes for r in self.offsets)

    @property
    def seconds(self) -> float:
        """The predicted time of one run of every piece."""
        return sum(rung.seconds for rung in self.rungs.values())


def share(pieces: Mapping[int, Sequence[Rung]], budget_bytes: int | None) -> Sharing | None:
    """The fastest choice of a plan for every piece that fits the budget; None if there is none.

    For each of a few lengths of the common space, every piece begins with its fastest plan in that space, and the one
    that loses the least time for each byte steps down until all fit.
    """
    if budget_bytes is None:
        return Sharing({piece: min(rungs, key=lambda r: r.seconds) for piece, rungs in pieces.items()})
    found = [_Descent.within(pieces, limit).to(budget_bytes) for limit in _limits(pieces)]
    return min((sharing for sharing in found if sharing is not None), key=lambda s: s.seconds, default=None)


def _limits(pieces: Mapping[int, Sequence[Rung]]) -> list[int]:
    """Lengths of the space to try: from the least in which all pieces run to the longest that one asks for."""
    least = max(min(r.space_bytes for r in rungs) for rungs in pieces.values())
    sizes = sorted({r.space_bytes for rungs in pieces.values() for r in rungs if r.space_bytes >= least})
    step = -(-len(sizes) // _MOST_LIMITS)
    return sorted({*sizes[::step], sizes[-1]})


@dataclass
class _Descent:
    """Every piece on one of its rungs (most memory first), and how many pieces hold each resident."""

    rungs: dict[int, list[Rung]]
    at: dict[int, int]
    holders: Counter[Resident]

    @classmethod
    def within(cls, pieces: Mapping[int, Sequence[Rung]], space: int) -> Self:
        """All pieces on the rung with the most memory among those whose space is short enough."""
        rungs = {piece: _descending([r for r in rs if r.space_bytes <= space]) for piece, rs in pieces.items()}
        made = cls(rungs, dict.fromkeys(pieces, 0), Counter())
        for piece in pieces:
            made.holders.update(set(made._rung(piece).residents.values()))
        return made

    def to(self, budget_bytes: int) -> Sharing | None:
        """Step down until everything fits."""
        while (sharing := Sharing({p: self._rung(p) for p in self.rungs})).peak_bytes > budget_bytes:
            steps = [p for p, at in self.at.items() if at + 1 < len(self.rungs[p])]
            if not steps:
                return None
            self._step(min(steps, key=self._price))
        return sharing

    def _rung(self, piece: int, deeper: int = 0) -> Rung:
        return self.rungs[piece][self.at[piece] + deeper]

    def _price(self, piece: int) -> tuple[bool, float]:
        """Seconds lost for each byte that the next step of a piece frees; steps that free nothing come last."""
        before, after = self._rung(piece), self._rung(piece, 1)
        kept = set(after.residents.values())
        freed = before.own_bytes - after.own_bytes
        freed += sum(r.bytes for r in set(before.residents.values()) - kept if self.holders[r] == 1)
        freed -= sum(r.bytes for r in kept if not self.holders[r])
        lost = after.seconds - before.seconds
        return (False, lost / freed) if freed > 0 else (True, lost)

    def _step(self, piece: int) -> None:
        self.holders.subtract(set(self._rung(piece).residents.values()))
        self.at[piece] += 1
        self.holders.update(set(self._rung(piece).residents.values()))


def _descending(rungs: Sequence[Rung]) -> list[Rung]:
    """From the most memory to the least, without those that take more than a faster one."""
    kept: list[Rung] = []
    for rung in sorted(rungs, key=lambda r: (r.resident_bytes + r.own_bytes, r.seconds)):
        if not kept or rung.seconds < kept[-1].seconds:
            kept.append(rung)
    return kept[::-1]


def check_sharing(sharing: Sharing, budget_bytes: int | None) -> None:
    """Raise AssertionError unless the budget is kept and no two residents, nor one and the space, share a byte."""
    assert budget_bytes is None or sharing.peak_bytes <= budget_bytes, "the pieces exceed their budget"
    end = sharing.space_bytes
    for offset, resident in sorted(((o, r) for r, o in sharing.offsets.items()), key=lambda pair: pair[0]):
        assert offset >= end, f"{resident} overlaps what lies before it"
        assert not resident.whole_pages or offset % DIRECT_IO_BYTES == 0, f"{resident} does not begin on a page"
        end = offset + resident.bytes
    assert end <= sharing.region_bytes, "residents end beyond the region"
