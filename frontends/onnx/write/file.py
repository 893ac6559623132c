"""The file of a model: one pass from front to back, each constant read and written piece by piece.

A protocol buffer is a sequence of fields, and a repeated field may come in any place, so the constants of a graph can
follow the rest of it, each with its length known beforehand. What does not fit into 2 GiB, the most that readers take,
lies in a second file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from ullage.frontends.onnx.write.model import OnnxModel
from ullage.frontends.onnx.write.types import onnx_type
from ullage.graph.constants import ConstantRef

EMBEDDED_BYTES = (1 << 31) - (1 << 24)
"""Constants of more bytes than this in all go to a file of their own."""
PIECE_BYTES = 16 << 20
"""So much of a constant is in memory at a time."""
_ALIGNMENT = 4096
_GRAPH, _INITIALIZER, _RAW_DATA = (7 << 3) | 2, (5 << 3) | 2, (9 << 3) | 2
"""Tags of the fields ModelProto.graph, GraphProto.initializer, TensorProto.raw_data: number and wire type."""


def write_file(written: OnnxModel, path: Path, embedded_bytes: int = EMBEDDED_BYTES) -> tuple[Path, ...]:
    """Write a model to `path`, and constants of more than `embedded_bytes` in all beside it, to `path` + `.data`.

    Returns the files, the model first. They appear under their names when all are complete; what fails leaves none.
    """
    total = sum(ref.nbytes for ref in written.weights.values())
    names = [path] if total <= embedded_bytes else [path.with_name(f"{path.name}.data"), path]
    parts = {name: name.with_name(f".{name.name}.{os.getpid()}.part") for name in names}
    try:
        if len(names) > 1:
            _put(parts[names[0]], _data(written))
        _put(parts[path], _model(written, names[0].name if len(names) > 1 else None))
        for name, part in parts.items():
            os.replace(part, name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return tuple(reversed(names))


def _put(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _model(written: OnnxModel, data: str | None) -> Iterator[bytes]:
    """The bytes of the model; constants are inside, or refer to the file `data`."""
    proto = ir.serde.serialize_model(written.model)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    heads = _heads(written, data)
    bodies = {name: 0 if data else ref.nbytes for name, ref in written.weights.items()}
    starts = {name: _start(head, bodies[name], data is None) for name, head in heads.items()}
    yield proto.SerializeToString()
    yield _field(_GRAPH, len(graph) + sum(len(start) + bodies[name] for name, start in starts.items()))
    yield graph
    for name, start in starts.items():
        yield start
        if data is None:
            yield from pieces_of(written.weights[name])


def _heads(written: OnnxModel, data: str | None) -> dict[str, bytes]:
    """The description of each constant."""
    heads, position = {}, 0
    for name, ref in written.weights.items():
        head = onnx.TensorProto(name=name, dims=ref.shape, data_type=int(onnx_type(ref.dtype, name)))
        if data is not None:
            position = _aligned(position)
            place = {"location": data, "offset": position, "length": ref.nbytes}
            head.data_location = onnx.TensorProto.EXTERNAL
            head.external_data.extend(onnx.StringStringEntryProto(key=k, value=str(v)) for k, v in place.items())
            position += ref.nbytes
        heads[name] = head.SerializeToString()
    return heads


def _start(head: bytes, body: int, inside: bool) -> bytes:
    """What stands before the values of a constant."""
    raw = _field(_RAW_DATA, body) if inside else b""
    return _field(_INITIALIZER, len(head) + len(raw) + body) + head + raw


def _data(written: OnnxModel) -> Iterator[bytes]:
    position = 0
    for ref in written.weights.values():
        yield bytes(_aligned(position) - position)
        yield from pieces_of(ref)
        position = _aligned(position) + ref.nbytes


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


def pieces_of(ref: ConstantRef) -> Iterator[bytes]:
    """The values of a constant in row-major order, rows of the first dimension at a time."""
    if not ref.shape or ref.nbytes <= PIECE_BYTES:
        yield _bytes(ref.read())
        return
    rest = tuple(slice(0, n) for n in ref.shape[1:])
    step = max(1, PIECE_BYTES * ref.shape[0] // ref.nbytes)
    for start in range(0, ref.shape[0], step):
        yield _bytes(ref.read((slice(start, min(start + step, ref.shape[0])), *rest)))


def _bytes(values: torch.Tensor) -> bytes:
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _field(tag: int, length: int) -> bytes:
    """A tag and the length of what follows, as base-128 numbers."""
    return _number(tag) + _number(length)


def _number(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
