"""Sequences of tensors and optional values, which exist only while the graph is walked."""

from __future__ import annotations

from typing import Any

import torch

from ullage.frontends.onnx.table import Call, operator
from ullage.frontends.onnx.values import Known, known

Tensor = torch.Tensor


def _tensors(call: Call, position: int = 0) -> list[Tensor]:
    values = call.value(position)
    if not isinstance(values, list):
        raise call.error(f"input {position} is no sequence")
    return [value.as_tensor() if isinstance(value, Known) else value for value in values]


@operator("SequenceEmpty", ignores=("dtype",))
def _empty(call: Call) -> Any:
    return ([],)


@operator("SequenceConstruct")
def _construct(call: Call) -> Any:
    return (list(call.inputs),)


@operator("SequenceInsert")
def _insert(call: Call) -> Any:
    values = list(call.value(0))
    values.insert(int(call.scalar(2, len(values))), call.value(1))
    return (values,)


@operator("SequenceErase")
def _erase(call: Call) -> Any:
    values = list(call.value(0))
    del values[int(call.scalar(1, -1))]
    return (values,)


@operator("SequenceAt")
def _at(call: Call) -> Any:
    return call.value(0)[int(call.scalar(1))]


@operator("SequenceLength")
def _length(call: Call) -> Any:
    return known(len(call.value(0)), torch.int64)


@operator("ConcatFromSequence")
def _concat(call: Call) -> Tensor:
    axis = call.attribute("axis")
    return torch.stack(_tensors(call), axis) if call.attribute("new_axis", 0) else torch.cat(_tensors(call), axis)


@operator("SplitToSequence")
def _split(call: Call) -> Any:
    x, axis, keep = call.tensor(), call.attribute("axis", 0), call.attribute("keepdims", 1)
    if not call.has(1):
        parts = list(torch.split(x, 1, axis))
        return ([part if keep else part.squeeze(axis) for part in parts],)
    lengths = call.numbers(1)
    return (list(torch.split(x, lengths if call.known(1).array.ndim else int(lengths[0]), axis)),)


@operator("SequenceMap")
def _map(call: Call) -> Any:
    body, values = call.attribute("body"), call.value(0)
    results = []
    for i, value in enumerate(values):
        more = [other[i] if isinstance(other, list) else other for other in call.inputs[1:]]
        results.append(call.run(body, (value, *more)))
    return tuple(list(column) for column in zip(*results, strict=True))


@operator("Optional", ignores=("type",))
def _optional(call: Call) -> Any:
    return (call.value(0) if call.has(0) else None,)


@operator("OptionalHasElement")
def _has_element(call: Call) -> Any:
    return known(call.value(0) is not None, torch.bool)


@operator("OptionalGetElement")
def _get_element(call: Call) -> Any:
    if not call.has(0):
        raise call.error("the optional value is empty")
    return (call.value(0),)
