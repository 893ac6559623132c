"""Configurations tried in processes of their own, with limits of time and memory; what is known is not tried again."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

from benchmarks.configurations.attempt import Attempt, attempt
from benchmarks.configurations.catalogue import Configuration

LIMIT_SECONDS = 240.0
LIMIT_BYTES = 6 << 30
"""Of a process: its anonymous memory, compilers that it starts counted for themselves."""


@dataclass(frozen=True)
class _Running:
    configuration: Configuration
    process: ForkProcess
    results: Connection
    end: float

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.end - time.monotonic()


def run_all(
    configurations: Sequence[Configuration], jobs: int, limit_seconds: float = LIMIT_SECONDS
) -> Iterator[Attempt]:
    """Try each, `jobs` at once, and yield what became of it as it ends; one that takes longer than the limit is ended.

    Processes are forked from this one, which has imported all libraries and computed nothing.
    """
    waiting, running = list(configurations), list[_Running]()
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_started(waiting.pop(0), limit_seconds))
        wait([one.results for one in running], timeout=max(0.0, min(one.left for one in running)))
        for one in [one for one in running if one.results.poll() or one.left <= 0.0]:
            running.remove(one)
            yield _ended(one)


def _started(configuration: Configuration, limit_seconds: float) -> _Running:
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(configuration, theirs))
    process.start()
    theirs.close()
    return _Running(configuration, process, ours, time.monotonic() + limit_seconds)


def _work(configuration: Configuration, results: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    results.send(attempt(configuration))


def _ended(one: _Running) -> Attempt:
    known = one.configuration
    try:
        if one.results.poll():
            found: Attempt = one.results.recv()
            return found
        problem = "ran longer than the limit"
    except EOFError:
        one.process.join()
        problem = f"the process ended with {one.process.exitcode}"
    finally:
        one.process.kill()
        one.process.join()
    return Attempt(
        known.name, known.library, known.architecture, known.task, stage="process", problem=problem, cause=problem
    )


def read_known(path: Path | None) -> dict[str, Attempt]:
    """Attempts of an earlier run, by name."""
    if path is None or not path.exists():
        return {}
    return {entry["name"]: Attempt(**entry) for entry in json.loads(path.read_text())}


def keeping(path: Path | None, known: dict[str, Attempt]) -> Callable[[Attempt], None]:
    """A function that notes an attempt and writes all of them."""

    def keep(one: Attempt) -> None:
        known[one.name] = one
        if path is not None:
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps([asdict(entry) for entry in known.values()], indent=1))
            partial.replace(path)

    return keep
