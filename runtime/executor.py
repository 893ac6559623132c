"""The native executor of one plan: its memory, its threads, its files; everything is mapped here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ullage.artifact.reader import Artifact
from ullage.errors import ArtifactError, InputError, UllageError
from ullage.plan.plan import Plan
from ullage.plan.tables import stack_bytes
from ullage.runtime.checks import check_plan
from ullage.runtime.failures import run_error, start_error
from ullage.runtime.library import Library
from ullage.runtime.memory import Region, present_bytes, refuse_beyond_machine
from ullage.runtime.placement import Placement, in_one_arena
from ullage.runtime.tables import Bindings, Tables
from ullage.target import available_threads, check_threads


class Executor:
    """Holds arena, tables, stacks and code of a plan, and runs it on `threads`. Not for use by two threads at once.

    With a `placement` the arena belongs to someone else, who lets no other plan run in it before this one rests.

    Raises ArtifactError for a plan that does not fit the artifact, UllageError when the system gives no memory or
    threads. `close` joins the threads and unmaps everything; a forked child must not use the parent's executor.
    """

    def __init__(
        self, artifact: Artifact, plan_index: int, plan: Plan, threads: int, placement: Placement | None = None
    ) -> None:
        self._artifact = artifact
        self._plan_index = plan_index
        self._process = os.getpid()
        self._library = Library(artifact.code())
        self._arena: Region | None = None
        self._tables: Tables | None = None
        self._started = False
        self._direct_file = open_direct(artifact.file)
        try:
            self._open(plan, threads, placement)
        except BaseException:
            self.close()
            raise

    def _open(self, plan: Plan, threads: int, placement: Placement | None) -> None:
        kernels = self._library.kernels()
        check_plan(plan, len(kernels), self._artifact.weights.length)
        refuse_beyond_machine(plan.peak_bytes, "the plan")
        checksums = self._artifact.checksums()
        check_checksums(plan, checksums)
        if placement is None:
            self._arena = Region(plan.arena_bytes, "the arena")
            placement = in_one_arena(plan, self._arena.address)
        files = (self._direct_file, self._artifact.file)
        bindings = Bindings(placement, kernels, *files, self._artifact.weights.offset, checksums, threads)
        self._tables = Tables(plan, bindings)
        self.boundary = self._tables.boundary
        self.resize({d.name: d.maximum for d in plan.dimensions})
        self._start()

    def _start(self) -> None:
        self.wake()
        if self._library.prepare(self._opened().address):
            raise self._error()

    def wake(self) -> None:
        """Start the threads; nothing if they run."""
        self._check_process()
        if self._started:
            return
        status = self._library.start(self._opened().address)
        if status:
            raise start_error(status)
        self._started = True

    def rest(self) -> None:
        """Join the threads and let go of all but resident blocks, so that others may use the arena, until `wake`."""
        self._check_process()
        if self._started:
            self._library.rest(self._opened().address)
            self._started = False

    def resize(self, dims: Mapping[str, int]) -> None:
        """Take other dimensions from the next run on."""
        self._opened().resize(dims)

    def run(self) -> None:
        """Run the commands once; `boundary` holds the addresses of inputs and outputs."""
        tables = self._opened()
        self._check_process()
        if self._library.run(tables.address):
            raise self._error()

    def run_timed(self, commands: int) -> list[int]:
        """Run once; returns the nanoseconds of each of `commands` commands, prologue included."""
        timings = np.zeros(commands, np.int64)
        tables = self._opened()
        tables.time_into(timings)
        try:
            self.run()
        finally:
            tables.time_into(None)
        return [int(ns) for ns in timings]

    def statistics(self) -> tuple[int, int, int, int]:
        """Of the last run: wall time and stalls in ns, bytes of blocks that arrived, bytes read for gathered rows."""
        return (0, 0, 0, 0) if self._tables is None else self._tables.statistics()

    def held_bytes(self) -> dict[str, int]:
        """Bytes mapped for each purpose."""
        if self._tables is None:
            return {}
        return {
            "arena": self._arena.bytes if self._arena else 0,
            "tables": self._tables.region.bytes,
            "stacks": stack_bytes(self._tables.threads) if self._started else 0,
            "code": self._library.held_bytes,
        }

    def measured_bytes(self) -> dict[str, int]:
        """Bytes present in memory for each purpose, as the kernel tells."""
        if self._tables is None:
            return {}
        stacks = self._tables.stacks() if self._started else []
        return {
            "arena": present_bytes(self._arena.address, self._arena.bytes) if self._arena else 0,
            "tables": present_bytes(self._tables.address, self._tables.region.bytes),
            "stacks": sum(present_bytes(address, size) for address, size in stacks),
            "code": self._library.measured_bytes(),
        }

    def close(self) -> None:
        """Join the threads and give all memory and files back; a second call does nothing."""
        if os.getpid() != self._process:
            return
        if self._started and self._tables is not None:
            self._library.stop(self._tables.address)
            self._started = False
        if self._tables is not None:
            del self.boundary
            self._tables.close()
            self._tables = None
        if self._arena is not None:
            self._arena.close()
            self._arena = None
        if self._direct_file >= 0:
            os.close(self._direct_file)
            self._direct_file = -1
        self._library.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise UllageError("a runner cannot be used in a forked child; load the artifact again in this process.")

    def _opened(self) -> Tables:
        if self._tables is None:
            raise UllageError("the runner is closed.")
        return self._tables

    def _error(self) -> UllageError:
        return run_error(self._opened().failure(), self._artifact, self._plan_index)


def choose_threads(most: int, asked: int | None) -> int:
    """Threads to run a plan for `most` on: those asked for, else as many as are available; InputError for more."""
    if asked is None:
        return min(most, available_threads())
    if check_threads(asked) > most:
        raise InputError(f"threads={asked}: the model was compiled for {most}; compile it with threads={asked}.")
    return asked


def open_direct(file: int) -> int:
    """The same file opened for direct I/O, or -1 where its file system refuses that."""
    try:
        return os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return -1


def check_checksums(plan: Plan, checksums: bytes) -> None:
    """Raise ArtifactError unless there is one checksum per tile of the constants that are not gathered."""
    wanted = 4 * sum(c.tiles for c in plan.constants if not c.gathered)
    if len(checksums) != wanted:
        raise ArtifactError(f"{wanted} bytes of checksums wanted, {len(checksums)} found; convert the model again.")
