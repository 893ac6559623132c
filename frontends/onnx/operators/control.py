"""Control flow: branches and loops whose conditions and counts are known are walked; others cannot be planned yet."""

from __future__ import annotations

from typing import Any

import torch

from ullage.frontends.onnx.table import Call, operator
from ullage.frontends.onnx.values import Known, known

Tensor = torch.Tensor


@operator("If", ignores=("then_branch", "else_branch"))
def _if(call: Call) -> Any:
    """A branch by a known condition; by a computed one where both branches give tensors of equal shape."""
    condition = call.value(0)
    if isinstance(condition, Known):
        chosen = "then_branch" if bool(call.scalar(0)) else "else_branch"
        return tuple(call.run(call.attribute(chosen), ()))
    yes, no = (call.run(call.attribute(name), ()) for name in ("then_branch", "else_branch"))
    return tuple(_chosen(call, condition, a, b) for a, b in zip(yes, no, strict=True))


def _chosen(call: Call, condition: Tensor, yes: Any, no: Any) -> Tensor:
    a, b = (value.as_tensor() if isinstance(value, Known) else value for value in (yes, no))
    plain = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    if not plain or a.shape != b.shape or a.dtype != b.dtype:
        raise call.computed(0, "the branches of a computed condition give values of different shapes")
    return torch.where(condition.reshape(()), a, b)


@operator("Loop")
def _loop(call: Call) -> Any:
    """Walked step by step: the number of steps must be known."""
    body = call.attribute("body")
    most = call.scalar(0, None)
    condition: Any = call.value(1) if call.has(1) else known(True, torch.bool)
    state = list(call.inputs[2:])
    scanned: list[list[Tensor]] = [[] for _ in range(len(body.outputs) - 1 - len(state))]
    step = 0
    while (most is None or step < most) and _holds(call, condition):
        results = call.run(body, (known(step, torch.int64), condition, *state))
        condition, state, rest = results[0], results[1 : 1 + len(state)], results[1 + len(state) :]
        for collected, value in zip(scanned, rest, strict=True):
            collected.append(_tensor(value))
        step += 1
    return (*state, *(_stacked(call, values) for values in scanned))


def _holds(call: Call, condition: Any) -> bool:
    if condition is None:
        return True
    if not isinstance(condition, Known):
        raise call.computed(
            1, "whether a loop goes on is computed from data; a plan needs a number of steps that is known"
        )
    return bool(condition.array.reshape(-1)[0])


def _tensor(value: Any) -> Tensor:
    tensor = value.as_tensor() if isinstance(value, Known) else value
    assert isinstance(tensor, torch.Tensor)
    return tensor


def _stacked(call: Call, values: list[Tensor]) -> Tensor:
    if not values:
        raise call.error("a loop of no steps gives no shape for what it collects")
    return torch.stack(values)


@operator("Scan", since=8)
def _scan_of_batches(call: Call) -> Any:
    """Of opset 8: every input has a batch dimension in front, whose elements are scanned one by one."""
    body, count, carried = call.attribute("body"), call.attribute("num_scan_inputs"), call.count - 1
    if call.value(0) is not None:
        raise call.error("sequences of different lengths are not supported")
    carried -= count
    backwards = call.attribute("directions", [0] * count)
    inputs = [call.tensor(i) for i in range(1, call.count)]
    results = []
    for item in range(int(inputs[0].shape[0])):
        own = [x.select(0, item) for x in inputs]
        state, outputs = _scanned(call, body, own[:carried], own[carried:], [0] * count, backwards)
        results.append([*state, *(torch.stack(values) for values in outputs)])
    return tuple(torch.stack([_tensor(x) for x in column]) for column in zip(*results, strict=True))


def _scanned(
    call: Call, body: Any, state: list[Any], sources: list[Tensor], axes: list[int], backwards: list[int]
) -> tuple[list[Any], list[list[Tensor]]]:
    """The last state and what each step gave."""
    steps, carried = int(sources[0].shape[axes[0]]), len(state)
    outputs: list[list[Tensor]] = [[] for _ in range(len(body.outputs) - carried)]
    for step in range(steps):
        parts = [
            x.select(axis, steps - 1 - step if back else step)
            for x, axis, back in zip(sources, axes, backwards, strict=True)
        ]
        results = call.run(body, (*state, *parts))
        state = results[:carried]
        for collected, value in zip(outputs, results[carried:], strict=True):
            collected.append(_tensor(value))
    return state, outputs


@operator("Scan", since=9)
def _scan(call: Call) -> Any:
    """Walked step by step over the scanned inputs."""
    body, count = call.attribute("body"), call.attribute("num_scan_inputs")
    carried = call.count - count
    state, sources = list(call.inputs[:carried]), [call.tensor(i) for i in range(carried, call.count)]
    axes = call.attribute("scan_input_axes", [0] * count)
    backwards = call.attribute("scan_input_directions", [0] * count)
    state, outputs = _scanned(call, body, state, sources, axes, backwards)
    out_axes = call.attribute("scan_output_axes", [0] * len(outputs))
    reverse = call.attribute("scan_output_directions", [0] * len(outputs))
    return (*state, *(torch.stack(v[::-1] if r else v, a) for v, a, r in zip(outputs, out_axes, reverse, strict=True)))
