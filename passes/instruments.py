"""Instruments of the pass manager: dump graphs, measure time, verify after every pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ullage.graph.captured import CapturedModel
from ullage.graph.show import show
from ullage.graph.verify import verify
from ullage.passes.manager import Pass, Rewrite


@dataclass(slots=True)
class Dump:
    """Hands the graph's text to `write` under names such as `03-views`: once before all, then after each change."""

    write: Callable[[str, str], None]

    @staticmethod
    def to(directory: Path) -> Dump:
        """A dump into text files of a directory, which is made if it is missing."""
        directory.mkdir(parents=True, exist_ok=True)
        return Dump(lambda name, text: _write(directory / f"{name}.txt", text))

    def before(self, step: int, current: Pass, model: CapturedModel) -> None:
        """Writes the graph that enters the pipeline."""
        if step == 0:
            self.write("00-start", show(model))

    def after(self, step: int, current: Pass, model: CapturedModel, rewrites: Sequence[Rewrite]) -> None:
        """Writes the graph if the pass changed it, with the rewrites above it."""
        if rewrites:
            done = "".join(f"# {rewrite.where}: {rewrite.what}\n" for rewrite in rewrites)
            self.write(f"{step + 1:02d}-{current.name}", done + show(model))


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@dataclass(slots=True)
class Timing:
    """Seconds per pass in `.seconds`, a list of (pass, seconds) in order."""

    seconds: list[tuple[str, float]] = field(default_factory=list)
    _started: float = 0.0

    def before(self, step: int, current: Pass, model: CapturedModel) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def after(self, step: int, current: Pass, model: CapturedModel, rewrites: Sequence[Rewrite]) -> None:
        """Stops it."""
        self.seconds.append((str(current), time.perf_counter() - self._started))


@dataclass(frozen=True, slots=True)
class Verify:
    """Raises IllegalGraph, with a note that names the pass, after a pass that leaves an illegal graph."""

    def before(self, step: int, current: Pass, model: CapturedModel) -> None:
        """The graph that enters must be legal, too."""
        if step == 0:
            verify(model)

    def after(self, step: int, current: Pass, model: CapturedModel, rewrites: Sequence[Rewrite]) -> None:
        """Checks every rule."""
        try:
            verify(model)
        except Exception as error:
            error.add_note(f"after pass {current}, step {step}")
            raise
