"""The ONNX forms of operators, one file per family; importing them fills the table."""

from importlib import import_module

_FAMILIES = (
    "arithmetic", "functions", "creation", "views", "movement", "indexing", "reductions", "norms", "pooling",
    "products", "integers", "resampling", "scans", "scatters", "orders",
)  # fmt: skip


def load_forms() -> None:
    """Fill the table."""
    for family in _FAMILIES:
        import_module(f"{__name__}.{family}")
