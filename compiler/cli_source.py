"""What a user may write for `--input` and `--dynamic`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ullage.errors import InputError

_INPUT = re.compile(r"(?P<name>[^=\[\]]+)=(?P<dtype>\w+)\[(?P<shape>[\d,\s]*)\]")
_DYNAMIC = re.compile(r"(?P<name>.+)\.(?P<axis>\d+)=(?P<low>\d+)\.\.(?P<high>\d+)")
_DTYPES = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "uint16", "uint32", "uint64",
)  # fmt: skip

InputSpecs = dict[str, tuple[str, tuple[int, ...]]]
Ranges = dict[str, dict[int, tuple[int, int]]]


def parse_inputs(texts: Iterable[str]) -> InputSpecs | None:
    """`x=float32[1,3,224,224]`, one per input, as dtype and shape by name; None without any."""
    declared = [_parse_input(text) for text in texts]
    names = [name for name, _ in declared]
    if len(set(names)) != len(names):
        raise InputError(f"--input names an input twice: {', '.join(names)}.")
    return dict(declared) or None


def _parse_input(text: str) -> tuple[str, tuple[str, tuple[int, ...]]]:
    match = _INPUT.fullmatch(text.strip())
    if match is None or match["dtype"] not in _DTYPES:
        raise InputError(f"--input {text!r}: name=dtype[shape] wanted, such as x=float32[1,3,224,224].")
    shape = tuple(int(size) for size in match["shape"].split(",") if size.strip())
    if 0 in shape:
        raise InputError(f"--input {text!r}: every dimension must be at least 1.")
    return match["name"].strip(), (match["dtype"], shape)


def parse_ranges(texts: Iterable[str]) -> Ranges | None:
    """`x.0=1..32`, one per dynamic dimension, as bounds by input and axis; None without any."""
    ranges: Ranges = {}
    for text in texts:
        match = _DYNAMIC.fullmatch(text.strip())
        if match is None or not 1 <= int(match["low"]) <= int(match["high"]):
            raise InputError(f"--dynamic {text!r}: name.axis=low..high wanted, such as x.0=1..32.")
        ranges.setdefault(match["name"], {})[int(match["axis"])] = (int(match["low"]), int(match["high"]))
    return ranges or None
