"""A loaded artifact as a callable: arrays in, arrays out."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ullage.artifact.reader import Artifact
from ullage.errors import UllageError
from ullage.plan.plan import Command, Gather, Launch, Plan, Read, TensorInfo
from ullage.plan.view import PlanView
from ullage.runtime.executor import Executor, choose_threads
from ullage.runtime.placement import Placement
from ullage.runtime.tensors import Array, Inputs, Outputs, OutputSet, Shape


class Runner:
    """Runs one plan of an artifact; `ullage.load` makes it.

    Arrays are taken by position or by input name: numpy arrays, or torch tensors on the CPU without a copy. bfloat16
    travels as the uint16 that holds its bits (a torch bfloat16 tensor is taken as it is). Inputs that are not
    contiguous are copied. Results are numpy arrays that never change afterwards; they live in memory held since
    loading unless the caller still keeps earlier results, which then keep that memory and fresh memory replaces it.

    Calls from several threads take turns. After a fork the child has to load the artifact itself. A failed run leaves
    the runner usable: the next call starts afresh.
    """

    def __init__(
        self, artifact: Artifact, plan_index: int, threads: int | None = None, placement: Placement | None = None
    ) -> None:
        plan = artifact.plan(plan_index)
        self._artifact = artifact
        self._plan_index = plan_index
        self._lock = threading.Lock()
        self._budget_bytes = plan.budget_bytes
        self._shapes: tuple[Shape, ...] | None = None
        self._executor = Executor(artifact, plan_index, plan, choose_threads(plan.threads, threads), placement)
        self._finalizer = weakref.finalize(self, _release, self._executor, artifact)
        self.inputs: tuple[TensorInfo, ...] = plan.inputs
        self.outputs: tuple[TensorInfo, ...] = plan.outputs
        self._inputs = Inputs(plan.inputs, plan.dimensions)
        self._results: Outputs | None = None
        try:
            self._results = Outputs(plan.outputs, plan.dimensions)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Run once; returns one array, or a tuple in output order. InputError for a wrong name, dtype or shape."""
        results = self._run(self._inputs.order(args, kwargs))
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, inputs: Mapping[str, object]) -> dict[str, Array]:
        """Run once with named inputs; returns the outputs by name."""
        results = self._run(self._inputs.order((), inputs))
        return {tensor.name: array for tensor, array in zip(self.outputs, results, strict=True)}

    @property
    def plan(self) -> PlanView:
        """The plan, decoded from the file at each use so that it is not held."""
        return PlanView(self._decode())

    def profile(self, *args: object, **kwargs: object) -> list[tuple[str, float]]:
        """Run once and tell for each command what it did and the seconds it took; for finding out, not for serving."""
        plan = self._decode()
        with self._lock:
            _, _, alive = self._bind(self._inputs.order(args, kwargs))
            first = len(plan.prologue)
            timings = self._executor.run_timed(first + len(plan.commands))[first:]
            del alive
        return [(command_name(plan, c), ns / 1e9) for c, ns in zip(plan.commands, timings, strict=True)]

    def stats(self) -> dict[str, Any]:
        """Of the last run: `seconds`, `stall_seconds`, `bytes_read` by tier; and `high_water_bytes` by purpose."""
        wall_ns, stall_ns, blocks, gathered = self._executor.statistics()
        held = self.held_bytes()
        return {
            "seconds": wall_ns / 1e9,
            "stall_seconds": stall_ns / 1e9,
            "bytes_read": {"disk": blocks + gathered},
            "gathered_bytes": gathered,
            "budget_bytes": self._budget_bytes,
            "peak_bytes": sum(held.values()),
            "high_water_bytes": held,
        }

    def held_bytes(self) -> dict[str, int]:
        """Bytes mapped for each purpose; constant from load to close."""
        return {**self._executor.held_bytes(), "outputs": self._results.bytes if self._results else 0}

    def measured_bytes(self) -> int:
        """Bytes that the runner really holds in memory now, asked of the kernel page by page."""
        with self._lock:
            outputs = self._results.measured_bytes() if self._results else 0
            return outputs + sum(self._executor.measured_bytes().values())

    def rest(self) -> None:
        """Join the threads and keep only what is resident, so that another plan may use the arena, until `wake`."""
        with self._lock:
            self._executor.rest()

    def wake(self) -> None:
        """Start the threads again."""
        with self._lock:
            self._executor.wake()

    def close(self) -> None:
        """Join the threads and give everything back; results that the caller holds stay valid."""
        with self._lock:
            self._results = None
            self._finalizer()

    def _run(self, values: Sequence[object]) -> list[Array]:
        with self._lock:
            results, taken, alive = self._bind(values)
            self._executor.run()
            del alive
            return results.views(taken)

    def _bind(self, values: Sequence[object]) -> tuple[Outputs, OutputSet, list[object]]:
        """Put the addresses of inputs and results in place; what is returned last must live until the run is over."""
        results = self._open_results()
        addresses, shapes, alive = self._inputs.bind(values)
        if shapes != self._shapes:
            self._resize(results, shapes)
        taken = results.take()
        self._executor.boundary[:] = addresses + results.addresses(taken)
        return results, taken, alive

    def _resize(self, outputs: Outputs, shapes: tuple[Shape, ...]) -> None:
        self._shapes = None
        dims = self._inputs.dims(shapes)
        self._executor.resize(dims)
        outputs.resize(dims)
        self._shapes = shapes

    def _open_results(self) -> Outputs:
        if self._results is None:
            raise UllageError("the runner is closed.")
        return self._results

    def _decode(self) -> Plan:
        self._open_results()
        return self._artifact.plan(self._plan_index)


def command_name(plan: Plan, command: Command) -> str:
    """What a command does, in words: the step's name, or the constant and first tile that is read or waited for."""
    if isinstance(command, Launch | Gather):
        return plan.step_names[command.step] if plan.step_names else f"step {command.step}"
    block = plan.blocks[command.block]
    verb = "read" if isinstance(command, Read) else "wait"
    return f"{verb} {plan.constants[block.constant].name}[{block.first_tile}]"


def _release(executor: Executor, artifact: Artifact) -> None:
    executor.close()
    artifact.close()
