"""Translations of ONNX operators, by kind."""

from __future__ import annotations

from functools import cache
from importlib import import_module

_MODULES = (
    "signal", "sampling", "text", "linear_attention",
    "attention", "control", "convolutions", "creation", "elementwise", "indexing", "losses", "matrix", "norms",
    "pooling", "quantized", "recurrent", "reductions", "resizing", "sequences", "shapes",
)  # fmt: skip


@cache
def load_operators() -> None:
    """Fill the table."""
    for name in _MODULES:
        import_module(f"{__name__}.{name}")
