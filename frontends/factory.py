"""`package.module:factory`: a callable that returns (module, example_inputs) or (module, example_inputs, kwargs)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from ullage.errors import CaptureError
from ullage.frontends.export import reason

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_factory(source: str) -> bool:
    """Whether a text has the form `package.module:factory`."""
    return _NAME.fullmatch(source) is not None


def call_factory(source: str) -> tuple[Any, tuple[Any, ...] | None, dict[str, Any] | None]:
    """The module, its example inputs and keywords (None if the factory gives none); raises CaptureError."""
    module_name, _, attribute = source.partition(":")
    target = _resolve(module_name, attribute)
    try:
        made = target()
    except Exception as error:
        raise CaptureError(f"{source} raised {type(error).__name__}: {reason(error)}") from error
    if not isinstance(made, tuple):
        return made, None, None
    if not 2 <= len(made) <= 3:
        raise CaptureError(f"{source} must return (module, example_inputs[, kwargs]), found a tuple of {len(made)}.")
    inputs = tuple(made[1]) if isinstance(made[1], (tuple, list)) else (made[1],)
    return made[0], inputs, _keywords(source, made[2]) if len(made) == 3 else None


def _resolve(module_name: str, attribute: str) -> Any:
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise CaptureError(f"{module_name}:{attribute} cannot be imported: {reason(error)}") from error
    return found


def _keywords(source: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise CaptureError(f"{source} must return keywords as a mapping, found {type(value).__name__}.")
    return dict(value)
