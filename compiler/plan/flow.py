"""Flow: play a plan's commands and follow who owns each byte of the arena; part of `check`.

An owner is a buffer or a block. Writing takes bytes from their owners; using something whose bytes were taken is an
error, and so is taking bytes into which a read is in flight or that a live buffer still needs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from ullage.plan.plan import Gather, Launch, Plan, Read, Wait


def flow_problems(plan: Plan) -> Iterator[str]:
    """What goes wrong in the prologue and two calls; the second starts in the state that the first one left."""
    state = _Flow(plan)
    for number, command in enumerate(plan.prologue):
        if isinstance(command, Read):
            yield from state.read(f"prologue {number}", command.block, -1)
    started = set(state.flying)
    for call in (1, 2):
        state.written = set()
        for number, command in enumerate(plan.commands):
            where = f"command {number} in call {call}"
            if isinstance(command, Read):
                yield from state.read(where, command.block, number)
            elif isinstance(command, Wait):
                yield from state.wait(where, command.block)
            else:
                yield from state.launch(f"{where} ({plan.step_names[command.step]})", command, number)
        if state.flying != started:
            odd = sorted(state.flying ^ started)
            yield f"call {call}: blocks {odd} are in flight at just one of its ends"
            return


@dataclass
class _Flow:
    plan: Plan
    flying: set[int] = field(default_factory=set)
    ready: set[int] = field(default_factory=set)
    written: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        blocks = self.plan.blocks
        self.resident = frozenset(n for n, b in enumerate(blocks) if b.resident)
        self.walls = sorted((blocks[n].offset, blocks[n].offset + blocks[n].bytes, n) for n in self.resident)

    def read(self, where: str, block: int, now: int) -> Iterator[str]:
        """A read takes its region at once and keeps it until it is waited for."""
        if block in self.resident:
            yield f"{where}: reads resident block {block}"
        if block in self.flying:
            yield f"{where}: reads block {block} which is in flight"
        region = self.plan.blocks[block]
        self.ready.discard(block)
        yield from self._take(f"{where}: block {block}", region.offset, region.bytes, now, set(), {-1})
        self.flying.add(block)

    def wait(self, where: str, block: int) -> Iterator[str]:
        """A wait makes a block usable."""
        if block not in self.flying:
            yield f"{where}: waits for block {block} which was not read"
        self.flying.discard(block)
        self.ready.add(block)

    def launch(self, where: str, command: Launch | Gather, now: int) -> Iterator[str]:
        """A launch needs its buffers and blocks intact, and takes what it writes and its workspaces."""
        buffers, used = self.plan.buffers, _blocks(command)
        for number in {*command.reads, *command.writes}:
            if not buffers[number].first <= now <= buffers[number].last:
                yield f"{where}: uses buffer {buffers[number].name} outside its life"
        for number in command.reads:
            if number not in self.written:
                yield f"{where}: reads buffer {buffers[number].name} before it is written or after it is overwritten"
        for block in sorted(used - self.resident - self.ready):
            yield f"{where}: uses block {block} which has not arrived or is overwritten"
        for what, offset, size in self._spaces(command):
            yield from self._take(f"{where}: {what}", offset, size, now, used, {-1})
        for number in command.writes:
            new = buffers[number]
            spared = {number, new.alias_of} if new.alias_of in command.reads else {number}
            yield from self._take(f"{where}: buffer {new.name}", new.offset, new.bytes, now, used, spared)
            self.written.add(number)

    def _spaces(self, command: Launch | Gather) -> Iterator[tuple[str, int, int]]:
        if isinstance(command, Launch):
            yield "shared workspace", command.shared, command.shared_bytes
            yield "thread workspaces", command.thread, command.thread_stride * self.plan.threads
        elif command.block < 0:
            yield "staging", command.staging, command.staging_bytes

    def _take(self, what: str, offset: int, size: int, now: int, used: set[int], spared: set[int]) -> Iterator[str]:
        """Take bytes from their owners; complain where an owner still needs them."""
        end = offset + size
        if not size:
            return
        at = bisect_left(self.walls, (end, -1, -1))
        if at and self.walls[at - 1][1] > offset:
            yield f"{what} overlaps resident block {self.walls[at - 1][2]}"
        for number in (*self.flying, *self.ready):
            other = self.plan.blocks[number]
            if other.offset >= end or offset >= other.offset + other.bytes:
                continue
            if number in self.flying:
                yield f"{what} overlaps block {number} which is in flight"
            if number in used:
                yield f"{what} overlaps block {number} which is in use"
            self.ready.discard(number)
        for number in tuple(self.written - spared):
            buffer = self.plan.buffers[number]
            if buffer.offset >= end or offset >= buffer.offset + buffer.bytes:
                continue
            if buffer.first <= now <= buffer.last:
                yield f"{what} overlaps buffer {buffer.name} which is alive"
            self.written.discard(number)


def _blocks(command: Launch | Gather) -> set[int]:
    if isinstance(command, Launch):
        return {p.index for p in command.pointers if p.base == "block"}
    return {command.block} if command.block >= 0 else set()
