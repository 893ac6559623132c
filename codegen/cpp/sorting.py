"""C++ text of a stage that sorts: items of keys and positions are made, and sorted by `sort.h`."""

from __future__ import annotations

from ullage.codegen.cpp.scope import Scope
from ullage.codegen.cpp.vector_loops import open_loop
from ullage.codegen.loops.ir import Sort, Stage, Var
from ullage.codegen.loops.sorting import room

SORT_HEADER = "sort.h"
_KEYS = {
    "float64": "ull_key_f64", "float32": "ull_key_f32", "float16": "ull_key_f32", "bfloat16": "ull_key_f32",
    "int64": "ull_key_i64", "bool": "ull_key_bool",
}  # fmt: skip


def sort_stage(scope: Scope, stage: Stage) -> None:
    """The positions of one row in order, in the local buffer of the sort."""
    (loop,), (sort,) = stage.loops, stage.body
    assert isinstance(sort, Sort)
    order, kind = scope.buffers[sort.order], "ull_item64" if sort.value.dtype in ("int64", "float64") else "ull_item32"
    scope.open("")
    held, count = scope.scalar(room(loop.extent, sort.count)), scope.scalar(sort.count)
    least = scope.fresh()
    scope.line(f"ull_least<{kind}> {least}({order}, {held}, {count});")
    open_loop(scope, loop)
    key = f"{_KEYS.get(sort.value.dtype, 'ull_key_i32')}({scope.scalar(sort.value)})"
    at = scope.scalar(Var(loop.var))
    scope.line(f"{least}.take({kind}::of({'~' if sort.descending else ''}{key}, {at}));")
    scope.close()
    scope.line(f"{least}.finish({order});")
    scope.close()
