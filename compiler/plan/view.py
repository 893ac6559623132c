"""What a user sees of a plan: bytes by tier, the predicted time, the commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ullage.plan.plan import Buffer, Command, Plan


@dataclass(frozen=True)
class PlanView:
    """A plan with its figures by tier; `raw` is the plan that the runtime reads."""

    raw: Plan
    tier: str = "ram"

    @property
    def budget_bytes(self) -> int:
        """The budget that was planned for; 0 means none."""
        return self.raw.budget_bytes

    @property
    def peak_bytes(self) -> dict[str, int]:
        """Bytes held at most, by tier: arena, outputs, stacks, tables and code together."""
        return {self.tier: self.raw.peak_bytes}

    @property
    def minimum_bytes(self) -> dict[str, int]:
        """The least budget that the model can be planned for, by tier."""
        return {self.tier: self.raw.minimum_bytes}

    @property
    def resident_bytes(self) -> int:
        """Bytes of weights that stay in memory."""
        return self.raw.resident_bytes

    @property
    def streamed_bytes_per_run(self) -> int:
        """Bytes of weights read from disk in each run."""
        return self.raw.streamed_bytes_per_run

    @property
    def predicted_seconds(self) -> float:
        """Time of one run as the simulator expects it."""
        return self.raw.prediction.seconds

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands of one run in order."""
        return self.raw.commands

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The placed buffers: arena offset, bytes, first and last command."""
        return self.raw.buffers

    def summary(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "budget_bytes": self.budget_bytes,
            "peak_bytes": self.peak_bytes,
            "minimum_bytes": self.minimum_bytes,
            "resident_bytes": self.resident_bytes,
            "streamed_bytes_per_run": self.streamed_bytes_per_run,
            "predicted_seconds": self.predicted_seconds,
        }

    def to_json(self) -> str:
        """One JSON document: the figures and the whole plan."""
        document: Mapping[str, Any] = {**self.summary(), "plan": self.raw}
        return msgspec.json.encode(document).decode()
