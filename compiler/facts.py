"""What reports, `inspect` and `plan` tell about a compiled model; plain values only, no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ullage.artifact.manifest import fixed_json
from ullage.plan.plan import Gather, Launch, Plan, Program, Read, TensorInfo
from ullage.plan.sizes import Size

if TYPE_CHECKING:
    from ullage.codegen.tune.tuner import Tuning


@dataclass(frozen=True)
class Note:
    """One rewrite: which pass did what where, and the relative error that it was measured to cause."""

    pass_name: str
    what: str
    where: str
    error: float

    def to_json(self) -> dict[str, Any]:
        """The keys of the command line's JSON."""
        return {"pass": self.pass_name, "what": self.what, "where": self.where, "error": self.error}


@dataclass(frozen=True)
class Facts:
    """A plan with what surrounds it."""

    plan: Plan
    target: str
    accuracy: str
    weight_bytes: int
    rewrites: tuple[Note, ...]
    tuning: Tuning | None = None


def notes(rewrites: Iterable[Any]) -> tuple[Note, ...]:
    """Rewrites as notes, whether they come as objects of the pass manager or as the mappings of a manifest."""
    return tuple(_note(rewrite) for rewrite in rewrites)


def _note(rewrite: Any) -> Note:
    if isinstance(rewrite, Mapping):
        return Note(rewrite["pass"], rewrite["what"], rewrite["where"], rewrite["error"])
    return Note(rewrite.pass_name, rewrite.what, rewrite.where, rewrite.error)


def seconds_text(seconds: float) -> str:
    """A duration for people."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def dimension(program: Program) -> int | str:
    """A dimension as a number, or as its expression where it is dynamic."""
    value = Size(program).constant
    return value if value is not None else str(Size(program))


def tensor_json(info: TensorInfo) -> dict[str, Any]:
    """An input or output for JSON."""
    shape = [dimension(size) for size in info.shape]
    return {"name": info.name, "dtype": info.dtype, "shape": shape} | fixed_json(info)


def kernel_uses(plan: Plan) -> Counter[str]:
    """How often each kernel is launched in one run."""
    return Counter(plan.kernels[c.kernel] for c in plan.commands if isinstance(c, Launch))


def command_counts(plan: Plan) -> dict[str, int]:
    """Launches, gathers and disk reads of one run."""
    kinds = {"launches": Launch, "gathers": Gather, "reads": Read}
    return {name: sum(isinstance(c, kind) for c in plan.commands) for name, kind in kinds.items()}


def held_parts(plan: Plan) -> dict[str, int]:
    """What the peak consists of, in bytes; the parts add up to `plan.peak_bytes`."""
    resident = plan.resident_bytes
    outside = {item.name: item.bytes for item in plan.held}
    return {"resident weights": resident, "activations and ring": plan.arena_bytes - resident, **outside}


def tuning_json(tuning: Tuning) -> dict[str, Any]:
    """What was tuned: seconds spent, the kernels' expected time over that with their own tilings, and each choice."""
    keys = ("kernel", "launches", "seconds", "choice", "ratio", "tried", "measured")
    kernels = [{"where": k.name} | {key: getattr(k, key) for key in keys} for k in tuning.kernels]
    return {"seconds": tuning.seconds, "expected_ratio": tuning.ratio, "left": tuning.left, "kernels": kernels}


def plan_json(facts: Facts) -> dict[str, Any]:
    """The keys that `plan` and `inspect` share."""
    plan = facts.plan
    return {
        "target": facts.target,
        "accuracy": facts.accuracy,
        "inputs": [tensor_json(info) for info in plan.inputs],
        "outputs": [tensor_json(info) for info in plan.outputs],
        "entry_points": ["forward"],
        "budget_bytes": plan.budget_bytes,
        "peak_bytes": {"ram": plan.peak_bytes},
        "minimum_bytes": {"ram": plan.minimum_bytes},
        "resident_bytes": plan.resident_bytes,
        "streamed_bytes_per_run": plan.streamed_bytes_per_run,
        "weight_bytes": facts.weight_bytes,
        "predicted_seconds": plan.prediction.seconds,
        "rewrites": [note.to_json() for note in facts.rewrites],
        "tuning": None if facts.tuning is None else tuning_json(facts.tuning),
    }
