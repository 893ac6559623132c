"""Every error that Ullage raises on purpose; each message says what was wanted, what was found and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class UllageError(Exception):
    """Base of all errors raised by Ullage."""


class BudgetTooSmall(UllageError):
    """The budget cannot be met; `.requested` and `.minimum` are bytes by tier, `.remedies` are hints in words.

    `whose` says what asks for the memory where several pieces share a budget.
    """

    def __init__(
        self,
        requested: Mapping[str, int],
        minimum: Mapping[str, int],
        remedies: Sequence[str] = (),
        whose: str = "",
    ) -> None:
        self.requested = dict(requested)
        self.minimum = dict(minimum)
        self.remedies = tuple(remedies)
        parts = [
            f"{tier}: {self.requested[tier]} bytes requested, {need} bytes is the least that works"
            for tier, need in self.minimum.items()
            if self.requested.get(tier, need) < need
        ]
        hint = f" Remedies: {'; '.join(self.remedies)}." if self.remedies else ""
        start = f"the budget of {whose}" if whose else "budget"
        super().__init__(f"{start} cannot be met: {'; '.join(parts)}.{hint}")


class UnsupportedOperator(UllageError):
    """The graph holds operators that have no lowering; `.operators` maps each operator to where it comes from."""

    def __init__(self, operators: Mapping[str, Sequence[str]], hint: str = "") -> None:
        self.operators = {name: tuple(places) for name, places in operators.items()}
        listed = "; ".join(f"{name} (from {', '.join(places[:3])})" for name, places in self.operators.items())
        super().__init__(f"unsupported operators: {listed}.{' ' + hint if hint else ''}")


class CaptureError(UllageError):
    """The model could not be captured as one graph."""


class MutationFound(CaptureError):
    """The model changes its state or its inputs while it runs; `.names` are those that it writes to."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.names = tuple(kinds)
        changed = ", ".join(f"{kind} {name!r}" for name, kind in kinds.items())
        super().__init__(
            f"the model changes its state while it runs: {changed}. "
            "Return the new value as an output instead, and pass the old one as an input."
        )


class ArtifactError(UllageError):
    """An artifact is corrupt, truncated, of another version, or made for another machine."""


class AccuracyNotMet(UllageError):
    """Lossy rewrites exceeded the allowed relative error; `.reached` and `.wanted` are relative errors."""

    def __init__(self, reached: float, wanted: float) -> None:
        self.reached = reached
        self.wanted = wanted
        super().__init__(f"accuracy not met: relative error {reached:.3g} reached, at most {wanted:.3g} wanted.")


class CalibrationError(UllageError):
    """The calibration inputs cannot be used."""


class ToolchainError(UllageError):
    """A compiler or assembler is missing or failed."""


class InputError(UllageError):
    """An input has the wrong name, dtype or shape, or an option has a wrong value."""
