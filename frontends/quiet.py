"""Silence around torch.export, whose failures are reported once and in short by CaptureError."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings, log records and graphs printed to stderr."""
    loggers = [logger for logger in _torch_loggers() if not logger.disabled]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in loggers:
            logger.disabled = False


def _torch_loggers() -> list[logging.Logger]:
    known = list(logging.root.manager.loggerDict.items())
    return [item for name, item in known if name.split(".")[0] == "torch" and isinstance(item, logging.Logger)]
