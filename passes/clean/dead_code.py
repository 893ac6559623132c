"""Dead code: calls without users, assertions on symbols, and constants that nobody reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ullage.graph.captured import CapturedModel
from ullage.passes.edit import Editor
from ullage.passes.manager import Pass, RewriteLog


@dataclass(frozen=True)
class DeadCode(Pass):
    """Remove what no output depends on."""

    name: ClassVar[str] = "dead_code"

    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """One rewrite in all, since removing dead code cannot be wrong in part."""
        edit = Editor.of(model)
        if edit.has_dead() and log.allow("remove dead code", "graph"):
            edit.remove_dead()
