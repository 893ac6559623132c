"""Bytes of the executor's own tables, stacks and output memory, so that the plan can count them before they exist.

`layout` is also what the executor's tables are filled by, so what is counted is what is mapped.
"""

from __future__ import annotations

from dataclasses import dataclass

from ullage.plan.plan import DIRECT_IO_BYTES, DimensionInfo, Gather, Launch, Plan, Pointer, TensorInfo

WORKER_STACK_BYTES = 256 * 1024
DISK_STACK_BYTES = 64 * 1024
OUTPUT_ALIGNMENT_BYTES = 64
DOUBLE_OUTPUT_BYTES = 64 * 1024
"""Outputs up to this size (all of them together) are held twice, so that `y = model(x)` in a loop allocates nothing."""

CONTEXT_BYTES = 1024
THREAD_BYTES = 128
COMMAND_BYTES = 64
WORD_BYTES = 8
PATCH_BYTES = 24
BLOCK_BYTES = 64
QUEUE_BYTES = 4
CONSTANT_BYTES = 64
CHECKSUM_BYTES = 4
_ITEM_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "float16": 2, "bfloat16": 2, "int32": 4, "float32": 4,
    "int64": 8, "float64": 8, "uint16": 2, "uint32": 4, "uint64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """Byte offsets of the sections of the executor's one mapping (all multiples of 64), and its length in bytes."""

    threads: int
    commands: int
    pointers: int
    integers: int
    patches: int
    boundary: int
    blocks: int
    queue: int
    constants: int
    checksums: int
    total: int


def stack_bytes(threads: int) -> int:
    """Stacks of the worker threads (the caller's own thread is one of `threads`) and of the disk thread."""
    return (threads - 1) * WORKER_STACK_BYTES + DISK_STACK_BYTES


def table_bytes(plan: Plan) -> int:
    """Bytes of the one mapping that holds the executor's context: commands, pointers, integers, blocks, checksums."""
    return layout(plan).total


def layout(plan: Plan) -> Layout:
    """Where each section of the executor's mapping lies for this plan."""
    commands = (*plan.prologue, *plan.commands)
    pointers = [p for c in commands for p in command_pointers(c)]
    sections = (
        CONTEXT_BYTES,
        THREAD_BYTES * plan.threads,
        COMMAND_BYTES * len(commands),
        WORD_BYTES * len(pointers),
        WORD_BYTES * sum(len(c.integers) for c in commands if isinstance(c, Launch)),
        PATCH_BYTES * sum(p.base in ("input", "output") for p in pointers),
        WORD_BYTES * (len(plan.inputs) + len(plan.outputs)),
        BLOCK_BYTES * len(plan.blocks),
        QUEUE_BYTES * len(plan.blocks),
        CONSTANT_BYTES * len(plan.constants),
        CHECKSUM_BYTES * sum(c.tiles for c in plan.constants if not c.gathered),
    )
    ends = [0]
    for size in sections:
        ends.append(round_up(ends[-1] + size, 64))
    ends[-1] = round_up(ends[-1], DIRECT_IO_BYTES)
    return Layout(*ends[1:])


def command_pointers(command: object) -> tuple[Pointer, ...]:
    """The pointers that a command keeps in the tables, in their order."""
    if isinstance(command, Launch):
        return command.pointers
    return (command.ids, command.out) if isinstance(command, Gather) else ()


def output_bytes(outputs: tuple[TensorInfo, ...], dimensions: tuple[DimensionInfo, ...]) -> int:
    """Bytes that the runtime holds for results of the largest legal shapes (small ones twice, in whole pages)."""
    total = output_set_bytes(outputs, dimensions)
    return total * output_sets(total)


def output_sets(set_bytes: int) -> int:
    """How many sets of output memory are held: two small ones, or one."""
    return 2 if set_bytes <= DOUBLE_OUTPUT_BYTES else 1


def output_set_bytes(outputs: tuple[TensorInfo, ...], dimensions: tuple[DimensionInfo, ...]) -> int:
    """Bytes of one set of results at the upper bounds of the dimensions, in whole pages."""
    dims = {d.name: d.maximum for d in dimensions}
    return round_up(sum(round_up(tensor_bytes(t, dims), OUTPUT_ALIGNMENT_BYTES) for t in outputs), DIRECT_IO_BYTES)


def tensor_bytes(tensor: TensorInfo, dims: dict[str, int]) -> int:
    """Bytes of a dense tensor at the given dimensions; KeyError for an unknown dtype."""
    count = _ITEM_BYTES[tensor.dtype]
    for extent in tensor.shape_at(dims):
        count *= extent
    return count


def round_up(value: int, multiple: int) -> int:
    """`value` rounded up to a multiple."""
    return -(-value // multiple) * multiple
