"""From ATen operators to loops and templates: one table, filled by the modules of this package."""

from importlib import import_module

MODULES = (
    "activations", "creation", "movement", "norms", "pointwise", "pooling", "reductions", "resampling", "scans",
    "scattering", "sorting", "views",
)  # fmt: skip


def load_table() -> None:
    """Enter every lowering into the table (imports the modules that hold them)."""
    for name in MODULES:
        import_module(f"{__name__}.{name}")
