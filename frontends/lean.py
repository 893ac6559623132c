"""Tracing without what nobody reads: stack traces in nodes, and Python code of graphs that are never called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx import config
from torch.fx._lazy_graph_module import _use_lazy_graph_module

_CONFIG: Any = config
_STACKLESS = "do_not_emit_stack_traces"


@contextmanager
def lean() -> Iterator[None]:
    """Inside, torch's tracers leave both out (stack traces where this torch knows how): a fifth of an export's time."""
    before = getattr(_CONFIG, _STACKLESS, None)
    if before is not None:
        setattr(_CONFIG, _STACKLESS, True)
    try:
        with _use_lazy_graph_module(True):
            yield
    finally:
        if before is not None:
            setattr(_CONFIG, _STACKLESS, before)
