"""Options of `ullage.compile` and of `ullage convert`, checked once and before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ullage.budget import Budget, parse_budget
from ullage.errors import CalibrationError, InputError, ToolchainError, UllageError
from ullage.passes.quantize.names import NAMES, Scheme, parse_scheme
from ullage.target import BF16_DOT, INT8_DOT, Target, available_threads, host_features

if TYPE_CHECKING:
    from torch import Tensor

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
    tune: float | None = None
    recompile_limit: int = 8

    def __post_init__(self) -> None:
        self._keep_calibration()
        self._check_accuracy()
        self._check_schemes()
        if self.machine.kind != "cpu":
            raise ToolchainError(f"target {self.target!r} cannot be compiled for yet; use target='cpu'.")
        self._check_budget()
        self._check_tune()
        self._check_recompile_limit()

    def _check_budget(self) -> None:
        if self.limits is not None and self.limits.device is not None:
            raise InputError(f"target {self.target!r} has no device memory to limit; give ram= or a number of bytes.")

    def _check_recompile_limit(self) -> None:
        limit = self.recompile_limit
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise InputError(f"recompile_limit must be a number of shape classes from 1 on, found {limit!r}.")

    def _keep_calibration(self) -> None:
        """Iterators are read once, for every shape that is compiled later."""
        if self.calibration is None:
            return
        if isinstance(self.calibration, str | bytes | Mapping) or not isinstance(self.calibration, Iterable):
            found = type(self.calibration).__name__
            raise CalibrationError(f"calibration must be an iterable of inputs, found {found}.")
        object.__setattr__(self, "calibration", tuple(self.calibration))

    def _check_accuracy(self) -> None:
        number = isinstance(self.accuracy, int | float) and not isinstance(self.accuracy, bool)
        if self.accuracy != "exact" and not (number and 0 <= float(self.accuracy) < float("inf")):
            raise InputError(f"accuracy must be 'exact' or a relative error from 0 on, found {self.accuracy!r}.")
        if not self.is_lossy and self.calibration is not None:
            raise InputError(
                "calibration judges lossy rewrites; give accuracy= as the relative error that is allowed, or quantize=."
            )

    @property
    def is_lossy(self) -> bool:
        """Whether rewrites that change results beyond rounding are asked for or allowed."""
        return self.accuracy != "exact" or self.quantize is not None

    @property
    def scheme(self) -> Scheme | None:
        """What `quantize` names."""
        return parse_scheme(self.quantize)

    def _check_schemes(self) -> None:
        if self.sparsify is not None:
            raise UllageError("sparsify asks for a scheme that this version does not have; leave it out.")
        if self.quantize is not None and self.scheme is None:
            raise InputError(f"quantize must be one of {NAMES}; found {self.quantize!r}.")

    def _check_tune(self) -> None:
        """Tilings are measured, and kept, for the machine that measures them."""
        if self.tune is None:
            return
        number = isinstance(self.tune, int | float) and not isinstance(self.tune, bool)
        if not (number and 0 <= self.tune < float("inf")):
            raise InputError(f"tune must be a number of seconds from 0 on, found {self.tune!r}.")
        missing = sorted(_features(self.machine) - host_features())
        if missing:
            raise InputError(f"tune measures kernels, but this machine cannot run {self.machine}: no {missing[0]}.")
        if self.machine.threads > available_threads():
            raise InputError(
                f"tune measures kernels on the threads that the model will have: {self.machine.threads} are asked for, "
                f"{available_threads()} are available."
            )

    def check_for_onnx(self) -> None:
        """Raise InputError for options that say something about an artifact, which an ONNX model is not."""
        plain = CompileOptions()
        names = ("budget", "target", "threads", "tune")
        given = [name for name in names if getattr(self, name) != getattr(plain, name)]
        if given:
            raise InputError(
                f"an ONNX model is run by others, so nothing is meant by {' and '.join(given)} here; leave that out, "
                "or write an artifact (.ullage)."
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

    def for_driver(self, samples: tuple[Mapping[str, Tensor], ...] = ()) -> Options:
        """The same, as the driver wants it; `samples` are what lossy rewrites are judged on."""
        from ullage.driver import Options

        allowed: Literal["exact"] | float = "exact" if isinstance(self.accuracy, str) else float(self.accuracy)
        return Options(
            target=self.machine,
            accuracy=allowed,
            quantize=self.scheme,
            samples=samples,
            tune_seconds=self.tune,
            progress=self.reporter(),
        )

    def reporter(self) -> Progress | None:
        """The progress callable; `True` writes stages to stderr when that is a terminal."""
        if not isinstance(self.progress, bool):
            return self.progress
        from ullage.progress import terminal_progress

        return terminal_progress() if self.progress else None


def _features(target: Target) -> frozenset[str]:
    """All that kernels for a target may use."""
    optional = {BF16_DOT: target.dots_bf16, INT8_DOT: target.dots_int8}
    return target.cpu_features | {name for name, used in optional.items() if used}
