"""Artifacts made by hand: a few C++ kernels, plans written out, weights from numpy. No planner, no code generation."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import numpy.typing as npt

from ullage.artifact import About, ArtifactWriter
from ullage.plan.plan import (
    Block,
    Command,
    ConstantInfo,
    DimensionInfo,
    Gather,
    Held,
    Launch,
    Plan,
    Pointer,
    Prediction,
    Program,
    Read,
    TensorInfo,
    Wait,
)
from ullage.plan.tables import output_bytes, round_up, stack_bytes, table_bytes
from ullage.runtime.library import Library, code_bytes

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "runtime" / "native"
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden")
KERNELS = ("twice_plus_one", "tile_dot", "count_tasks", "increment")
TWICE_PLUS_ONE, TILE_DOT, COUNT_TASKS, INCREMENT = range(4)
PAGE = 4096
Ids = Literal["int64", "int32"]
Floats = npt.NDArray[np.float32]


@cache
def shared_object() -> bytes:
    """The executor with the test kernels, as a toolchain links it."""
    sources = [*map(str, sorted(NATIVE.glob("*.cpp"))), str(Path(__file__).with_name("kernels.cpp"))]
    with TemporaryDirectory() as folder:
        out = Path(folder) / "code.so"
        link = ("-Wl,--as-needed", "-Wl,-Bsymbolic", "-Wl,-z,noseparate-code", "-s", "-o", str(out))
        command = ["g++", *FLAGS[:5], "-fno-rtti", f"-I{NATIVE}", *sources, *link]
        subprocess.run(command, check=True)
        return out.read_bytes()


def about(**changes: object) -> About:
    """What a driver would say of an artifact for any CPU."""
    fields: dict[str, object] = {
        "ullage_version": "0",
        "target": "cpu:generic",
        "cpu_features": (),
        "accuracy": "exact",
    }
    return About(**{**fields, **changes})  # type: ignore[arg-type]


def arena(offset: int | Program) -> Pointer:
    """A pointer into the arena."""
    return Pointer("arena", 0, (offset,) if isinstance(offset, int) else offset)


def block(number: int, offset: int = 0) -> Pointer:
    """A pointer into a block's data."""
    return Pointer("block", number, (offset,))


def given(number: int = 0, offset: int = 0) -> Pointer:
    """A pointer into an input."""
    return Pointer("input", number, (offset,))


def result(number: int = 0, offset: int = 0) -> Pointer:
    """A pointer into an output."""
    return Pointer("output", number, (offset,))


def launch(
    kernel: int,
    pointers: Sequence[Pointer],
    integers: Sequence[int | Program] = (),
    tasks: int | Program = 1,
    thread: int = 0,
    thread_stride: int = 0,
) -> Launch:
    """A launch with literal numbers or programs."""
    programs = tuple((n,) if isinstance(n, int) else n for n in integers)
    count = (tasks,) if isinstance(tasks, int) else tasks
    return Launch(kernel, tuple(pointers), programs, count, 0, thread, thread_stride, 0, (), ())


def tensor(name: str, *shape: int | Program, dtype: str = "float32") -> TensorInfo:
    """An input or output."""
    return TensorInfo(name, dtype, tuple((n,) if isinstance(n, int) else n for n in shape))


def plan(
    commands: Iterable[Command],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    *,
    arena_bytes: int = PAGE,
    blocks: Sequence[Block] = (),
    constants: Sequence[ConstantInfo] = (),
    dimensions: Sequence[DimensionInfo] = (),
    prologue: Sequence[Command] = (),
    threads: int = 2,
) -> Plan:
    """A complete plan whose held bytes are counted as a planner counts them."""
    held = (
        Held("outputs", output_bytes(tuple(outputs), tuple(dimensions))),
        Held("stacks", stack_bytes(threads)),
        Held("code", code_bytes(shared_object())),
    )
    made = Plan(
        arena_bytes=arena_bytes,
        held=held,
        threads=threads,
        kernels=KERNELS,
        step_names=("step",),
        buffers=(),
        blocks=tuple(blocks),
        constants=tuple(constants),
        dimensions=tuple(dimensions),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        prologue=tuple(prologue),
        commands=tuple(commands),
        budget_bytes=0,
        minimum_bytes=0,
        prediction=Prediction(0.0, 0.0, 0.0, 0.0, 0),
    )
    return counted(made)


def counted(made: Plan) -> Plan:
    """The plan with its tables counted and its peak as its budget."""
    held = tuple(item for item in made.held if item.name != "tables")
    fields = {name: getattr(made, name) for name in made.__struct_fields__}
    whole = Plan(**{**fields, "held": (*held, Held("tables", table_bytes(made)))})
    return Plan(**{**fields, "held": whole.held, "budget_bytes": whole.peak_bytes})


def write(path: Path, plans: Plan | Sequence[Plan], weights: Sequence[npt.NDArray[np.generic]] = ()) -> Path:
    """Write an artifact; each weight is an array with one row per tile."""
    plans = [plans] if isinstance(plans, Plan) else list(plans)
    library = Library(shared_object())
    try:
        with ArtifactWriter(path, library.crc32c) as writer:
            for info, weight in zip(plans[0].constants, weights, strict=True):
                writer.add_constant(info, (row.tobytes() for row in weight))
            writer.finish(about(), plans, shared_object())
    finally:
        library.close()
    return path


def twice_plan(elements: int = 1000, threads: int = 2) -> Plan:
    """y = 2 x + 1 on a vector, straight from input to output."""
    tasks = -(-elements // 256)
    commands = [launch(TWICE_PLUS_ONE, (given(), result()), (elements,), tasks)]
    return plan(commands, [tensor("x", elements)], [tensor("y", elements)], threads=threads)


def dynamic_plan(most: int = 5000) -> Plan:
    """y = 2 (2 x + 1) + 1 through the arena, for 1 .. `most` elements."""
    tasks: Program = ("n", 255, "+", 256, "//")
    n: Program = ("n",)
    commands = [
        launch(TWICE_PLUS_ONE, (given(), arena((0,))), (n,), tasks),
        launch(TWICE_PLUS_ONE, (arena((0,)), result()), (n,), tasks),
    ]
    dimensions = [DimensionInfo("n", 1, most, 0, 0)]
    size = round_up(4 * most, PAGE)
    return plan(commands, [tensor("x", n)], [tensor("y", n)], arena_bytes=size, dimensions=dimensions)


def dot_constant(tiles: int, k: int, file_offset: int = 0) -> ConstantInfo:
    """A matrix [tiles, k] of float32, one row per tile."""
    return ConstantInfo("w", tiles, 4 * k, 4 * k, file_offset)


def dot_block(constant: ConstantInfo, first: int, tiles: int, offset: int, resident: bool = False) -> Block:
    """Tiles of constant 0 in a direct I/O region at an arena offset."""
    lead = (constant.file_offset + first * constant.tile_stride) % PAGE
    size = round_up(lead + tiles * constant.tile_stride, PAGE)
    return Block(0, first, tiles, offset, size, lead, resident)


def resident_dot_plan(tiles: int = 64, k: int = 333) -> Plan:
    """y = W x with W resident."""
    constant = dot_constant(tiles, k)
    held = dot_block(constant, 0, tiles, 0, resident=True)
    commands = [launch(TILE_DOT, (block(0), given(), result()), (k, 0, tiles), tiles)]
    inputs, outputs = [tensor("x", k)], [tensor("y", tiles)]
    return plan(commands, inputs, outputs, arena_bytes=held.bytes, blocks=[held], constants=[constant])


def streamed_dot_plan(tiles: int = 64, k: int = 333, per_block: int = 7, slots: int = 3) -> Plan:
    """y = W x with W streamed through a ring of `slots` regions, prefetching across calls."""
    constant = dot_constant(tiles, k)
    slot_bytes = round_up(per_block * constant.tile_stride + PAGE, PAGE)
    firsts = range(0, tiles, per_block)
    blocks = [
        dot_block(constant, first, min(per_block, tiles - first), number % slots * slot_bytes)
        for number, first in enumerate(firsts)
    ]
    assert len(blocks) % slots == 0 or len(blocks) <= slots, "the last block's slot must be the one before the first's"
    commands: list[Command] = []
    for number, item in enumerate(blocks):
        commands.append(Wait(number))
        pointers = (block(number), given(), result())
        commands.append(launch(TILE_DOT, pointers, (k, item.first_tile, item.tiles), item.tiles))
        commands.append(Read((number + slots) % len(blocks)))
    prologue = [Read(number) for number in range(min(slots, len(blocks)))]
    inputs, outputs = [tensor("x", k)], [tensor("y", tiles)]
    size = slots * slot_bytes
    return plan(commands, inputs, outputs, arena_bytes=size, blocks=blocks, constants=[constant], prologue=prologue)


def table_constant(rows: int, row_bytes: int, file_offset: int = 0) -> ConstantInfo:
    """A gathered table."""
    return ConstantInfo("table", rows, row_bytes, round_up(row_bytes + 4, 16), file_offset, gathered=True)


def gather_plan(
    rows: int, width: int, resident: bool, staging_bytes: int = 0, dtype: Ids = "int64", most: int = 64
) -> Plan:
    """out[i] = table[ids[i]] for 1 .. `most` ids."""
    table = table_constant(rows, 4 * width)
    size = round_up(rows * table.tile_stride, PAGE)
    held = Block(0, 0, rows, 0, size, 0, True)
    n: Program = ("n",)
    gather = Gather(0, 0 if resident else -1, given(), dtype, result(), n, 0, staging_bytes, 0, (), ())
    return plan(
        [gather],
        [tensor("ids", n, dtype=dtype)],
        [tensor("rows", n, width)],
        arena_bytes=size if resident else staging_bytes,
        blocks=[held] if resident else [],
        constants=[table],
        dimensions=[DimensionInfo("n", 1, most, 0, 0)],
    )


def matrix(rows: int, columns: int, seed: int = 0) -> Floats:
    """Small whole numbers, so that float32 sums are exact in any order."""
    return np.random.default_rng(seed).integers(-8, 8, (rows, columns)).astype(np.float32)
