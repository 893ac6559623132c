"""Functions as modules, so that torch.export sees the parameters of modules that a function uses."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from ullage.errors import CaptureError


class _Function(nn.Module):
    """A function as `forward`, with the modules that it reaches through its closure as children."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = function
        for name, child in _reached_modules(function).items():
            self.add_module(name, child)


def as_module(model: nn.Module | Callable[..., Any]) -> nn.Module:
    """The model itself, or a function wrapped into a module; raises CaptureError for anything else."""
    if isinstance(model, nn.Module):
        return model
    if not callable(model):
        raise CaptureError(f"a module or a function is needed, found {type(model).__name__}.")
    return _Function(model)


def _reached_modules(function: Callable[..., Any]) -> dict[str, nn.Module]:
    owner = getattr(function, "__self__", None)
    found = {"owner": owner} if isinstance(owner, nn.Module) else {}
    target = inspect.unwrap(getattr(function, "__func__", function))
    if not inspect.isfunction(target):
        return found
    names = inspect.getclosurevars(target)
    reached = {**names.globals, **names.nonlocals}
    return found | {name: value for name, value in reached.items() if isinstance(value, nn.Module)}
