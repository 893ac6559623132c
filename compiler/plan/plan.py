"""Plan: flat, frozen, serialisable commands over one arena per tier; all that a runtime ever reads.

Commands run in order. `Read` hands a block to the disk thread and returns at once, `Wait` blocks until that block has
arrived (and was verified when it was read for the first time), `Launch` runs one kernel to its end on all threads.
`prologue` runs once when the model is loaded; `commands` runs for each call. A block read near the end of `commands`
for the next call is how a plan keeps the disk busy across calls: blocks keep their state between calls.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ullage.plan.sizes import Token, evaluate

Program = tuple[Token, ...]
DIRECT_IO_BYTES = 4096
"""Alignment of file offsets, lengths and addresses for direct I/O; also the page size that budgets are counted in."""


class Pointer(msgspec.Struct, frozen=True, array_like=True):
    """An address: `arena` + offset, byte `offset` into `block` number `index`, or into input / output number `index`.

    A block's bytes are counted from its data (`Block.offset + Block.lead`); `index` is 0 for the arena.
    """

    base: Literal["arena", "block", "input", "output"]
    index: int
    offset: Program


class Launch(msgspec.Struct, frozen=True, tag="launch"):
    """Run `kernels[kernel]` over `tasks` tasks.

    `shared` and `thread` are arena offsets of workspaces (thread i adds i·thread_stride).
    """

    kernel: int
    pointers: tuple[Pointer, ...]
    integers: tuple[Program, ...]
    tasks: Program
    shared: int
    thread: int
    thread_stride: int
    step: int
    reads: tuple[int, ...]
    """Indices of buffers read; with `writes` this is what `check` proves liveness from."""
    writes: tuple[int, ...]
    shared_bytes: int = 0
    """Bytes at `shared` (0 if the kernel has no shared workspace); for `check`."""
    tiled: int = -1
    """The pointer that walks a tiled constant (the last two integers are its first tile and tile count), or -1."""


CHECKSUM_BYTES = 4


def row_span_bytes(row_bytes: int) -> int:
    """Bytes of the most pages that a row and its checksum can touch, wherever it lies: the least staging that works."""
    return ((row_bytes + CHECKSUM_BYTES + DIRECT_IO_BYTES - 2) // DIRECT_IO_BYTES + 1) * DIRECT_IO_BYTES


class Gather(msgspec.Struct, frozen=True, tag="gather"):
    """Copy rows of constant number `constant` by index to `out`: from resident `block`, or from disk if block is -1.

    Row r of the file lies at r·tile_stride of the constant. `staging` (arena offset, `staging_bytes` long, aligned for
    direct I/O) receives what the disk delivers, and has at least `row_span_bytes` of the table.
    """

    constant: int
    block: int
    ids: Pointer
    ids_dtype: Literal["int64", "int32"]
    out: Pointer
    count: Program
    staging: int
    staging_bytes: int
    step: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]


class Read(msgspec.Struct, frozen=True, tag="read"):
    """Ask the disk thread for a block; the block's region must be unused from here to the last use of the block."""

    block: int


class Wait(msgspec.Struct, frozen=True, tag="wait"):
    """Block until the block has arrived."""

    block: int


Command = Launch | Gather | Read | Wait


class Buffer(msgspec.Struct, frozen=True):
    """A storage placed in the arena, live over commands first..last (inclusive); `bytes` holds for every legal shape.

    `alias_of` ≥ 0: this buffer takes over the memory of that buffer in place, at the command where that one dies.
    """

    name: str
    offset: int
    bytes: int
    first: int
    last: int
    alias_of: int = -1


class Block(msgspec.Struct, frozen=True):
    """Tiles `first_tile .. first_tile + tiles` of a constant in the arena region `offset .. offset + bytes`.

    The file holds them at `position = constant.file_offset + first_tile * constant.tile_stride` of the weight section.
    The region is aligned for direct I/O and so long that the tiles fit at the file's own misalignment: the data starts
    at `offset + lead`, `lead = position % 4096`. Resident blocks are read once at load; streamed ones by `Read`.
    Short resident blocks are packed: `lead` is 0, `offset` is a multiple of 64 and `bytes` is the data rounded up to 64
    (only the data itself is to be read). A resident block can be read directly if `offset` and `bytes` are multiples of
    4096 and `lead == position % 4096`; any other one needs a buffered read of exactly its data to `offset + lead`.
    """

    constant: int
    first_tile: int
    tiles: int
    offset: int
    bytes: int
    lead: int
    resident: bool


class ConstantInfo(msgspec.Struct, frozen=True):
    """A packed constant of the artifact; `tile_stride` ≥ tile_bytes is the distance of tiles in the file.

    `file_offset` is relative to the weight section, a multiple of 4096, or for constants of at most 4096 bytes of 64,
    where they do not cross a multiple of 4096. The section is padded to a multiple of 4096. Tiles of constants that are
    not gathered lie without gaps (tile_stride == tile_bytes). Gathered tables keep each row's CRC-32C in the 4 bytes
    after its tile_bytes (tile_stride ≥ tile_bytes + 4, a multiple of 16).
    """

    name: str
    tiles: int
    tile_bytes: int
    tile_stride: int
    file_offset: int
    gathered: bool = False


class DimensionInfo(msgspec.Struct, frozen=True):
    """A named dimension: bounds, and the input axis that it is read from (divided by `scale`)."""

    name: str
    minimum: int
    maximum: int
    input: int
    axis: int
    scale: int = 1


class TensorInfo(msgspec.Struct, frozen=True):
    """An input or output: dtype name and shape, each dimension a size program.

    An input that is `fixed` may have these values only: bytes, row-major, little-endian.
    """

    name: str
    dtype: str
    shape: tuple[Program, ...]
    fixed: bytes | None = None

    def shape_at(self, dims: dict[str, int]) -> tuple[int, ...]:
        """The shape at the given dimensions."""
        return tuple(evaluate(program, dims) for program in self.shape)


class Held(msgspec.Struct, frozen=True):
    """Something the runtime holds beside the arena: outputs, thread stacks, code, command tables."""

    name: str
    bytes: int


class Prediction(msgspec.Struct, frozen=True):
    """What the simulator expects of one call."""

    seconds: float
    compute_seconds: float
    read_seconds: float
    stall_seconds: float
    streamed_bytes: int


class Plan(msgspec.Struct, frozen=True):
    """One complete plan. All byte figures are exact for the upper bounds of the dimensions."""

    arena_bytes: int
    held: tuple[Held, ...]
    threads: int
    kernels: tuple[str, ...]
    step_names: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    blocks: tuple[Block, ...]
    constants: tuple[ConstantInfo, ...]
    dimensions: tuple[DimensionInfo, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    prologue: tuple[Command, ...]
    commands: tuple[Command, ...]
    budget_bytes: int
    minimum_bytes: int
    prediction: Prediction

    @property
    def peak_bytes(self) -> int:
        """All that is held while loaded and while running."""
        return self.arena_bytes + sum(item.bytes for item in self.held)

    @property
    def resident_bytes(self) -> int:
        """Bytes of constants that stay in memory."""
        return sum(b.bytes for b in self.blocks if b.resident)

    @property
    def streamed_bytes_per_run(self) -> int:
        """Bytes asked of the disk in one call, gathered rows left out."""
        return sum(self.blocks[c.block].bytes for c in self.commands if isinstance(c, Read))
