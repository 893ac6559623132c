"""Fetching what an epilogue reads before the sums that it waits for are formed."""

from __future__ import annotations

from collections.abc import Sequence

from ullage.codegen.cpp.templates.tile_kernel import Names, indent, scalar
from ullage.codegen.loops.ir import DTYPE_BYTES, Expr, Load, Store, Var, walk

_LINE_BYTES = 64
_M, _N = Var("m"), Var("n")


def fetch_rows(stores: Sequence[Store], names: Names, m: str, batch: str, width: int, ready: str = "") -> list[str]:
    """Lines that prefetch `width` outputs of each of the `rows` rows, for all loads that depend on both row and output.

    `m` is C++ text in terms of the row `i` of the tile, `batch` that of coordinate b; with `ready`, a C++ condition,
    only where that holds. A prefetch never faults, so outputs beyond the last one do no harm.
    """
    loads = dict.fromkeys(
        (e.buffer, e.index, e.dtype) for s in stores for e in walk(s.value) if isinstance(e, Load) and _per_output(e)
    )
    lines = [
        line
        for number, (buffer, index, dtype) in enumerate(loads)
        for line in _fetch(number, names.buffers[buffer], index, DTYPE_BYTES[dtype], names, m, batch, width)
    ]
    if not lines:
        return []
    head = f"if ({ready}) for" if ready else "for"
    return [f"{head} (ull_i64 i = 0; i < rows; ++i) {{", *indent(lines), "}"]


def fetches(stores: Sequence[Store]) -> bool:
    """Whether there is anything to fetch early."""
    return any(isinstance(e, Load) and _per_output(e) for s in stores for e in walk(s.value))


def _per_output(load: Load) -> bool:
    parts = set(walk(load.index))
    return load.mask is None and _M in parts and _N in parts and not any(isinstance(e, Load) for e in parts)


def _fetch(number: int, buffer: str, index: Expr, size: int, names: Names, m: str, batch: str, width: int) -> list[str]:
    coords = {"b": batch, "m": f"({m})", "n": "n_begin"}
    at = f"fetch{number}"
    return [
        *scalar(at, index, names, coords),
        f"for (ull_i64 byte = 0; byte < {width * size}; byte += {_LINE_BYTES})",
        f"  __builtin_prefetch((const char *){buffer} + {at} * {size} + byte);",
    ]
