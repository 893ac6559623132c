"""Measuring kernels: launches over synthetic operands, by the executor and its threads, one after the other in turns.

Before each launch memory that is not its own is written, and then its input, as its producer would have done: what a
layer of a model finds in the caches is what came just before it, not its own weights and results of last time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ullage.codegen.cache import Cache
from ullage.codegen.cpp.toolchain import build_library, native_sources
from ullage.codegen.kernel import Kernel
from ullage.codegen.templates import Gemm
from ullage.codegen.tune.work import Operand, Work
from ullage.errors import UllageError
from ullage.plan.plan import Launch, Plan, Pointer, Prediction
from ullage.plan.sizes import Size
from ullage.plan.tables import round_up
from ullage.runtime.library import Library
from ullage.runtime.memory import Region
from ullage.runtime.placement import in_one_arena
from ullage.runtime.tables import Bindings, Tables
from ullage.target import Target

_LINE_BYTES = 64
_CHUNK_BYTES = 16 << 10
_OTHERS_BYTES = 4 << 20
"""Memory that is written before each launch: more than the second-level caches of two cores hold."""
_FLOATS = np.uint32(0x3F003F00)
"""About a half as a float32, and as each half of a pair of bfloat16; 1.75 as each half of a pair of float16."""
_REFRESH = Kernel(
    "tune_refresh",
    'extern "C" void tune_refresh(const UllageArgs *args, ull_i64 begin, ull_i64 end) {\n'
    f"  volatile float *const p = (volatile float *)args->p[0];\n"
    f"  for (ull_i64 i = begin * {_CHUNK_BYTES // 4}; i < end * {_CHUNK_BYTES // 4}; i += {_LINE_BYTES // 4}) "
    "p[i] = p[i];\n}\n",
    ("simd.h",), ("p",), (), Size((1,)),
)  # fmt: skip


class Stage:
    """Kernels of one `Work`, compiled and ready to be launched in any order; `close` gives the memory back."""

    def __init__(self, work: Work, kernels: Sequence[Kernel], target: Target, cache: Cache | None = None) -> None:
        self._work, self._kernels, self._target = work, tuple(kernels), target
        self._places, self._others, self._shared, self._thread, size = _layout(work, kernels, target.threads)
        code = build_library([*kernels, _REFRESH], target, native_sources(), cache)
        self._library = Library(code)
        try:
            self._arena = Region(size, "the operands of a kernel that is tuned")
        except BaseException:
            self._library.close()
            raise
        _fill(self._arena, self._places, work.operands)

    def rounds(self, order: Sequence[int], count: int) -> list[list[float]]:
        """Seconds of the kernels numbered by `order`, launched in this order, in each of `count` rounds after one more
        that is not counted."""
        plan = self._plan(order)
        placement = in_one_arena(plan, self._arena.address)
        bindings = Bindings(placement, self._library.kernels(), -1, -1, 0, b"", self._target.threads)
        tables = Tables(plan, bindings)
        timings = np.zeros(len(plan.commands), np.int64)
        wanted = [i for i, command in enumerate(plan.commands) if isinstance(command, Launch) and command.step]
        try:
            tables.resize({})
            tables.time_into(timings)
            return self._run(tables, timings, wanted, count)
        finally:
            tables.close()

    def _run(self, tables: Tables, timings: np.ndarray, wanted: list[int], count: int) -> list[list[float]]:
        """One list of seconds per round; the threads live as long as these rounds."""
        if self._library.start(tables.address):
            raise UllageError("the threads that kernels are tuned on cannot be started.")
        try:
            found = []
            for number in range(count + 1):
                if self._library.run(tables.address):
                    raise UllageError(f"a launch of {self._work.name} failed while it was tuned.")
                if number:
                    found.append([int(timings[i]) / 1e9 for i in wanted])
            return found
        finally:
            self._library.stop(tables.address)

    def _plan(self, order: Sequence[int]) -> Plan:
        refresh = self._refreshes()
        commands = [command for number in order for command in (*refresh, self._launch(number))]
        names = (*(k.symbol for k in self._kernels), _REFRESH.symbol)
        return Plan(
            self._arena.bytes, (), self._target.threads, names, ("refresh", self._work.name), (), (), (), (), (), (),
            (), tuple(commands), 0, 0, Prediction(0.0, 0.0, 0.0, 0.0, 0),
        )  # fmt: skip

    def _launch(self, number: int) -> Launch:
        kernel, work = self._kernels[number], self._work
        dims = dict(zip(kernel.dims, work.dims, strict=True))
        tiles = (work.weight_tiles,) if kernel.tiled else ()
        tasks = kernel.tasks.evaluate(dims) * (work.weight_tiles if kernel.tiled else 1)
        pointers = tuple(
            Pointer("arena", 0, (place + offset,)) for place, offset in zip(self._places, work.offsets, strict=True)
        )
        integers = tuple((value,) for value in (*work.dims, *((0, *tiles) if tiles else ())))
        return Launch(
            number, pointers, integers, (tasks,), self._shared, self._thread, _thread_bytes(kernel, dims), 1, (), (),
            kernel.shared_bytes.evaluate(dims),
        )  # fmt: skip

    def _refreshes(self) -> list[Launch]:
        """Launches that write other memory, then the input."""
        spec = self._work.spec
        number = self._work.kernel.buffers.index(spec.a_buffer if isinstance(spec, Gemm) else spec.x_buffer)
        regions = ((self._others, _OTHERS_BYTES), (self._places[number], self._work.operands[number].bytes))
        return [
            Launch(len(self._kernels), (Pointer("arena", 0, (at,)),), (), (size // _CHUNK_BYTES,), 0, 0, 0, 0, (), ())
            for at, size in regions
            if size >= _CHUNK_BYTES
        ]

    def close(self) -> None:
        """Unmap code and memory."""
        self._arena.close()
        self._library.close()


def _thread_bytes(kernel: Kernel, dims: dict[str, int]) -> int:
    return round_up(kernel.thread_bytes.evaluate(dims), _LINE_BYTES)


def _layout(work: Work, kernels: Sequence[Kernel], threads: int) -> tuple[list[int], int, int, int, int]:
    """Offsets of the operands, of other memory, of both workspaces, and the bytes of it all."""
    end, places = 0, list[int]()
    for number, operand in enumerate(work.operands):
        if operand.same_as == number:
            places.append(end)
            end = round_up(end + operand.bytes, _LINE_BYTES)
        else:
            places.append(places[operand.same_as])
    others = round_up(end, 4096)
    shared = others + _OTHERS_BYTES
    dims = [dict(zip(kernel.dims, work.dims, strict=True)) for kernel in kernels]
    most = max(k.shared_bytes.evaluate(d) for k, d in zip(kernels, dims, strict=True))
    thread = round_up(shared + most, 4096)
    each = max(_thread_bytes(k, d) for k, d in zip(kernels, dims, strict=True))
    return places, others, shared, thread, thread + threads * each


def _fill(arena: Region, places: Sequence[int], operands: Sequence[Operand]) -> None:
    """Floats become numbers that neither overflow nor underflow in sums; all else stays zero."""
    for place, operand in zip(places, operands, strict=True):
        if operand.dtype in ("float32", "float16", "bfloat16"):
            np.frombuffer(arena.map, np.uint32, operand.bytes // 4, place)[:] = _FLOATS
