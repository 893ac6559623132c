"""Tilings: the choices of a template kernel that change its speed and never its bits.

Sums run over k in chunks that the kernel's own constants fix, so a tiling says only how rows and outputs are cut into
register tiles and tasks, in which order tasks follow each other, and what is fetched early.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

MOST_ROWS = 8
_MOST_BLOCK_ROWS = 1024
_MOST_BLOCK_VECTORS = 64


def _check(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be from 1 to {most}, found {value}")


@dataclass(frozen=True, slots=True)
class Tiling:
    """Choices of a matrix product or dense convolution; ValueError for numbers out of range."""

    rows: int = MOST_ROWS
    """Most rows of the register tile, where the registers hold so many."""
    block_rows: int | None = None
    """Most rows of a task (about); None is what the template takes."""
    tiles_first: bool = False
    """Tasks go through the weights' tiles for each block of rows, instead of through the blocks for each tile."""
    prefetch: bool = False
    """What the epilogue reads of a tile's outputs is fetched before their sums are formed."""
    from_registers: bool = False
    """Even a long epilogue takes its sums out of the registers, where they need not wait for another chunk of k."""
    ahead: bool = False
    """In a matrix product, the rows of the next tile are fetched before the sums of a tile are formed."""

    def __post_init__(self) -> None:
        _check("rows", self.rows, MOST_ROWS)
        if self.block_rows is not None:
            _check("block_rows", self.block_rows, _MOST_BLOCK_ROWS)


@dataclass(frozen=True, slots=True)
class DepthwiseTiling:
    """Choices of a depthwise convolution; ValueError for numbers out of range."""

    columns: int = 8
    """Most output columns of a run."""
    pair_columns: int = 4
    """Most output columns of a run over two rows."""
    pairs: bool = True
    """Two output rows at once, where the weights of a channel stay in registers."""
    block_rows: int = 16
    """Output rows of a task."""
    block_vectors: int = 4
    """Vectors of channels of a task."""

    def __post_init__(self) -> None:
        _check("columns", self.columns, 8)
        _check("pair_columns", self.pair_columns, 8)
        _check("block_rows", self.block_rows, _MOST_BLOCK_ROWS)
        _check("block_vectors", self.block_vectors, _MOST_BLOCK_VECTORS)


AnyTiling = Tiling | DepthwiseTiling
TEMPLATES_OWN = Tiling()
"""What a template chooses where nothing else is asked for, a depthwise convolution's included."""


def show_tiling(tiling: AnyTiling) -> str:
    """What differs from the template's own choice, such as `block_rows=32 prefetch`; `default` for that itself."""
    own = type(tiling)()
    found = {f.name: getattr(tiling, f.name) for f in fields(tiling) if getattr(tiling, f.name) != getattr(own, f.name)}
    return " ".join(name if value is True else f"{name}={value}" for name, value in found.items()) or "default"
