"""Random legal schedules and plan requests for hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from ullage.passes.plan.planner import PlanRequest, Rates
from ullage.plan.plan import Held, TensorInfo
from ullage.plan.sizes import Size
from ullage.plan.steps import Constant, Dimension, Gather, Operand, Schedule, Step, Storage

_ITEM_BYTES = 4
_TILE_SIZES = (64, 960, 4096, 5000 // 64 * 64, 20480)


@st.composite
def schedules(draw: DrawFn, most_steps: int = 12) -> Schedule:
    """A legal schedule: reads after writes, several writers, in-place pairs, tiled, shared, gathered constants."""
    builder = _Builder(draw)
    for _ in range(draw(st.integers(1, 2))):
        builder.storage("input")
    for _ in range(draw(st.integers(1, most_steps))):
        builder.step()
    builder.step(kind="output")
    return builder.schedule()


@st.composite
def requests(draw: DrawFn, most_steps: int = 12) -> PlanRequest:
    """A request over a random schedule with random rates and threads."""
    schedule = draw(schedules(most_steps))
    rates = Rates(draw(st.sampled_from([1e7, 1e9, 1e11])), 1e10, draw(st.sampled_from([1e8, 2e9])), 1e-4, 5e-6)
    inputs, outputs = (_tensors(schedule, kind) for kind in ("input", "output"))
    held = (Held("code", 8192), Held("stacks", 12288))
    return PlanRequest(schedule, inputs, outputs, held, draw(st.integers(1, 3)), rates)


def _tensors(schedule: Schedule, kind: str) -> tuple[TensorInfo, ...]:
    stored = [s for s in schedule.storages if s.kind == kind]
    return tuple(TensorInfo(s.name, "float32", ((s.bytes // _ITEM_BYTES).tokens,)) for s in stored)


@dataclass
class _Builder:
    draw: DrawFn
    steps: list[Step | Gather] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    written: list[Storage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dynamic = self.draw(st.booleans())

    def storage(self, kind: Literal["temp", "input", "output"]) -> Storage:
        """A new storage; inputs count as written."""
        size = Size.of(_ITEM_BYTES * self.draw(st.sampled_from([1, 7, 64, 1000, 3000])))
        if self.dynamic and (not self.storages or self.draw(st.booleans())):
            size = Size.of("n") * size
        made = Storage(f"s{len(self.storages)}", size, kind)
        self.storages.append(made)
        if kind == "input":
            self.written.append(made)
        return made

    def step(self, kind: Literal["temp", "output"] = "temp") -> None:
        """One more step; it writes something new or, at times, more of an old temp storage."""
        if self.draw(st.integers(0, 5)) == 0:
            self._gather(kind)
            return
        some = st.lists(st.sampled_from(self.written), min_size=1, max_size=3, unique_by=lambda s: s.name)
        sources = self.draw(some)
        operands = [Operand(s.name, "r") for s in sources]
        if self.draw(st.integers(0, 4)) == 0:
            operands.append(operands[0])
        operands += [Operand(c.name, "r") for c in self._whole_constants()]
        if self.draw(st.booleans()):
            operands.insert(self.draw(st.integers(0, len(operands))), Operand(self._tiled().name, "r", tiled=True))
        old = [s for s in self.written if s.kind == "temp" and s not in sources]
        if kind == "temp" and old and self.draw(st.integers(0, 4)) == 0:
            again = self.draw(st.sampled_from(old))
            operands.append(Operand(again.name, "rw" if self.draw(st.booleans()) else "w"))
        made = self._like(sources) if kind == "temp" and self.draw(st.booleans()) else self.storage(kind)
        operands.append(Operand(made.name, "w"))
        self._add(operands, made)

    def _add(self, operands: list[Operand], made: Storage) -> None:
        by_name, targets = {s.name: s for s in self.storages}, [o.target for o in operands]
        pairs = tuple(
            (i, len(operands) - 1) for i, o in enumerate(operands)
            if o.access == "r" and o.target in by_name and by_name[o.target].bytes == made.bytes
            and targets.index(o.target) == i
        )  # fmt: skip
        self.steps.append(
            Step(
                f"step{len(self.steps)}", f"k{self.draw(st.integers(0, 3))}", tuple(operands), (Size.of(3),),
                Size.of(self.draw(st.integers(1, 5))), Size.of(self.draw(st.sampled_from([0, 0, 100, 9000]))),
                Size.of(self.draw(st.sampled_from([0, 0, 64, 5000]))), pairs,
                flops=self.draw(st.sampled_from([0, 10**4, 10**6])), bytes=self.draw(st.sampled_from([0, 10**5])),
            )
        )  # fmt: skip
        self.written.append(made)

    def _like(self, sources: Sequence[Storage]) -> Storage:
        made = Storage(f"s{len(self.storages)}", self.draw(st.sampled_from(sources)).bytes, "temp")
        self.storages.append(made)
        return made

    def _gather(self, kind: Literal["temp", "output"]) -> None:
        tables = [c for c in self.constants if c.gathered]
        if not tables or self.draw(st.booleans()):
            row_bytes = self.draw(st.sampled_from([4, 1536, 4096, 6000]))
            tables = [self._constant(self.draw(st.sampled_from([1, 9, 200])), row_bytes, gathered=True)]
        table = self.draw(st.sampled_from(tables))
        count = self.draw(st.integers(1, 5))
        ids = Storage(f"s{len(self.storages)}", Size.of(8 * count), "input")
        made = Storage(f"s{len(self.storages) + 1}", Size.of(count * table.tile_bytes), kind)
        self.storages += [ids, made]
        self.written += [ids, made]
        name, source, target = f"step{len(self.steps)}", Operand(ids.name, "r"), Operand(made.name, "w")
        self.steps.append(Gather(name, table.name, source, "int64", target, Size.of(count)))

    def _whole_constants(self) -> list[Constant]:
        old = [c for c in self.constants if not c.gathered]
        found = []
        for _ in range(self.draw(st.integers(0, 2))):
            if not old or self.draw(st.integers(0, 3)):
                found.append(self._constant(1, self.draw(st.sampled_from([4, 100, 1536, 4096, 9000, 40000]))))
            else:
                found.append(self.draw(st.sampled_from(old)))
        return list({c.name: c for c in found}.values())

    def _tiled(self) -> Constant:
        old = [c for c in self.constants if not c.gathered]
        if old and self.draw(st.integers(0, 3)) == 0:
            return self.draw(st.sampled_from(old))
        return self._constant(self.draw(st.integers(1, 12)), self.draw(st.sampled_from(_TILE_SIZES)))

    def _constant(self, tiles: int, tile_bytes: int, gathered: bool = False) -> Constant:
        self.constants.append(Constant(f"c{len(self.constants)}", tiles, tile_bytes, gathered))
        return self.constants[-1]

    def schedule(self) -> Schedule:
        """What was built."""
        inputs = [s.name for s in self.storages if s.kind == "input" and "n" in s.bytes.names()]
        dims = (Dimension("n", 1, 5, inputs[0], 0),) if inputs else ()
        if not dims:
            self.storages = [Storage(s.name, Size.of(s.bytes.evaluate({"n": 3})), s.kind) for s in self.storages]
        return Schedule(tuple(self.steps), tuple(self.storages), tuple(self.constants), dims)
