"""From ATen operators to loops and templates: one table, filled by the modules of this package."""


def load_table() -> None:
    """Enter every lowering into the table (imports the modules that hold them)."""
    from ullage.codegen.lower import movement, pointwise, reductions, views

    assert movement and pointwise and reductions and views
