"""Check must accept good plans and object to every way of breaking one."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.networks import RATES, Network
from ullage.passes.plan.planner import Planner
from ullage.plan.check import PlanError, check
from ullage.plan.plan import Gather, Held, Launch, Plan, Read, Wait
from ullage.plan.sizes import Size
from ullage.plan.steps import Constant, Operand, Step
from ullage.plan.steps import Gather as GatherStep

replace = msgspec.structs.replace
Mutation = Callable[[Plan], Plan]


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A plan with streamed, pinned, packed and gathered constants, prefetch across calls, in-place and workspaces."""
    net = Network()
    ids = net.storage("ids", 64, "input")
    net.constants.append(Constant("table", 20_000, 400, gathered=True))
    rows = net.storage("rows", 8 * 400)
    net.steps.append(GatherStep("gather", "table", Operand(ids, "r"), "int64", Operand(rows, "w"), Size.of(8)))
    x = net.gemm("first", rows, 8, 960, 100)
    x = net.elementwise("norm", x, 960)
    y = net.gemm("second", x, 8, 960, 960)
    z = net.gemm("third", y, 8, 960, 960, residual=x)
    mixed = net.storage("mixed", 8 * 960 * 4)
    operands = (Operand(z, "r"), Operand(y, "r"), Operand(mixed, "w"))
    net.steps.append(Step("mix", "mix", operands, (), Size.of(4), Size.of(1000), Size.of(5000), flops=10**6))
    net.gemm("last", mixed, 8, 96, 960, kind="output")
    planner = Planner(net.request(2, RATES))
    made = planner.plan(planner.minimum_bytes + (4 << 20))
    assert made.prologue
    assert any(b.resident and b.bytes > 256 * 1024 for b in made.blocks)
    assert any(isinstance(c, Gather) and c.block < 0 for c in made.commands)
    assert any(b.alias_of >= 0 for b in made.buffers)
    return made


def _first(plan: Plan, kind: type, skip: int = 0) -> int:
    return [n for n, c in enumerate(plan.commands) if isinstance(c, kind)][skip]


def _commands(plan: Plan, *changes: tuple[int, object]) -> Plan:
    commands = list(plan.commands)
    for number, command in changes:
        commands[number] = command  # type: ignore[call-overload]
    return replace(plan, commands=tuple(commands))


def _item(plan: Plan, what: str, number: int, **fields: object) -> Plan:
    items = list(getattr(plan, what))
    items[number] = replace(items[number], **fields)
    return replace(plan, **{what: tuple(items)})


def _launch(plan: Plan, name: str, skip: int = 0) -> int:
    step = plan.step_names.index(name)
    return [n for n, c in enumerate(plan.commands) if isinstance(c, Launch) and c.step == step][skip]


def _edit(plan: Plan, name: str, skip: int = 0, **fields: object) -> Plan:
    return _item(plan, "commands", _launch(plan, name, skip), **fields)


def _buffer(plan: Plan, name: str) -> int:
    return next(n for n, b in enumerate(plan.buffers) if b.name == name)


def _streamed(plan: Plan) -> int:
    return next(n for n, b in enumerate(plan.blocks) if not b.resident)


def _resident(plan: Plan) -> int:
    return next(n for n, b in enumerate(plan.blocks) if b.resident)


def _swap(plan: Plan, one: int, other: int) -> Plan:
    return _commands(plan, (one, plan.commands[other]), (other, plan.commands[one]))


def _without(plan: Plan, number: int) -> Plan:
    return replace(plan, commands=(*plan.commands[:number], *plan.commands[number + 1 :]))


def _share(plan: Plan, one: str, other: str) -> Plan:
    return _item(plan, "buffers", _buffer(plan, one), offset=plan.buffers[_buffer(plan, other)].offset)


def _tiled_twice(plan: Plan) -> Plan:
    where = _launch(plan, "second", 1)
    return replace(plan, commands=(*plan.commands[:where], plan.commands[where], *plan.commands[where:]))


def _pointer(plan: Plan, name: str, number: int, **fields: object) -> Plan:
    where = _launch(plan, name)
    launch = plan.commands[where]
    assert isinstance(launch, Launch)
    pointers = list(launch.pointers)
    pointers[number] = replace(pointers[number], **fields)
    return _item(plan, "commands", where, pointers=tuple(pointers))


def _range(plan: Plan, first: int, count: int) -> Plan:
    where = _launch(plan, "second", 1)
    launch = plan.commands[where]
    assert isinstance(launch, Launch)
    *rest, (old_first,), (old_count,) = launch.integers
    assert isinstance(old_first, int) and isinstance(old_count, int)
    return _item(plan, "commands", where, integers=(*rest, (old_first + first,), (old_count + count,)))


def _flying(plan: Plan) -> Plan:
    """The first streamed block moves to where the second one lies, which is in flight at the same time."""
    numbers = [c.block for c in plan.prologue if isinstance(c, Read)]
    return _item(plan, "blocks", numbers[0], offset=plan.blocks[numbers[1]].offset)


MUTATIONS: dict[str, tuple[str, Mutation]] = {
    "budget below peak": ("peak", lambda p: replace(p, budget_bytes=p.peak_bytes - 1)),
    "minimum above budget": ("minimum", lambda p: replace(p, minimum_bytes=p.budget_bytes + 1)),
    "tables not counted": ("tables", lambda p: replace(p, held=tuple(h for h in p.held if h.name != "tables"))),
    "outputs counted short": (
        "outputs", lambda p: replace(p, held=tuple(Held(h.name, h.bytes - (h.name == "outputs")) for h in p.held))),
    "arena of odd length": ("whole pages", lambda p: replace(p, arena_bytes=p.arena_bytes - 64)),
    "arena too short": ("outside the arena", lambda p: replace(p, arena_bytes=p.arena_bytes - 65536)),
    "buffer moved off its line": ("misaligned", lambda p: _item(p, "buffers", 2, offset=p.buffers[2].offset + 4)),
    "buffer before the arena": ("outside the arena", lambda p: _item(p, "buffers", 1, offset=-64)),
    "two live buffers at one place": ("overlaps live buffer", lambda p: _share(p, "second.out", "third.out")),
    "alias to a stranger": (
        "overlaps live buffer", lambda p: _item(p, "buffers", _buffer(p, "third.out"), alias_of=_buffer(p, "rows"))),
    "alias bigger than what it takes": (
        "overlaps live buffer", lambda p: _item(p, "buffers", _buffer(p, "third.out"), bytes=40000)),
    "life ends too early": ("outside its life", lambda p: _item(p, "buffers", _buffer(p, "second.out"),
                            last=p.buffers[_buffer(p, "second.out")].last - 1)),
    "life begins too late": ("outside its life", lambda p: _item(p, "buffers", _buffer(p, "second.out"),
                             first=p.buffers[_buffer(p, "second.out")].first + 1)),
    "life outside the commands": ("outside the commands", lambda p: _item(p, "buffers", 0, last=len(p.commands))),
    "buffer over a pinned block": (
        "overlaps resident block", lambda p: _item(p, "buffers", 0, offset=p.blocks[_resident(p)].offset)),
    "buffer over a streamed block in use": (
        "block", lambda p: _item(p, "buffers", _buffer(p, "second.out"),
                                 offset=p.blocks[_used(p, "second")].offset)),
    "workspace over a buffer": (
        "workspace", lambda p: _edit(p, "mix", shared=p.buffers[_buffer(p, "second.out")].offset)),
    "workspaces over each other": ("workspaces overlap", lambda p: _edit(p, "mix", thread=_mix(p).shared)),
    "workspace outside": ("outside the arena", lambda p: _edit(p, "mix", thread=p.arena_bytes - 64)),
    "workspace misaligned": ("misaligned", lambda p: _edit(p, "mix", thread_stride=5000)),
    "staging too short": ("staging", lambda p: _item(p, "commands", _first(p, Gather), staging_bytes=0)),
    "staging misaligned": ("misaligned", lambda p: _item(p, "commands", _first(p, Gather), staging=64)),
    "staging over its output": (
        "staging", lambda p: _item(p, "commands", _first(p, Gather), staging=0, staging_bytes=p.arena_bytes)),
    "block misaligned": ("misaligned", lambda p: _item(p, "blocks", _streamed(p), offset=64)),
    "block with a wrong lead": ("lead", lambda p: _item(p, "blocks", _streamed(p), lead=512)),
    "block too short": ("too short", lambda p: _item(p, "blocks", _streamed(p), bytes=4096)),
    "block of missing tiles": ("tiles", lambda p: _item(p, "blocks", _streamed(p), first_tile=500)),
    "block of another constant": ("", lambda p: _item(p, "blocks", _streamed(p), constant=0)),
    "pinned blocks over each other": (
        "overlaps resident", lambda p: _item(p, "blocks", _resident(p),
                                             offset=[b for b in p.blocks if b.resident][1].offset)),
    "streamed block claims to be pinned": ("resident", lambda p: _item(p, "blocks", _streamed(p), resident=True)),
    "pinned block is not pinned": ("", lambda p: _item(p, "blocks", _resident(p), resident=False)),
    "blocks in flight at one place": ("in flight", _flying),
    "read left out": ("not read", lambda p: _without(p, _first(p, Read))),
    "read twice": ("in flight", lambda p: replace(
        p, commands=(*p.commands[: _first(p, Read)], p.commands[_first(p, Read)], *p.commands[_first(p, Read) :]))),
    "wait left out": ("has not arrived", lambda p: _without(p, _first(p, Wait))),
    "wait after the launch": ("has not arrived", lambda p: _swap(p, _first(p, Wait), _first(p, Wait) + 1)),
    "prologue left out": ("not read", lambda p: replace(p, prologue=())),
    "prologue that launches": ("something else", lambda p: replace(p, prologue=(p.commands[_launch(p, "mix")],))),
    "reads ahead left out": ("", lambda p: replace(p, commands=p.commands[: -len(p.prologue)])),
    "steps out of order": ("before it is written", lambda p: _swap(p, _launch(p, "norm"), _launch(p, "mix"))),
    "step left out": ("never launched", lambda p: _without(p, _launch(p, "last"))),
    "tile range left out": ("follow tile", lambda p: _without(p, _launch(p, "second", 1))),
    "tile range run twice": ("follow tile", _tiled_twice),
    "tile range too long": ("tiles", lambda p: _range(p, 0, 1)),
    "tile range too short": ("", lambda p: _range(p, 0, -1)),
    "tile range shifted": ("tiles", lambda p: _range(p, 1, 0)),
    "untiled step run twice": ("not tiled", lambda p: replace(p, commands=(*p.commands, _mix(p)))),
    "tiled pointer into an earlier tile": ("tiled pointer", lambda p: _pointer(p, "second", 1, offset=(64,))),
    "pointer outside its buffers": ("none of its", lambda p: _pointer(p, "mix", 0, offset=(p.arena_bytes - 64,))),
    "pointer outside its block": ("outside block", lambda p: _pointer(p, "last", 2, offset=(1 << 20,))),
    "pointer to a missing block": ("no block", lambda p: _pointer(p, "last", 2, index=9999)),
    "pointer to a missing output": ("no output", lambda p: _pointer(p, "last", 3, index=1)),
    "unknown kernel": ("no kernel", lambda p: _edit(p, "mix", kernel=99)),
    "unknown step": ("no step", lambda p: _edit(p, "mix", step=99)),
    "unknown buffer": ("no buffer", lambda p: _edit(p, "mix", reads=(99,))),
    "constants overlap in the file": (
        "in the file", lambda p: _item(p, "constants", 1, file_offset=p.constants[3].file_offset)),
    "constant misplaced in the file": (
        "misaligned", lambda p: _item(p, "constants", 1, file_offset=p.constants[1].file_offset + 64)),
    "gaps between tiles": ("gaps", lambda p: _item(p, "constants", 1, tile_bytes=p.constants[1].tile_bytes - 64)),
    "no room for checksums": ("checksum", lambda p: _item(p, "constants", 0, tile_stride=400)),
}  # fmt: skip


def _mix(plan: Plan) -> Launch:
    launch = plan.commands[_launch(plan, "mix")]
    assert isinstance(launch, Launch)
    return launch


def _used(plan: Plan, name: str) -> int:
    """A streamed block that some launch of the step uses."""
    step = plan.step_names.index(name)
    return next(
        p.index for c in plan.commands if isinstance(c, Launch) and c.step == step for p in c.pointers
        if p.base == "block" and not plan.blocks[p.index].resident
    )  # fmt: skip


def test_a_good_plan_passes(plan: Plan) -> None:
    check(plan)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_way_of_breaking_a_plan_is_found(plan: Plan, name: str) -> None:
    hint, mutate = MUTATIONS[name]
    broken = mutate(plan)
    assert broken != plan
    with pytest.raises(PlanError) as error:
        check(broken)
    assert hint in str(error.value), error.value.problems


def test_messages_name_the_command_and_the_buffer(plan: Plan) -> None:
    broken = _swap(plan, _launch(plan, "norm"), _launch(plan, "mix"))
    with pytest.raises(PlanError) as error:
        check(broken)
    assert any("(mix)" in problem and "third.out" in problem for problem in error.value.problems)
