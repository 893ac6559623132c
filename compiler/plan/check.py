"""Check: prove from a plan alone that it is safe to run. Shares no code with the planner.

Static rules look at places, sizes and indices; the flow rules (`flow.py`) play the commands over the prologue and two
calls and follow who owns every byte of the arena.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ullage.errors import UllageError
from ullage.plan.flow import flow_problems
from ullage.plan.plan import DIRECT_IO_BYTES, Block, ConstantInfo, Gather, Launch, Plan, Pointer, Read, Wait
from ullage.plan.sizes import evaluate
from ullage.plan.tables import output_bytes, table_bytes

_LINE_BYTES = 64


class PlanError(UllageError):
    """A plan breaks the rules; `.problems` lists every one found, each naming its command or buffer."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        shown = "; ".join(self.problems[:20])
        more = f"; and {len(self.problems) - 20} more" if len(self.problems) > 20 else ""
        super().__init__(f"the plan is not safe to run: {shown}{more}.")


def check(plan: Plan) -> None:
    """Raise PlanError unless the plan is safe for every legal shape and any number of calls."""
    found = [*_index_problems(plan)]
    if not found:
        found += [
            *_total_problems(plan),
            *_constant_problems(plan),
            *_block_problems(plan),
            *_buffer_problems(plan),
            *_space_problems(plan),
            *_pointer_problems(plan),
            *_tile_problems(plan),
            *flow_problems(plan),
        ]
    if found:
        raise PlanError(found)


def _index_problems(plan: Plan) -> Iterator[str]:
    """Every number that names something must name something that exists."""
    limits = {"arena": 1, "block": len(plan.blocks), "input": len(plan.inputs), "output": len(plan.outputs)}
    for number, block in enumerate(plan.blocks):
        if not 0 <= block.constant < len(plan.constants):
            yield f"block {number}: no constant {block.constant}"
    for number, buffer in enumerate(plan.buffers):
        if not -1 <= buffer.alias_of < len(plan.buffers) or buffer.alias_of == number:
            yield f"buffer {buffer.name}: no buffer {buffer.alias_of} to alias"
    for where, command in _commands(plan):
        if isinstance(command, Read | Wait):
            if not 0 <= command.block < len(plan.blocks):
                yield f"{where}: no block {command.block}"
            continue
        for buffer_number in (*command.reads, *command.writes):
            if not 0 <= buffer_number < len(plan.buffers):
                yield f"{where}: no buffer {buffer_number}"
        for pointer in _pointers(command):
            if not 0 <= pointer.index < limits[pointer.base]:
                yield f"{where}: no {pointer.base} {pointer.index}"
        if not 0 <= command.step < len(plan.step_names):
            yield f"{where}: no step {command.step}"
        if isinstance(command, Launch):
            if not 0 <= command.kernel < len(plan.kernels):
                yield f"{where}: no kernel {command.kernel}"
            if not -1 <= command.tiled < len(command.pointers):
                yield f"{where}: no pointer {command.tiled}"
        elif not -1 <= command.block < len(plan.blocks) or not 0 <= command.constant < len(plan.constants):
            yield f"{where}: no block {command.block} or no constant {command.constant}"
    if any(not isinstance(c, Read) for c in plan.prologue):
        yield "prologue: holds something else than reads"


def _total_problems(plan: Plan) -> Iterator[str]:
    if plan.peak_bytes > plan.budget_bytes:
        yield f"plan: peak {plan.peak_bytes} bytes is over the budget of {plan.budget_bytes} bytes"
    if plan.minimum_bytes > plan.budget_bytes:
        yield f"plan: minimum {plan.minimum_bytes} bytes is over the budget of {plan.budget_bytes} bytes"
    if plan.arena_bytes % DIRECT_IO_BYTES:
        yield f"plan: arena of {plan.arena_bytes} bytes is not whole pages"
    held: dict[str, int] = {}
    for item in plan.held:
        held[item.name] = held.get(item.name, 0) + item.bytes
        if item.bytes < 0:
            yield f"held {item.name}: {item.bytes} bytes"
    owed = {"tables": table_bytes(plan), "outputs": output_bytes(plan.outputs, plan.dimensions)}
    for name, size in owed.items():
        if held.get(name, -1) != size:
            yield f"held {name}: {held.get(name)} bytes counted, {size} bytes needed"


def _constant_problems(plan: Plan) -> Iterator[str]:
    for constant in plan.constants:
        small = constant.tiles * constant.tile_stride <= DIRECT_IO_BYTES
        if constant.file_offset < 0 or constant.file_offset % (_LINE_BYTES if small else DIRECT_IO_BYTES):
            yield f"constant {constant.name}: misaligned file offset {constant.file_offset}"
        last = constant.file_offset + max(1, constant.tiles * constant.tile_stride) - 1
        if small and constant.file_offset // DIRECT_IO_BYTES != last // DIRECT_IO_BYTES:
            yield f"constant {constant.name}: crosses a page of the file"
        if constant.gathered:
            if constant.tile_stride < constant.tile_bytes + 4 or constant.tile_stride % 16:
                yield f"constant {constant.name}: rows of {constant.tile_stride} bytes have no room for a checksum"
        elif constant.tile_stride != constant.tile_bytes:
            yield f"constant {constant.name}: gaps between tiles"
    ordered = sorted(plan.constants, key=lambda c: c.file_offset)
    for before, after in pairwise(c for c in ordered if c.tiles * c.tile_stride):
        if before.file_offset + before.tiles * before.tile_stride > after.file_offset:
            yield f"constant {after.name}: overlaps constant {before.name} in the file"


def _block_problems(plan: Plan) -> Iterator[str]:
    for number, block in enumerate(plan.blocks):
        constant = plan.constants[block.constant]
        where = f"block {number} ({constant.name} tiles {block.first_tile}+{block.tiles})"
        if block.first_tile < 0 or block.tiles < 1 or block.first_tile + block.tiles > constant.tiles:
            yield f"{where}: the constant has {constant.tiles} tiles"
        if block.lead < 0 or block.lead + block.tiles * constant.tile_stride > block.bytes:
            yield f"{where}: its region of {block.bytes} bytes is too short"
        if constant.gathered and (block.first_tile or block.tiles != constant.tiles or not block.resident):
            yield f"{where}: a gathered table is resident as a whole or not at all"
        if not _outside(block.offset, block.bytes, plan.arena_bytes) and _aligned(block, constant):
            continue
        yield f"{where}: region {block.offset}+{block.bytes} with lead {block.lead} is misaligned or outside the arena"
    resident = sorted((b.offset, b.offset + b.bytes, n) for n, b in enumerate(plan.blocks) if b.resident)
    for (_, end, number), (start, _, other) in pairwise(resident):
        if end > start:
            yield f"block {other}: overlaps resident block {number}"


def _aligned(block: Block, constant: ConstantInfo) -> bool:
    position = constant.file_offset + block.first_tile * constant.tile_stride
    direct = block.lead == position % DIRECT_IO_BYTES
    if direct and not block.offset % DIRECT_IO_BYTES and not block.bytes % DIRECT_IO_BYTES:
        return True
    return block.resident and not block.lead and not block.offset % _LINE_BYTES and not block.bytes % _LINE_BYTES


def _outside(offset: int, size: int, limit: int) -> bool:
    return offset < 0 or size < 0 or offset + size > limit


def _buffer_problems(plan: Plan) -> Iterator[str]:
    """Buffers lie in the arena, and two that live at the same time only share bytes where one takes over the other."""
    for buffer in plan.buffers:
        if _outside(buffer.offset, buffer.bytes, plan.arena_bytes) or buffer.offset % _LINE_BYTES:
            yield f"buffer {buffer.name}: {buffer.offset}+{buffer.bytes} is misaligned or outside the arena"
        if not 0 <= buffer.first <= buffer.last < len(plan.commands):
            yield f"buffer {buffer.name}: life {buffer.first}..{buffer.last} is outside the commands"
            return
    live: list[int] = []
    for number in sorted(range(len(plan.buffers)), key=lambda n: plan.buffers[n].first):
        buffer = plan.buffers[number]
        live = [n for n in live if plan.buffers[n].last >= buffer.first]
        for other_number in live:
            other = plan.buffers[other_number]
            apart = buffer.offset + buffer.bytes <= other.offset or other.offset + other.bytes <= buffer.offset
            if not apart and not _takes_over(plan, number, other_number):
                yield f"buffer {buffer.name}: overlaps live buffer {other.name}"
        live.append(number)
    aliased = [b.alias_of for b in plan.buffers if b.alias_of >= 0]
    if len(aliased) != len(set(aliased)):
        yield "buffers: two buffers take over the memory of one"


def _takes_over(plan: Plan, heir: int, elder: int) -> bool:
    """Whether one buffer takes the other's memory in place, during the launches of a single step."""
    new, old = plan.buffers[heir], plan.buffers[elder]
    if new.alias_of != elder or new.offset != old.offset or new.bytes > old.bytes:
        return False
    steps = {c.step for c in plan.commands[new.first : old.last + 1] if isinstance(c, Launch)}
    return len(steps) == 1 and not any(isinstance(c, Gather) for c in plan.commands[new.first : old.last + 1])


def _space_problems(plan: Plan) -> Iterator[str]:
    """Workspaces and staging are aligned and lie in the arena."""
    for where, command in _commands(plan):
        if isinstance(command, Launch):
            ranges = [(command.shared, command.shared_bytes), (command.thread, command.thread_stride * plan.threads)]
            unit = _LINE_BYTES
        elif isinstance(command, Gather) and command.block < 0:
            ranges, unit = [(command.staging, command.staging_bytes)], DIRECT_IO_BYTES
            yield from _staging_problems(plan, where, command)
        else:
            continue
        for offset, size in ranges:
            if size and (_outside(offset, size, plan.arena_bytes) or offset % unit):
                yield f"{where}: workspace {offset}+{size} is misaligned or outside the arena"
        if isinstance(command, Launch) and command.thread_stride % _LINE_BYTES:
            yield f"{where}: workspaces of threads are misaligned"
        (low, size), *others = sorted(r for r in ranges if r[1]) or [(0, 0)]
        if others and low + size > others[0][0]:
            yield f"{where}: its workspaces overlap"


def _staging_problems(plan: Plan, where: str, command: Gather) -> Iterator[str]:
    constant = plan.constants[command.constant]
    touched = 2 * DIRECT_IO_BYTES + (constant.tile_bytes + 2) // DIRECT_IO_BYTES * DIRECT_IO_BYTES
    if command.staging_bytes % DIRECT_IO_BYTES or command.staging_bytes < touched:
        yield f"{where}: staging of {command.staging_bytes} bytes cannot hold a row"


def _pointer_problems(plan: Plan) -> Iterator[str]:
    """At the least and at the greatest dimensions every pointer starts inside something that its command names."""
    corners = [{d.name: d.minimum for d in plan.dimensions}, {d.name: d.maximum for d in plan.dimensions}]
    corners = corners if plan.dimensions else corners[:1]
    for where, command in _commands(plan):
        if isinstance(command, Read | Wait):
            continue
        own = [plan.buffers[n] for n in {*command.reads, *command.writes}]
        for number, pointer in enumerate(_pointers(command)):
            for dims in corners:
                offset = evaluate(pointer.offset, dims)
                if pointer.base == "arena" and not any(b.offset <= offset < b.offset + b.bytes for b in own):
                    yield f"{where}: pointer {number} at {offset} is in none of its buffers"
                if pointer.base == "block" and not 0 <= offset < max(1, _data_bytes(plan, pointer.index)):
                    yield f"{where}: pointer {number} at {offset} is outside block {pointer.index}"
                if offset < 0:
                    yield f"{where}: pointer {number} has a negative offset"


def _data_bytes(plan: Plan, block: int) -> int:
    return plan.blocks[block].tiles * plan.constants[plan.blocks[block].constant].tile_stride


def _tile_problems(plan: Plan) -> Iterator[str]:
    """Each step runs; a tiled one covers its constant's tiles once, in ascending order, within single blocks."""
    launches: dict[int, list[tuple[str, Launch | Gather]]] = {}
    for where, command in _commands(plan):
        if isinstance(command, Launch | Gather):
            launches.setdefault(command.step, []).append((where, command))
    for step, name in enumerate(plan.step_names):
        commands = launches.get(step, [])
        if not commands:
            yield f"step {name}: never launched"
        elif len(commands) > 1 and any(isinstance(c, Gather) or c.tiled < 0 for _, c in commands):
            yield f"step {name}: launched {len(commands)} times but not tiled"
        elif isinstance(commands[0][1], Launch) and commands[0][1].tiled >= 0:
            yield from _cover_problems(plan, name, [(w, c) for w, c in commands if isinstance(c, Launch)])
        elif isinstance(commands[0][1], Gather):
            yield from _table_problems(plan, *commands[0])


def _cover_problems(plan: Plan, name: str, launches: Sequence[tuple[str, Launch]]) -> Iterator[str]:
    covered, constants = 0, set()
    for where, launch in launches:
        pointer = launch.pointers[launch.tiled]
        if pointer.base != "block" or len(launch.integers) < 2:
            yield f"{where}: its tiled pointer is not in a block, or its tile range is missing"
            return
        first, count = (evaluate(program, {}) for program in launch.integers[-2:])
        block = plan.blocks[pointer.index]
        constants.add(block.constant)
        stride = plan.constants[block.constant].tile_stride
        if first != covered or count < 1:
            yield f"{where}: tiles {first}+{count} follow tile {covered}"
        if first < block.first_tile or first + count > block.first_tile + block.tiles:
            yield f"{where}: tiles {first}+{count} are not all in block {pointer.index}"
        if evaluate(pointer.offset, {}) != (first - block.first_tile) * stride:
            yield f"{where}: its tiled pointer does not start at tile {first}"
        covered = first + count
    if len(constants) != 1 or covered != plan.constants[next(iter(constants))].tiles:
        yield f"step {name}: {covered} tiles of constants {sorted(constants)} are covered"


def _table_problems(plan: Plan, where: str, command: Launch | Gather) -> Iterator[str]:
    if isinstance(command, Launch):
        return
    if not plan.constants[command.constant].gathered:
        yield f"{where}: constant {plan.constants[command.constant].name} is not a gathered table"
    if command.block >= 0 and plan.blocks[command.block].constant != command.constant:
        yield f"{where}: block {command.block} holds another constant"


def _pointers(command: Launch | Gather) -> tuple[Pointer, ...]:
    return command.pointers if isinstance(command, Launch) else (command.ids, command.out)


def _commands(plan: Plan) -> Iterator[tuple[str, Launch | Gather | Read | Wait]]:
    """Commands with how messages name them."""
    for number, command in enumerate(plan.prologue):
        yield f"prologue {number}", command
    for number, command in enumerate(plan.commands):
        known = isinstance(command, Launch | Gather) and 0 <= command.step < len(plan.step_names)
        label = f" ({plan.step_names[command.step]})" if known and isinstance(command, Launch | Gather) else ""
        yield f"command {number}{label}", command
