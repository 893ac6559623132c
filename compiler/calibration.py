"""Samples that lossy rewrites are judged on: calibration inputs, else the model's example inputs, else random ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ullage.calling import Convention
from ullage.errors import CalibrationError, InputError
from ullage.graph.captured import CapturedModel
from ullage.reference import Tensors, as_tensor, random_inputs


def samples_of(
    captured: CapturedModel, convention: Convention, calibration: Iterable[object] | None, examples: Tensors | None
) -> tuple[Tensors, ...]:
    """Input tensors by name for each item of `calibration` (else the examples, else random inputs of a fixed seed).

    An item is a tuple of arguments, a dict of keyword arguments or of input names, one tensor, or the path of an .npz
    file with an array per input. Raises CalibrationError if an item does not fit the model, or if there are none.
    """
    if calibration is None:
        return (examples if examples is not None else random_inputs(captured),)
    samples = tuple(_sample(captured, convention, item, number) for number, item in enumerate(calibration))
    if not samples:
        raise CalibrationError("calibration has no inputs; give at least one, or leave it out.")
    return samples


def _sample(captured: CapturedModel, convention: Convention, item: object, number: int) -> Tensors:
    try:
        tensors = _bound(captured, convention, item)
        _check(captured, tensors)
    except (InputError, OSError, ValueError) as error:
        raise CalibrationError(f"calibration input {number} does not fit the model: {error}") from error
    return tensors


def _bound(captured: CapturedModel, convention: Convention, item: object) -> Tensors:
    if isinstance(item, str | Path):
        return _from_file(captured, Path(item))
    if isinstance(item, Mapping):
        names = {spec.name for spec in captured.inputs}
        if set(item) == names and all(isinstance(value, torch.Tensor) for value in item.values()):
            return {str(name): value for name, value in item.items()}
        return convention.bind((), {str(name): value for name, value in item.items()})
    arguments: tuple[Any, ...] = tuple(item) if isinstance(item, tuple | list) else (item,)
    return convention.bind(arguments, {})


def _from_file(captured: CapturedModel, path: Path) -> Tensors:
    from ullage.arrays import read_arrays

    arrays = read_arrays(path, [spec.name for spec in captured.inputs])
    missing = [spec.name for spec in captured.inputs if spec.name not in arrays]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; it has {', '.join(arrays)}.")
    return {spec.name: as_tensor(arrays[spec.name], spec.dtype) for spec in captured.inputs}


def _check(captured: CapturedModel, tensors: Tensors) -> None:
    for spec in captured.inputs:
        found = tensors[spec.name]
        static = [n for n in spec.shape if isinstance(n, int)]
        same = [m for n, m in zip(spec.shape, found.shape, strict=False) if isinstance(n, int)]
        if found.dtype != spec.dtype or found.dim() != len(spec.shape) or static != same:
            shape = ", ".join(map(str, spec.shape))
            raise InputError(
                f"{spec.name} must be {spec.dtype} of shape [{shape}], found {found.dtype} of {list(found.shape)}."
            )
