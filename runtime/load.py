"""`ullage.load`: from a file to a runner, without torch, a compiler or anything else that was used to make the file."""

from __future__ import annotations

import os

from ullage.artifact.manifest import Manifest
from ullage.artifact.reader import Artifact
from ullage.budget import Budget, parse_budget
from ullage.errors import ArtifactError, BudgetTooSmall
from ullage.runtime.runner import Runner
from ullage.target import host_features


def load(path: str | os.PathLike[str], budget: int | str | Budget | None = None, threads: int | None = None) -> Runner:
    """Load an artifact; with a budget, by the largest of its plans that fits; with `threads`, to run on that many.

    Raises ArtifactError for a file that is corrupt, truncated, of another version or made for another machine,
    BudgetTooSmall if none of its plans fits, InputError for more threads than it was made for, UllageError when the
    system gives no memory.
    """
    artifact = Artifact(path)
    try:
        check_machine(artifact.manifest, artifact.path)
        return Runner(artifact, choose_plan(artifact.manifest, budget), threads)
    except BaseException:
        artifact.close()
        raise


def choose_plan(manifest: Manifest, budget: int | str | Budget | None) -> int:
    """Index of the plan with the largest peak within the budget; the default plan without one."""
    if budget is None:
        return manifest.default
    most = parse_budget(budget, manifest.about.target.partition(":")[0]).ram
    peaks = [entry.peak_bytes for entry in manifest.plans]
    fitting = [index for index, peak in enumerate(peaks) if most is None or peak <= most]
    if not fitting:
        remedy = "convert the model again with this budget"
        raise BudgetTooSmall({"ram": most or 0}, {"ram": min(peaks)}, (remedy,))
    return max(fitting, key=lambda index: peaks[index])


def check_machine(manifest: Manifest, path: str) -> None:
    """Raise ArtifactError if the artifact was made for another kind of machine."""
    target = manifest.about.target
    if target.partition(":")[0] != "cpu":
        raise ArtifactError(f"{path}: made for {target}; this runtime runs cpu artifacts.")
    missing = sorted(set(manifest.about.cpu_features) - host_features())
    if missing:
        raise ArtifactError(f"{path}: made for {target}; this machine lacks {', '.join(missing)}.")
