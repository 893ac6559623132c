"""Names of schemes, as users write them (no torch in here: options are checked before anything is imported)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WEIGHTS = re.compile(r"int(8|4|3|2)-weights(?:/(32|64|128|256))?")
NAMES = (
    "bfloat16, int8, int8-weights, int4-weights, int3-weights, int2-weights (with /32, /64, /128 or /256 for the group)"
)
_GROUP = 32


@dataclass(frozen=True, slots=True)
class Scheme:
    """`kind` is bfloat16, int8 or weights; `bits` and `group` are those of weights."""

    kind: str
    bits: int = 0
    group: int = 0


def parse_scheme(name: object) -> Scheme | None:
    """The scheme of a name such as `int8` or `int4-weights/64`; None if there is none."""
    if not isinstance(name, str):
        return None
    if name in ("bfloat16", "int8"):
        return Scheme(name)
    match = _WEIGHTS.fullmatch(name)
    return None if match is None else Scheme("weights", int(match[1]), int(match[2] or _GROUP))
