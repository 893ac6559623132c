"""Safetensors files as constant sources: only the header is read (format: 8 bytes of length, JSON, then the data)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ullage.errors import CaptureError
from ullage.graph.sources import FileSlice, FileStamp

_HEADER_LIMIT_BYTES = 100_000_000
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def open_file(path: Path) -> dict[str, FileSlice]:
    """Every tensor of one file by name; raises CaptureError for a file that is damaged or of another format."""
    stamp = FileStamp.of(path)
    header, start = _header(path, stamp.size)
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            tensors[name] = _tensor(path, stamp, start, name, entry)
    return tensors


def open_folder(folder: Path) -> dict[str, FileSlice]:
    """Every tensor of a model folder: one `model.safetensors`, or the shards that its index lists."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = sorted({str(file) for file in _weight_map(index).values()})
        return {name: source for file in files for name, source in open_file(_inside(folder, file)).items()}
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    chosen = "model.safetensors" if "model.safetensors" in files else files[0] if len(files) == 1 else None
    if chosen is None:
        found = f"found {', '.join(files)}" if files else "found none"
        raise CaptureError(
            f"{folder} needs model.safetensors or model.safetensors.index.json, {found}; "
            "weights of other formats can be saved anew with save_pretrained."
        )
    return open_file(folder / chosen)


def _weight_map(index: Path) -> Mapping[str, Any]:
    try:
        entries = json.loads(index.read_bytes())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaptureError(f"{index} is no index of safetensors shards: {error}.") from error
    if not isinstance(entries, dict):
        raise CaptureError(f"{index} is no index of safetensors shards: weight_map is no object.")
    return entries


def _inside(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise CaptureError(f"the index in {folder} names {name!r}, which lies outside the folder.")
    return folder / name


def _header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT_BYTES):
            raise CaptureError(f"{path} is no whole safetensors file: its header does not fit its {size} bytes.")
        text = file.read(length)
    try:
        header = json.loads(text)
    except ValueError as error:
        raise CaptureError(f"{path} is no safetensors file: its header is not JSON.") from error
    if not isinstance(header, dict):
        raise CaptureError(f"{path} is no safetensors file: its header is no JSON object.")
    return header, 8 + length


def _tensor(path: Path, stamp: FileStamp, start: int, name: str, entry: Any) -> FileSlice:
    try:
        dtype, shape = _DTYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"])
        first, last = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CaptureError(f"{path} describes tensor {name!r} in a way that is not understood: {error}.") from error
    if any(n < 0 for n in shape) or not 0 <= first <= last or last - first != math.prod(shape) * dtype.itemsize:
        raise CaptureError(f"{path} is damaged: tensor {name!r} of shape {shape} does not fit its bytes.")
    if start + last > stamp.size:
        raise CaptureError(f"{path} is cut short: tensor {name!r} ends at byte {start + last} of {stamp.size}.")
    return FileSlice(path, start + first, dtype, shape, stamp)
