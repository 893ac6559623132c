"""Options of `ullage.compile` and of `ullage convert`, checked once and before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ullage.budget import Budget, parse_budget
from ullage.errors import InputError, ToolchainError, UllageError
from ullage.target import Target

if TYPE_CHECKING:
    from ullage.driver import Options

Progress = Callable[[str, float], None]
"""Called with the stage's name and the fraction of it that is done (0 to 1)."""

InputSpecs = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype name and shape of every input by name."""

BudgetLike = int | str | Budget | None


@dataclass(frozen=True)
class CompileOptions:
    """What a user may ask for; `budget` None means as much memory as the model can use."""

    budget: BudgetLike = None
    target: str = "cpu"
    accuracy: str | float = "exact"
    quantize: object = None
    sparsify: object = None
    calibration: Iterable[object] | None = None
    dynamic_shapes: object = None
    input_specs: InputSpecs | None = None
    progress: Progress | bool | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        self._refuse_lossy()
        if self.machine.kind != "cpu":
            raise ToolchainError(f"target {self.target!r} cannot be compiled for yet; use target='cpu'.")
        self._check_budget()

    def _check_budget(self) -> None:
        if self.limits is not None and self.limits.device is not None:
            raise InputError(f"target {self.target!r} has no device memory to limit; give ram= or a number of bytes.")

    def _refuse_lossy(self) -> None:
        asked = [name for name in ("quantize", "sparsify", "calibration") if getattr(self, name) is not None]
        if isinstance(self.accuracy, bool) or not isinstance(self.accuracy, int | float | str):
            raise InputError(f"accuracy must be 'exact' or a relative error, found {self.accuracy!r}.")
        if isinstance(self.accuracy, str) and self.accuracy != "exact":
            raise InputError(f"accuracy must be 'exact' or a relative error, found {self.accuracy!r}.")
        if self.accuracy != "exact":
            asked.append(f"accuracy={self.accuracy}")
        if asked:
            raise UllageError(
                f"{', '.join(asked)} asks for lossy rewrites, which this version does not have; "
                "use accuracy='exact' without quantize, sparsify and calibration."
            )

    @cached_property
    def machine(self) -> Target:
        """What code is made for."""
        return Target.parse(self.target, self.threads)

    @cached_property
    def limits(self) -> Budget | None:
        """The budget as bytes per tier; None without one. Raises InputError for text that is no budget."""
        return None if self.budget is None else parse_budget(self.budget, self.machine.kind)

    def budget_bytes(self) -> int | None:
        """Bytes of the memory that the target computes from; None without a budget."""
        return None if self.limits is None else self.limits.of(self.machine.kind)

    def for_driver(self) -> Options:
        """The same, as the driver wants it."""
        from ullage.driver import Options

        return Options(target=self.machine, accuracy="exact", progress=self.reporter())

    def reporter(self) -> Progress | None:
        """The progress callable; `True` writes stages to stderr when that is a terminal."""
        if not isinstance(self.progress, bool):
            return self.progress
        from ullage.progress import terminal_progress

        return terminal_progress() if self.progress else None
