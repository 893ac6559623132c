"""Turning what the native executor reports into errors with names."""

from __future__ import annotations

import os

from ullage.artifact.reader import Artifact
from ullage.errors import ArtifactError, InputError, UllageError
from ullage.runtime.tables import Failure

_TRUNCATED, _IO_ERROR, _BAD_CHECKSUM, _BAD_INDEX, _NO_MEMORY, _NO_THREAD, _NOT_REQUESTED = range(1, 8)


def start_error(status: int) -> UllageError:
    """Why the executor's threads did not start."""
    reasons = {_NO_MEMORY: "no memory for a thread's stack", _NO_THREAD: "the system refuses another thread"}
    return UllageError(f"the executor cannot start: {reasons.get(status, f'status {status}')}.")


def run_error(failure: Failure, artifact: Artifact, plan_index: int) -> UllageError:
    """Why a run failed; names are looked up in the artifact, numbers stand in where it is no longer readable."""
    name, rows, step = _names(failure, artifact, plan_index)
    path = artifact.path
    tile = f"{name} (tile {failure.tile})"
    messages: dict[int, UllageError] = {
        _TRUNCATED: ArtifactError(f"{path}: the file ends within {tile}: truncated while in use."),
        _IO_ERROR: ArtifactError(f"{path}: {tile} cannot be read: {os.strerror(failure.error)}."),
        _BAD_CHECKSUM: ArtifactError(f"{path}: {tile} is corrupt (checksum mismatch)."),
        _BAD_INDEX: InputError(f"{step}: index {failure.value} is out of range for {name} with {rows} rows."),
        _NOT_REQUESTED: ArtifactError(f"{path}: the plan is corrupt: it waits for {tile}, which it never reads."),
    }
    unknown = UllageError(f"{path}: the executor failed with status {failure.status}.")
    return messages.get(failure.status, unknown)


def _names(failure: Failure, artifact: Artifact, plan_index: int) -> tuple[str, str, str]:
    try:
        plan = artifact.plan(plan_index)
    except ArtifactError:
        return f"constant number {failure.constant}", "its", f"step {failure.step}"
    step = plan.step_names[failure.step] if failure.step < len(plan.step_names) else f"step {failure.step}"
    if failure.constant >= len(plan.constants):
        return f"constant number {failure.constant}", "its", step
    constant = plan.constants[failure.constant]
    return f"constant {constant.name}", str(constant.tiles), step
