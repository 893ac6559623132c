"""Steps: what the planner is given. A straight list of kernel launches over storages, before any byte has a place.

Views, layouts and index arithmetic are already inside the kernels; a storage is only a size and a life time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ullage.plan.sizes import ZERO_SIZE, Size


@dataclass(frozen=True, slots=True)
class Storage:
    """A buffer to be placed. `bytes` is its size; inputs are the caller's memory, outputs live outside the arena."""

    name: str
    bytes: Size
    kind: Literal["temp", "input", "output"]

    def stands_for(self, tensor: str) -> bool:
        """Whether this is the storage of that input or output: called like it, or marked with its kind where another
        storage or a constant has that name (inputs and outputs may share names)."""
        return self.name in (tensor, f"{tensor}:{self.kind}")


@dataclass(frozen=True, slots=True)
class Constant:
    """A packed constant in the artifact: `tiles` tiles of `tile_bytes` bytes, streamable tile by tile if tiles > 1.

    `gathered` is set for a table [tiles = rows][tile_bytes = row bytes] that `Gather` steps index.
    """

    name: str
    tiles: int
    tile_bytes: int
    gathered: bool = False

    @property
    def bytes(self) -> int:
        """All tiles together."""
        return self.tiles * self.tile_bytes


@dataclass(frozen=True, slots=True)
class Operand:
    """A pointer argument: a storage or a constant at a byte offset. The tiled constant of a tiled step has `tiled`."""

    target: str
    access: Literal["r", "w", "rw"]
    offset: Size = ZERO_SIZE
    tiled: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel launch: reads and writes `operands` in the kernel's argument order.

    `tasks` counts parallel tasks (per tile if the step has a tiled operand; then `integers` are followed at launch by
    first_tile and tile_count, and the step may be cut into launches over tile ranges in ascending order).
    `inplace` pairs (read operand, write operand) may share memory when the storage read dies here.
    `flops` and `bytes` at the upper bounds of the dimensions are for the cost model.
    """

    name: str
    kernel: str
    operands: tuple[Operand, ...]
    integers: tuple[Size, ...]
    tasks: Size
    shared_bytes: Size = ZERO_SIZE
    thread_bytes: Size = ZERO_SIZE
    inplace: tuple[tuple[int, int], ...] = ()
    flops: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Gather:
    """Rows of a constant table by index: `out[i] = table[ids[i]]` for `count` rows, row_bytes each.

    When the table is resident it is done by the runtime as a copy; otherwise the rows are read from the file.
    `ids` is an operand of int64 or int32 (`ids_dtype`); an index out of range is an error of the run.
    """

    name: str
    table: str
    ids: Operand
    ids_dtype: Literal["int64", "int32"]
    out: Operand
    count: Size


@dataclass(frozen=True, slots=True)
class Dimension:
    """A named dimension with declared bounds, read at run time from `input_name`'s axis `axis` (divided by `scale`)."""

    name: str
    minimum: int
    maximum: int
    input_name: str
    axis: int
    scale: int = 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything the planner needs: steps in one legal order, storages, constants, dimensions, and fixed costs."""

    steps: tuple[Step | Gather, ...]
    storages: tuple[Storage, ...]
    constants: tuple[Constant, ...]
    dimensions: tuple[Dimension, ...]
