"""Launches of kernels that are recorded first and run later by a small program, on this machine or an emulated one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.codegen.cpp.loop_runner import Case, guarded
from tests.machines import Machine
from ullage.codegen.cpp.emit import emit
from ullage.codegen.cpp.toolchain import compile_objects, find_compiler, link_shared, native_sources
from ullage.codegen.kernel import Kernel
from ullage.codegen.templates import PackedPanels
from ullage.target import Target

TARGET = Target("cpu", "generic", 2)
_ALIGNMENT = 64
_TIMEOUT_S = 120
_UNTOUCHED = 0xA5  # what `guarded` puts around a buffer
Bytes = NDArray[np.uint8]


@cache
def _driver(machine: Machine) -> bytes:
    native = native_sources()[0].parent
    with TemporaryDirectory() as folder:
        program = Path(folder) / "driver"
        machine.build(program, [Path(__file__).with_name("launch_driver.cpp")], ["-O1", f"-I{native}", "-ldl"])
        return program.read_bytes()


def library(kernels: Sequence[Kernel], machine: Machine, flags: Sequence[str]) -> bytes:
    """The shared object of an artifact, executor included, as the compiler of a machine makes it."""
    compiler = find_compiler({"CXX": machine.compiler, "PATH": os.environ["PATH"]})
    objects = compile_objects(kernels, TARGET, flags=flags, compiler=compiler)
    return link_shared(objects, [k.symbol for k in kernels], TARGET, native_sources(), compiler=compiler)


@dataclass(frozen=True)
class _Launch:
    """A kernel's buffers, integers, workspaces and ranges of tasks."""

    kernel: Kernel
    tensors: tuple[torch.Tensor, ...]
    integers: tuple[int, ...]
    workspaces: tuple[int, int]
    ranges: tuple[tuple[int, int], ...]

    def words(self, number: int, areas: Mapping[int, int]) -> list[int]:
        """As the driver reads them, with a kernel's number and the offsets of the tensors' storages."""
        offsets = [areas[_key(t)] + t.storage_offset() * t.element_size() for t in self.tensors]
        counts = [len(offsets), len(self.integers), len(self.ranges)]
        return [number, *self.workspaces, *counts, *offsets, *self.integers, *(n for pair in self.ranges for n in pair)]


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensor: torch.Tensor) -> Bytes:
    """The storage of a tensor, with what lies around it."""
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return np.asarray(whole.numpy())


class Launches:
    """Launches in order. Tensors are read when the launches run; tensors of one storage stay together."""

    def __init__(self) -> None:
        self._launches: list[_Launch] = []

    def add(
        self,
        kernel: Kernel,
        tensors: Mapping[str, torch.Tensor],
        dims: Mapping[str, int],
        tiles: tuple[int, int] = (0, 1),
        cuts: Sequence[int] = (),
    ) -> None:
        """One launch over the tiles `tiles[0]` to `tiles[1]`, its tasks cut into ranges, the last range first."""
        first, last = tiles
        tasks = kernel.tasks.evaluate(dims) * (last - first if kernel.tiled else 1)
        edges = [0, *(c for c in cuts if 0 < c < tasks), tasks]
        self._launches.append(
            _Launch(
                kernel,
                tuple(tensors[name] for name in kernel.buffers),
                (*(dims[name] for name in kernel.dims), first, last - first),
                (kernel.shared_bytes.evaluate(dims), kernel.thread_bytes.evaluate(dims)),
                tuple(reversed(list(pairwise(edges)))),
            )
        )

    def add_kernel(
        self,
        kernel: Kernel,
        target: Target,
        tensors: Mapping[str, torch.Tensor],
        dims: Mapping[str, int],
        cuts: Sequence[int] = (),
    ) -> None:
        """In place of `template_runner.run_kernel`."""
        assert target == TARGET
        self.add(kernel, tensors, dims, cuts=cuts)

    def add_panels(
        self,
        kernel: Kernel,
        library: object,
        tensors: Mapping[str, torch.Tensor],
        layout: PackedPanels | None = None,
        dims: Mapping[str, int] | None = None,
        launches: Sequence[int] = (),
        cuts: Sequence[int] = (),
    ) -> None:
        """In place of `panel_cases.run`."""
        count = layout.tiles if layout else 1
        for first, last in pairwise([0, *(t for t in launches if 0 < t < count), count]):
            placed = dict(tensors)
            if layout:
                placed["w"] = tensors["w"][first * layout.tile_bytes :]
            self.add(kernel, placed, dims or {}, (first, last), cuts)

    def add_case(self, case: Case) -> Recorded:
        """A loop kernel on copies of its case's buffers, its tasks one by one."""
        kernel = emit(case.kernel, TARGET)
        copies = {name: guarded(values) for name, values in case.buffers.items()}
        inside = {n: _within(torch.from_numpy(whole), values.nbytes) for n, (values, whole) in copies.items()}
        self.add(kernel, inside, case.dims, cuts=range(1, kernel.tasks.evaluate(case.dims)))
        return Recorded(case, copies)

    def run(self, machine: Machine, flags: Sequence[str] = ()) -> None:
        """Build the kernels with more flags, run all launches on a machine, and change the tensors."""
        for key, values in self.results(machine, flags).items():
            self._storages()[key][:] = values

    def results(self, machine: Machine, flags: Sequence[str] = ()) -> dict[int, Bytes]:
        """All storages, by address, as the launches would leave them."""
        areas, image = self._image()
        with TemporaryDirectory() as name:
            folder = Path(name)
            program, code, data = folder / "driver", folder / "kernels.so", folder / "launches.bin"
            program.write_bytes(_driver(machine))
            program.chmod(0o700)
            code.write_bytes(library(self._kernels(), machine, flags))
            data.write_bytes(image)
            done = machine.run(program, [str(code), str(data)], _TIMEOUT_S)
            assert (done.returncode, done.stderr) == (0, ""), f"on {machine.name}: {done}"
            changed = np.fromfile(data, np.uint8)
        return {key: changed[areas[key] :][: len(values)] for key, values in self._storages().items()}

    def name_of(self, key: int) -> str:
        """The kernel's and the buffer's name of a storage."""
        uses = (
            (x.kernel, n)
            for x in self._launches
            for n, t in zip(x.kernel.buffers, x.tensors, strict=True)
            if _key(t) == key
        )
        return next(f"{name} of\n{kernel.source}" for kernel, name in uses)

    def _storages(self) -> dict[int, Bytes]:
        return {_key(t): _bytes(t) for launch in self._launches for t in launch.tensors}

    def _kernels(self) -> list[Kernel]:
        return list({launch.kernel.symbol: launch.kernel for launch in self._launches}.values())

    def _image(self) -> tuple[dict[int, int], bytes]:
        """Offsets of the storages in the file, and the file."""
        numbers = {kernel.symbol: i for i, kernel in enumerate(self._kernels())}
        storages = self._storages()

        def words(areas: Mapping[int, int]) -> list[int]:
            texts = [launch.words(numbers[launch.kernel.symbol], areas) for launch in self._launches]
            return [len(texts), *(word for text in texts for word in text)]

        areas, end = {}, _aligned(8 * len(words(dict.fromkeys(storages, 0))))
        for key, values in storages.items():
            areas[key], end = end, _aligned(end + len(values))
        image = np.zeros(end, np.uint8)
        table = np.array(words(areas), np.int64).view(np.uint8)
        image[: len(table)] = table
        for key, values in storages.items():
            image[areas[key] :][: len(values)] = values
        return areas, image.tobytes()


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def _within(whole: torch.Tensor, count: int) -> torch.Tensor:
    margin = (len(whole) - count) // 2
    return whole[margin : margin + count]


@dataclass(frozen=True)
class Recorded:
    """A recorded loop kernel's case and its buffers, each with the memory around it."""

    case: Case
    copies: Mapping[str, tuple[NDArray[Any], Bytes]]

    def got(self) -> dict[str, NDArray[Any]]:
        """The buffers; fails if a guard zone was written."""
        for name, (inside, whole) in self.copies.items():
            margin = (len(whole) - inside.nbytes) // 2
            around = np.concatenate([whole[:margin], whole[-margin:]])
            assert (around == _UNTOUCHED).all(), f"wrote outside {name}"
        return {name: inside for name, (inside, _) in self.copies.items()}
