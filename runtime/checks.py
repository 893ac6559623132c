"""What a decoded plan must satisfy before the executor's tables are filled from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ullage.errors import ArtifactError
from ullage.plan.plan import (
    DIRECT_IO_BYTES,
    Block,
    ConstantInfo,
    DimensionInfo,
    Gather,
    Launch,
    Plan,
    Pointer,
    Program,
    Read,
    TensorInfo,
    Wait,
)
from ullage.plan.sizes import evaluate
from ullage.plan.tables import command_pointers, round_up, tensor_bytes
from ullage.target import MOST_THREADS

CRC_BYTES = 4
CONSTANT_ALIGNMENT_BYTES = 64
MOST_TASKS = (1 << 31) - 1
_MOST_BYTES = 1 << 48
_MOST_WORKSPACE = (1 << 32) - 1


def check_plan(plan: Plan, kernels: int, weights_bytes: int) -> None:
    """Raise ArtifactError naming all that is out of range: indices, offsets, sizes, size programs."""
    problems = list(_problems(plan, kernels, weights_bytes))
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ArtifactError(f"the plan is corrupt: {'; '.join(problems[:3])}{more}.")


def _problems(plan: Plan, kernels: int, weights_bytes: int) -> Iterator[str]:
    if not 1 <= plan.threads <= MOST_THREADS:
        yield f"{plan.threads} threads"
    if not 0 <= plan.arena_bytes <= _MOST_BYTES:
        yield f"an arena of {plan.arena_bytes} bytes"
    if len(plan.kernels) != kernels:
        yield f"{len(plan.kernels)} kernels named, {kernels} found in the code"
    yield from _each("dimension", plan.dimensions, lambda d: _dimension(plan, d))
    yield from _each("constant", plan.constants, lambda c: _constant(c, weights_bytes))
    yield from _each("block", plan.blocks, lambda b: _block(plan, b))
    programs = _Programs(plan)
    yield from _each("tensor", (*plan.inputs, *plan.outputs), lambda t: _tensor(programs, t))
    yield from _each("command", (*plan.prologue, *plan.commands), lambda c: _command(plan, programs, c))


def _each(kind: str, items: tuple[object, ...], rule: Callable[..., bool]) -> Iterator[str]:
    return (f"{kind} {number} is out of range" for number, item in enumerate(items) if not rule(item))


class _Programs:
    """Whether size programs are well-formed and keep within limits at both ends of the dimensions."""

    def __init__(self, plan: Plan) -> None:
        self._ends = ({d.name: d.minimum for d in plan.dimensions}, {d.name: d.maximum for d in plan.dimensions})

    def within(self, program: Program, most: int) -> bool:
        """Whether the program gives 0 .. most at the least and the largest dimensions."""
        if len(program) == 1 and isinstance(program[0], int):
            return 0 <= program[0] <= most
        try:
            return all(0 <= evaluate(program, dims) <= most for dims in self._ends)
        except (ArithmeticError, LookupError, ValueError):
            return False

    def tensor_within(self, tensor: TensorInfo, most: int) -> bool:
        """Whether the dtype is known and the size in bytes stays within limits at both ends."""
        try:
            return all(0 <= tensor_bytes(tensor, dims) <= most for dims in self._ends)
        except (ArithmeticError, LookupError, ValueError):
            return False


def _dimension(plan: Plan, d: DimensionInfo) -> bool:
    if not (0 <= d.minimum <= d.maximum <= MOST_TASKS and d.scale >= 1 and 0 <= d.input < len(plan.inputs)):
        return False
    return 0 <= d.axis < len(plan.inputs[d.input].shape)


def _constant(c: ConstantInfo, weights_bytes: int) -> bool:
    if c.tiles < 1 or c.tile_bytes < 1 or c.tile_stride < tile_end(c):
        return False
    end = c.file_offset + (c.tiles - 1) * c.tile_stride + tile_end(c)
    return c.file_offset >= 0 and c.file_offset % CONSTANT_ALIGNMENT_BYTES == 0 and end <= weights_bytes


def _block(plan: Plan, b: Block) -> bool:
    if not 0 <= b.constant < len(plan.constants):
        return False
    c = plan.constants[b.constant]
    inside = b.tiles >= 1 and b.first_tile >= 0 and b.first_tile + b.tiles <= c.tiles
    direct = b.offset % DIRECT_IO_BYTES == 0 and b.lead == position(c, b) % DIRECT_IO_BYTES
    packed = b.resident and b.offset % CONSTANT_ALIGNMENT_BYTES == 0 and b.lead == 0
    held = data_bytes(c, b) if is_packed(c, b) else read_bytes(c, b)
    return inside and (direct or packed) and held <= b.bytes and 0 <= b.offset <= plan.arena_bytes - b.bytes


def tile_end(c: ConstantInfo) -> int:
    """Bytes of a tile in the file: with the checksum that follows the rows of gathered tables."""
    return c.tile_bytes + (CRC_BYTES if c.gathered else 0)


def position(c: ConstantInfo, b: Block) -> int:
    """Where the tiles of a block begin in the section of weights."""
    return c.file_offset + b.first_tile * c.tile_stride


def data_bytes(c: ConstantInfo, b: Block) -> int:
    """Bytes from the first tile of a block to the end of its last one."""
    return (b.tiles - 1) * c.tile_stride + tile_end(c)


def read_bytes(c: ConstantInfo, b: Block) -> int:
    """Length of the aligned range of the file that holds the tiles of a block."""
    return round_up(b.lead + data_bytes(c, b), DIRECT_IO_BYTES)


def is_packed(c: ConstantInfo, b: Block) -> bool:
    """Whether a block lies where its region cannot take whole pages, so that exactly its data has to be read."""
    aligned = b.offset % DIRECT_IO_BYTES == 0 and b.lead == position(c, b) % DIRECT_IO_BYTES
    return not (aligned and read_bytes(c, b) <= b.bytes)


def _tensor(programs: _Programs, tensor: TensorInfo) -> bool:
    return all(programs.within(p, MOST_TASKS) for p in tensor.shape) and programs.tensor_within(tensor, _MOST_BYTES)


def _command(plan: Plan, programs: _Programs, command: object) -> bool:
    if not all(_pointer(plan, programs, p) for p in command_pointers(command)):
        return False
    match command:
        case Launch():
            return _launch(plan, programs, command)
        case Gather():
            return _gather(plan, programs, command)
        case Read(block) | Wait(block):
            return 0 <= block < len(plan.blocks)
    return False


def _pointer(plan: Plan, programs: _Programs, pointer: Pointer) -> bool:
    match pointer.base:
        case "arena":
            return programs.within(pointer.offset, plan.arena_bytes)
        case "block":
            known = 0 <= pointer.index < len(plan.blocks)
            return known and programs.within(pointer.offset, plan.blocks[pointer.index].bytes)
        case "input":
            return 0 <= pointer.index < len(plan.inputs) and programs.within(pointer.offset, _MOST_BYTES)
        case "output":
            return 0 <= pointer.index < len(plan.outputs) and programs.within(pointer.offset, _MOST_BYTES)


def _launch(plan: Plan, programs: _Programs, launch: Launch) -> bool:
    thread_end = launch.thread + plan.threads * launch.thread_stride
    return (
        0 <= launch.kernel < len(plan.kernels)
        and programs.within(launch.tasks, MOST_TASKS)
        and all(programs.within(p, _MOST_BYTES) for p in launch.integers)
        and launch.shared >= 0
        and 0 <= launch.shared_bytes <= min(_MOST_WORKSPACE, plan.arena_bytes - launch.shared)
        and launch.thread >= 0
        and 0 <= launch.thread_stride <= _MOST_WORKSPACE
        and thread_end <= plan.arena_bytes
        and _step(plan, launch.step)
    )


def _step(plan: Plan, step: int) -> bool:
    return 0 <= step < max(1, len(plan.step_names))


def _gather(plan: Plan, programs: _Programs, gather: Gather) -> bool:
    if not (0 <= gather.constant < len(plan.constants) and plan.constants[gather.constant].gathered):
        return False
    if not (programs.within(gather.count, MOST_TASKS) and _step(plan, gather.step)):
        return False
    if gather.block < 0:
        return _staging(plan, gather)
    block = plan.blocks[gather.block] if gather.block < len(plan.blocks) else None
    whole = (gather.constant, 0, plan.constants[gather.constant].tiles)
    return block is not None and (block.constant, block.first_tile, block.tiles) == whole


def _staging(plan: Plan, gather: Gather) -> bool:
    fits = row_span(plan.constants[gather.constant]) <= gather.staging_bytes <= plan.arena_bytes - gather.staging
    return fits and gather.staging >= 0 and gather.staging % DIRECT_IO_BYTES == 0


def row_span(table: ConstantInfo) -> int:
    """Bytes of the most pages that one row of a gathered table can touch: the least staging that works."""
    return ((table.tile_bytes + CRC_BYTES + DIRECT_IO_BYTES - 2) // DIRECT_IO_BYTES + 1) * DIRECT_IO_BYTES
