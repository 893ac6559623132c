"""Loads and stores of vectors: contiguous, repeated, strided or scattered, masked or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ullage.codegen.cpp import ops
from ullage.codegen.loops.ir import Apply, Cast, Const, Expr, Load, Ref
from ullage.codegen.loops.poly import Poly, linear_in, to_expr, to_poly, unique

if TYPE_CHECKING:
    from ullage.codegen.cpp.scope import Scope


def load_text(scope: Scope, load: Load, n: int) -> str:
    """C++ text of a load into registers, N lanes or a scalar."""
    if n == 1:
        return _load_scalar(scope, load)
    if load.mask is None:
        return ops.loaded_text(_load_lanes(scope, load, n, None), load.dtype, n)
    other = ops.splat_text(ops.literal(load.other, load.dtype), load.dtype, n)
    if not scope.varies(load.mask):
        loaded = ops.loaded_text(_load_lanes(scope, load, n, None), load.dtype, n)
        return f"{scope.emit(load.mask, 1)} ? {loaded} : {other}"
    mask = scope.emit(load.mask, n)
    bits = scope.name("unsigned", _and_valid(scope, f"ull_mask_bits<{n}>({mask})"), scope.depth_of(load.mask))
    loaded = ops.loaded_text(_load_lanes(scope, load, n, bits), load.dtype, n)
    return f"ull_select<{n}>({mask}, {loaded}, {other})"


def _load_scalar(scope: Scope, load: Load) -> str:
    index = scope.index(to_poly(load.index))
    text = ops.loaded_text(f"{scope.buffers[load.buffer]}[{index}]", load.dtype, 1)
    if load.mask is None:
        return text
    return f"{scope.emit(load.mask, 1)} ? {text} : {ops.literal(load.other, load.dtype)}"


def _and_valid(scope: Scope, bits: str) -> str:
    assert scope.lane is not None
    return bits if scope.lane.valid is None else f"{bits} & ull_low_bits({scope.lane.valid})"


def _load_lanes(scope: Scope, load: Load, n: int, bits: str | None) -> str:
    assert scope.lane is not None
    kind, valid = f"{ops.STORAGE[load.dtype]}, {n}", scope.lane.valid
    if load.buffer in scope.interleaved:
        return f"ull_load<{kind}>({_interleaved_place(scope, load.buffer, load.index)})"
    tile = scope.tiles.get(scope.numbering(load))
    if tile is not None:
        return f"ull_load<{kind}>({tile})"
    base = _contiguous_base(scope, load.index)
    if base is None:
        return _gather(scope, load, kind, bits)
    at = f"{scope.pointer(load.buffer, base)} + {scope.lane.base}"
    if bits is not None:
        return f"ull_load_bits<{kind}>({at}, {bits})"
    return f"ull_load<{kind}>({at})" if valid is None else f"ull_load_n<{kind}>({at}, {valid})"


def _interleaved_place(scope: Scope, buffer: str, index: Expr) -> str:
    """Pointer to the lanes of a local buffer at an index that is the same for all lanes."""
    assert scope.lane is not None
    distance = scope.interleaved[buffer]
    return f"{scope.buffers[buffer]} + {scope.index(to_poly(index) * Poly.constant(distance))} + {scope.lane.slot}"


def _contiguous_base(scope: Scope, index: Expr) -> Poly | None:
    """The index without the lane variable if lanes are neighbours, else None."""
    assert scope.lane is not None
    split = linear_in(to_poly(index), scope.lane.var)
    if split is None or split[0].value != 1 or _refs_vary(scope, index):
        return None
    return split[1]


def _refs_vary(scope: Scope, expr: Expr) -> bool:
    return any(isinstance(e, Ref) and scope.bindings[e.name].lanes > 1 for e in unique(expr))


def _gather(scope: Scope, load: Load, kind: str, bits: str | None) -> str:
    assert scope.lane is not None
    at, base = _index_of_lane(scope, load.index), scope.buffers[load.buffer]
    if bits is None and scope.lane.valid is not None:
        bits = f"ull_low_bits({scope.lane.valid})"
    return f"ull_gather_all<{kind}>({base}, {at})" if bits is None else f"ull_gather<{kind}>({base}, {bits}, {at})"


def _index_of_lane(scope: Scope, index: Expr) -> str:
    """A C++ lambda from the lane number to the index of that lane."""
    assert scope.lane is not None
    lane = scope.lane
    split = linear_in(to_poly(index), lane.var)
    if split is not None and not _refs_vary(scope, index):
        base, step = scope.index(split[1]), scope.index(split[0])
        return f"[&](ull_i64 l) {{ return {base} + ({lane.base} + l) * ({step}); }}"
    scope.open_scalar()
    scope.bind(lane.var, f"({lane.base} + l)")
    for ref in {e.name: e for e in unique(index) if isinstance(e, Ref)}.values():
        if (bound := scope.bindings[ref.name]).lanes > 1:
            scope.bind(ref.name, f"{bound.text}[l]")
    result = scope.emit(to_expr(to_poly(index)), 1)
    lines = scope.close()
    return f"[&](ull_i64 l) {{ {' '.join(lines)} return {result}; }}"


def store_text(scope: Scope, buffer: str, index: Expr, value: Expr) -> str:
    """The C++ statement that stores a value; the value is computed into the open blocks."""
    dtype, n = value.dtype, scope.lanes
    kind = f"{ops.STORAGE[dtype]}, {n}"
    stored = scope.name(f"ull_v<{kind}>", _stored_text(scope, value))
    if scope.lane is None:
        return f"{scope.buffers[buffer]}[{scope.index(to_poly(index))}] = {stored};"
    if buffer in scope.interleaved:
        return f"ull_store<{kind}>({_interleaved_place(scope, buffer, index)}, {stored});"
    if buffer in scope.stored_tiles:
        return f"ull_store<{kind}>({scope.stored_tiles[buffer]}, {stored});"
    valid, base = scope.lane.valid, _contiguous_base(scope, index)
    if base is None:
        return _scatter(scope, buffer, index, kind, stored)
    to = f"{scope.pointer(buffer, base)} + {scope.lane.base}"
    if valid is None:
        return f"ull_store<{kind}>({to}, {stored});"
    return f"ull_store_n<{kind}>({to}, {stored}, {valid});"


def masked_store_text(scope: Scope, buffer: str, index: Expr, value: Expr, mask: Expr) -> str:
    """The C++ statement that stores the lanes of a value for which a mask holds, each to its own place."""
    n = scope.lanes
    assert n > 1 and buffer not in scope.interleaved and buffer not in scope.stored_tiles, f"lanes of {buffer}"
    kind = f"{ops.STORAGE[value.dtype]}, {n}"
    stored = scope.name(f"ull_v<{kind}>", _stored_text(scope, value))
    bits = scope.name("unsigned", _and_valid(scope, f"ull_mask_bits<{n}>({scope.emit(mask, n)})"))
    return f"ull_scatter<{kind}>({scope.buffers[buffer]}, {stored}, {bits}, {_index_of_lane(scope, index)});"


def _stored_text(scope: Scope, value: Expr) -> str:
    """Lanes as stored of a value, without the roundings and cuts that storing makes anyway."""
    dtype, n = value.dtype, scope.lanes
    if (code := _code(value)) is not None:
        return ops.code_text(scope.value(code), n)
    if dtype in ops.HALVES:
        value = _before_rounding(value, dtype)
    elif dtype in ops.NARROW_INTEGERS:
        value = _before_wrapping(value)
    return ops.stored_text(scope.value(value), dtype, n)


def _code(value: Expr) -> Expr | None:
    """What is rounded to the nearest uint8, 255 if it is more, where it is known not to be negative."""
    match value:
        case Cast(Apply("round", (Apply("min", (Apply("max", (_, Const(low))) as least, Const(255))),)), "uint8"):
            return least if least.dtype == "float32" and low >= 0 else None
        case _:
            return None


def _before_rounding(value: Expr, dtype: str) -> Expr:
    """The value in a register that storing it rounds to `dtype`; roundings to that type before are the same one."""
    while isinstance(value, Cast) and ops.register_class(value.arg.dtype) == "f32":
        if value.dtype != dtype and value.arg.dtype != dtype:
            return value
        value = value.arg
    return value


def _before_wrapping(value: Expr) -> Expr:
    """A value of which a store keeps the low bits, as 32-bit integers."""
    if not isinstance(value, Cast) or ops.register_class(value.arg.dtype) == "mask":
        return value
    return Cast(value.arg, "int32")


def _scatter(scope: Scope, buffer: str, index: Expr, kind: str, stored: str) -> str:
    assert scope.lane is not None
    at, to = _index_of_lane(scope, index), scope.buffers[buffer]
    if scope.lane.valid is None:
        return f"ull_scatter_all<{kind}>({to}, {stored}, {at});"
    return f"ull_scatter<{kind}>({to}, {stored}, ull_low_bits({scope.lane.valid}), {at});"
