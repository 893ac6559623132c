"""Arrays in `.npz` and `.npy` files: read without pickle, written in pieces and under a temporary name."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ullage.errors import InputError

Array = NDArray[Any]
_PIECE_BYTES = 1 << 18


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Inputs by name from an `.npz`, or the only input from an `.npy`; raises InputError if the file is neither."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {_only(path, names): loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no readable .npz or .npy file: {error}.") from error


def _only(path: Path, names: Sequence[str]) -> str:
    if len(names) != 1:
        raise InputError(f"{path} holds one array, but the model has {len(names)} inputs: {', '.join(names)}.")
    return names[0]


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an `.npz`, or an `.npy` if the path ends so and there is one array; no copy of an array is made."""
    with replacing(path) as partial:
        if path.suffix != ".npy":
            _write_npz(partial, arrays)
        elif len(arrays) != 1:
            raise InputError(f"{path} can hold one array, but there are {len(arrays)}: use .npz.")
        else:
            with partial.open("wb") as file:
                _write_array(file, next(iter(arrays.values())))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour of `path` that takes its name at the end, or vanishes if the block fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                _write_array(file, array)


def _write_array(file: IO[bytes], array: Array) -> None:
    whole = np.ascontiguousarray(array).reshape(array.shape)
    header = np.lib.format.header_data_from_array_1_0(whole)
    np.lib.format.write_array_header_2_0(file, header)
    data = whole.reshape(-1).view(np.uint8).data
    for start in range(0, len(data), _PIECE_BYTES):
        file.write(data[start : start + _PIECE_BYTES])
