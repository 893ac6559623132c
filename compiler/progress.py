"""Progress on stderr, and only when that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable


def terminal_progress() -> Callable[[str, float], None] | None:
    """A callable that rewrites one line of stderr with the stage and its fraction; None if stderr is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(stage: str, fraction: float) -> None:
        line = f"ullage: {stage} {fraction:4.0%}"
        sys.stderr.write(f"\r{line:<72}" + ("\r" + " " * 72 + "\r" if fraction >= 1 else ""))
        sys.stderr.flush()

    return show
