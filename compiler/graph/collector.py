"""The garbage collector at rest while graphs and plans are built: many objects are made, and next to no cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def resting_collector() -> Iterator[None]:
    """No automatic collections inside (also as a decorator): each would walk all objects of all imported libraries."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
