"""Ullage: run neural networks inside a byte budget.

Names are imported when they are first used: `import ullage` loads neither torch nor a compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ullage.api import compile, export_onnx, frontier, load, minimum_budget
    from ullage.budget import Budget
    from ullage.compiled import Compiled
    from ullage.errors import (
        AccuracyNotMet,
        ArtifactError,
        BudgetTooSmall,
        CalibrationError,
        CaptureError,
        InputError,
        ToolchainError,
        UllageError,
        UnsupportedOperator,
    )
    from ullage.frontends.dynamo import Backend
    from ullage.frontiers import Frontier
    from ullage.plan.view import PlanView

    __version__: str

_HOMES = {
    "compile": "api",
    "export_onnx": "api",
    "frontier": "api",
    "Backend": "frontends.dynamo",
    "load": "api",
    "minimum_budget": "api",
    "Budget": "budget",
    "Compiled": "compiled",
    "Frontier": "frontiers",
    "PlanView": "plan.view",
    "AccuracyNotMet": "errors",
    "ArtifactError": "errors",
    "BudgetTooSmall": "errors",
    "CalibrationError": "errors",
    "CaptureError": "errors",
    "InputError": "errors",
    "ToolchainError": "errors",
    "UllageError": "errors",
    "UnsupportedOperator": "errors",
}

__all__ = [
    "AccuracyNotMet",
    "ArtifactError",
    "Backend",
    "Budget",
    "BudgetTooSmall",
    "CalibrationError",
    "CaptureError",
    "Compiled",
    "Frontier",
    "InputError",
    "PlanView",
    "ToolchainError",
    "UllageError",
    "UnsupportedOperator",
    "compile",
    "export_onnx",
    "frontier",
    "load",
    "minimum_budget",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("ullage")
    if name not in _HOMES:
        raise AttributeError(f"module 'ullage' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ullage.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
