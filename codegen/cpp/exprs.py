"""Epilogues of template kernels: the stores that consume one vector of accumulators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ullage.codegen.cpp.blocks import Lane
from ullage.codegen.cpp.ops import STORAGE
from ullage.codegen.cpp.scope import Scope
from ullage.codegen.loops.ir import Load, Store
from ullage.codegen.loops.poly import unique
from ullage.target import Target

__all__ = ["Lane", "Scope", "emit_epilogue"]


def emit_epilogue(
    stores: Sequence[Store],
    target: Target,
    *,
    coords: Mapping[str, str],
    lane_var: str,
    lane_base: str,
    acc: str,
    lanes_valid: str | None,
    buffers: Mapping[str, str],
    prefix: str = "e",
) -> tuple[str, str]:
    """(row_setup, body): C++ statements that store one vector of `target.lanes` outputs.

    `coords` gives C++ names of scalar coordinates and of dimensions; `lane_var` has the value `lane_base` + lane;
    `acc` is a C++ vector `ull_f32<lanes>`; only the first `lanes_valid` lanes are loaded and stored (all if None).
    `buffers` maps names to C++ pointers of any type. `row_setup` uses only `coords` and buffers that are not written,
    and declares names that start with `prefix`: put it once per row, then `body` (a braced block) per vector. Bodies
    with and without `lanes_valid` for one row need different prefixes.
    """
    changing = frozenset(s.buffer for s in stores)
    scope = Scope(_typed(stores, buffers), changing, prefix)
    scope.open(None)
    for name, text in coords.items():
        scope.bind(name, text)
    scope.open(None, lane=Lane(lane_var, lane_base, target.lanes, lanes_valid))
    scope.bind("acc", acc, target.lanes)
    for statement in [scope.store(s.buffer, s.index, s.value) for s in stores]:
        scope.line(statement)
    body = scope.close()
    return _join(scope.close()), "{\n" + _join("    " + line for line in body) + "}\n"


def _typed(stores: Sequence[Store], buffers: Mapping[str, str]) -> dict[str, str]:
    """Pointers cast to the storage types that the epilogue uses."""
    dtypes = {s.buffer: s.value.dtype for s in stores}
    for store in stores:
        for expr in (*unique(store.index), *unique(store.value)):
            if isinstance(expr, Load):
                dtypes.setdefault(expr.buffer, expr.dtype)
    return {name: f"(({STORAGE[dtype]} *)({buffers[name]}))" for name, dtype in dtypes.items()}


def _join(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
