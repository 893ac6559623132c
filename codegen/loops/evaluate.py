"""A slow, obviously right interpreter of loop kernels over numpy: the truth for tests.

Every expression becomes one array [outer points, stage points]. bfloat16 buffers are arrays of uint16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ullage.codegen.loops.ir import (
    FLOATS,
    Apply,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    Loop,
    LoopKernel,
    Reduce,
    Ref,
    Scan,
    Sort,
    Stage,
    Store,
    Var,
)
from ullage.codegen.loops.normal import scatters
from ullage.codegen.loops.poly import unique
from ullage.codegen.loops.traverse import guard_nested

Array = NDArray[Any]
STORAGE = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int64": np.int64,
    "int32": np.int32, "int16": np.int16, "int8": np.int8, "uint8": np.uint8, "bool": np.bool_,
    "uint64": np.uint64, "uint32": np.uint32, "uint16": np.uint16,
}  # fmt: skip
_ERF = np.vectorize(math.erf, otypes=[np.float64])


def evaluate(kernel: LoopKernel, buffers: Mapping[str, Array], dims: Mapping[str, int], precise: bool = False) -> None:
    """Run a kernel in place on flat numpy buffers; with `precise`, floats are computed and kept in float64.

    Without `precise` every operator rounds to its dtype. Buffers have the storage dtype (float64 for floats if
    `precise`). Reductions run in row-major order.
    """
    with np.errstate(all="ignore"):
        _Run(guard_nested(kernel), dict(buffers), dict(dims), precise).run()


def to_bfloat16(values: Array) -> NDArray[np.uint16]:
    """The bits of float32 values rounded to bfloat16 (nearest even)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values.astype(np.float32)), (bits >> np.uint32(16)) | 0x40, rounded).astype(np.uint16)


def from_bfloat16(bits: Array) -> NDArray[np.float32]:
    """float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


class _Run:
    def __init__(self, kernel: LoopKernel, buffers: dict[str, Array], dims: dict[str, int], precise: bool) -> None:
        self.kernel, self.buffers, self.dims, self.precise = kernel, buffers, dims, precise
        self.dtypes = {b.name: b.dtype for b in kernel.buffers}
        self.names: dict[str, Array] = {}
        self.memo: dict[int, Array] = {}
        self.points = math.prod(self._extent(x) for x in kernel.outer)

    def run(self) -> None:
        """All stages, one after the other, for all outer points at once."""
        for b in self.kernel.buffers:
            if b.access == "local":
                assert b.elements is not None
                count = int(self._scalar(b.elements))
                self.buffers[b.name] = np.zeros((self.points, count), self._type(b.dtype))
        outer = self._grid(self.kernel.outer)
        for stage in self.kernel.stages:
            self._stage(stage, {name: values[:, None] for name, values in outer.items()})

    def _extent(self, loop: Loop) -> int:
        return int(self._scalar(loop.extent))

    def _scalar(self, expr: Expr) -> int:
        self.memo = {}
        return int(self._value(expr))

    def _grid(self, loops: tuple[Loop, ...]) -> dict[str, Array]:
        shape = [self._extent(x) for x in loops]
        grids = np.indices(shape).reshape(len(shape), math.prod(shape))
        return {x.var: g.astype(np.int64) for x, g in zip(loops, grids, strict=True)}

    def _stage(self, stage: Stage, outer: Mapping[str, Array]) -> None:
        count = math.prod(self._extent(x) for x in stage.loops)
        inner = self._grid(stage.loops)
        saved = dict(self.names)
        self.names.update(outer)
        if scatters(stage):
            self._one_by_one(stage, inner, count)
            self.names = saved
            return
        self.names.update({name: values[None, :] for name, values in inner.items()})
        results: dict[str, Array] = {}
        for s in stage.body:
            self.memo = {}
            shape = (self.points, count)
            value = np.broadcast_to(self._value(s.value), shape)
            if isinstance(s, Store):
                self._store(s, value, shape)
            elif isinstance(s, Sort):
                self._sort(s, value)
            elif isinstance(s, Reduce):
                results[s.name] = _reduce(s.op, value)
            else:
                self.names[s.name] = self._scanned(s, value, self._extent(stage.loops[-1]))
                results[s.name] = self.names[s.name][:, -1:]
        self.names = {**saved, **results}

    def _one_by_one(self, stage: Stage, inner: Mapping[str, Array], count: int) -> None:
        """Stores at places that are data: iterations in order, as they may meet."""
        for point in range(count):
            self.names.update({name: values[None, point : point + 1] for name, values in inner.items()})
            for s in stage.body:
                assert isinstance(s, Store), "nothing but stores beside stores at places that are data"
                self.memo = {}
                self._store(s, np.broadcast_to(self._value(s.value), (self.points, 1)), (self.points, 1))

    def _sort(self, s: Sort, value: Array) -> None:
        order = np.stack([_order(row, s.descending) for row in value]) if len(value) else value.astype(np.int64)
        count = self._scalar(s.count)
        self.buffers[s.order][:, :count] = order[:, :count]

    def _scanned(self, s: Scan, value: Array, last: int) -> Array:
        lines = (self.points, -1, last)
        if s.factor is None:
            return _scan(s.op, value.reshape(lines)).reshape(value.shape)
        start = np.asarray(0, value.dtype) if s.initial is None else self._value(s.initial)
        factor, initial = (np.broadcast_to(x, value.shape).reshape(lines) for x in (self._value(s.factor), start))
        return _recurrence(factor, value.reshape(lines), initial).reshape(value.shape)

    def _store(self, s: Store, value: Array, shape: tuple[int, int]) -> None:
        index = np.broadcast_to(self._value(s.index), shape)
        buffer = self.buffers[s.buffer]
        stored = self._to_storage(value, self.dtypes[s.buffer])
        if s.mask is not None:
            assert buffer.ndim == 1, "local buffers are stored to without a mask"
            mask = np.broadcast_to(self._value(s.mask), shape)
            index, stored = index[mask], stored[mask]
        if buffer.ndim == 2:
            buffer[np.arange(self.points)[:, None], index] = stored
        else:
            assert index.size == 0 or (index.min() >= 0 and index.max() < buffer.size), f"store outside {s.buffer}"
            buffer[index] = stored

    # ---- values -----------------------------------------------------------------------------------------------
    def _type(self, dtype: str) -> type[np.generic]:
        return np.float64 if self.precise and dtype in FLOATS else STORAGE[dtype]

    def _to_storage(self, value: Array, dtype: str) -> Array:
        return to_bfloat16(value) if dtype == "bfloat16" and not self.precise else value.astype(self._type(dtype))

    def _value(self, expr: Expr) -> Array:
        for e in reversed(unique(expr)):
            self._node(e)
        return self._node(expr)

    def _node(self, expr: Expr) -> Array:
        if id(expr) not in self.memo:
            self.memo[id(expr)] = self._compute(expr)
        return self.memo[id(expr)]

    def _compute(self, expr: Expr) -> Array:
        match expr:
            case Const(value, dtype):
                return self._round(np.asarray(value, np.float64 if dtype in FLOATS else STORAGE[dtype]), dtype)
            case Var(name) | Ref(name):
                return self.names[name]
            case Dim(name):
                return np.asarray(self.dims[name], np.int64)
            case Load():
                return self._load(expr)
            case Cast(arg, dtype):
                return self._cast(self._node(arg), arg.dtype, dtype)
            case Apply("bits", (arg,), dtype):
                return self._bits(self._node(arg), arg.dtype, dtype)
            case Apply(op, args, dtype):
                return self._round(_apply(op, args[-1].dtype, [self._node(a) for a in args]), dtype)

    def _bits(self, value: Array, source: str, dtype: str) -> Array:
        stored = to_bfloat16(value) if source == "bfloat16" else value.astype(STORAGE[source])
        found: Array = stored.view(STORAGE[dtype])
        return self._round(from_bfloat16(found) if dtype == "bfloat16" else found, dtype)

    def _round(self, value: Array, dtype: str) -> Array:
        """Values of a dtype; halves are held as float32 after rounding."""
        if self.precise and dtype in FLOATS:
            return value.astype(np.float64)
        if dtype == "bfloat16":
            return from_bfloat16(to_bfloat16(value))
        if dtype == "float16":
            return value.astype(np.float16).astype(np.float32)
        return value.astype(STORAGE[dtype])

    def _cast(self, value: Array, source: str, dtype: str) -> Array:
        if dtype == "bool":
            return np.asarray(value != 0)
        if source in FLOATS and dtype not in FLOATS:
            return value.astype(np.int64).astype(STORAGE[dtype])
        return self._round(value, dtype)

    def _load(self, load: Load) -> Array:
        buffer = self.buffers[load.buffer]
        index = self._node(load.index)
        mask = np.asarray(True) if load.mask is None else self._node(load.mask)
        index, mask = np.broadcast_arrays(index, mask)
        size = buffer.shape[-1]
        assert ((index >= 0) & (index < size) | ~mask).all(), f"load outside {load.buffer}"
        safe = np.where(mask, index, 0)
        if buffer.ndim == 2:
            safe, mask = np.broadcast_arrays(np.atleast_2d(safe), np.atleast_2d(mask))
            got = np.broadcast_to(buffer[np.arange(self.points)[:, None], safe], (self.points, safe.shape[1]))
        else:
            got = buffer[safe]
        values = from_bfloat16(got) if load.dtype == "bfloat16" and not self.precise else got
        held = np.float32 if load.dtype == "float16" and not self.precise else values.dtype
        return np.where(mask, values, np.asarray(load.other).astype(values.dtype)).astype(held)


def _order(row: Array, descending: bool) -> Array:
    """Positions in a stable order by Python's own sort, NaN the greatest."""
    key = [(x != x, 0 if x != x else x) for x in row.tolist()]
    return np.asarray(sorted(range(len(key)), key=key.__getitem__, reverse=descending), np.int64)


def _reduce(op: str, value: Array) -> Array:
    if op in ("argmax", "argmin"):
        f = np.argmax if op == "argmax" else np.argmin
        return np.asarray(f(value, axis=1))[:, None].astype(np.int64)
    functions: dict[str, Callable[..., Array]] = {
        "sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min, "any": np.any, "all": np.all,
    }  # fmt: skip
    kept = {"dtype": value.dtype} if op in ("sum", "prod") else {}
    return np.asarray(functions[op](value, axis=1, keepdims=True, **kept))


def _scan(op: str, value: Array) -> Array:
    functions = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}
    return np.asarray(functions[op].accumulate(value, axis=2, dtype=value.dtype))


def _recurrence(factor: Array, value: Array, initial: Array) -> Array:
    out, state = np.empty_like(value), initial[..., :1]
    for i in range(value.shape[-1]):
        state = factor[..., i : i + 1] * state + value[..., i : i + 1]
        out[..., i : i + 1] = state
    return out


def _apply(op: str, dtype: str, args: list[Array]) -> Array:
    table = _FLOAT if dtype in FLOATS else _BOOL if dtype == "bool" else _INT
    f = table.get(op) or _COMMON[op]
    return np.asarray(f(*args))


def _guarded(f: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: np.where(b == 0, 0, f(a, np.where(b == 0, 1, b)))


def _trunc_div(a: Array, b: Array) -> Array:
    quotient = np.floor_divide(a, b)
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)))


def _int_pow(a: Array, b: Array) -> Array:
    small = np.where(a == 1, 1, np.where(a == -1, np.where(b % 2 == 0, 1, -1), 0))
    return np.where(b < 0, small.astype(a.dtype), np.power(a, np.maximum(b, 0).astype(b.dtype)))


def _shift(f: Callable[[Array, Array], Array], left: bool) -> Callable[[Array, Array], Array]:
    def shift(a: Array, b: Array) -> Array:
        bits = max(a.dtype.itemsize, 4) * 8
        far = np.zeros_like(a) if left else np.where(a < 0, -1, 0).astype(a.dtype)
        inside = (b >= 0) & (b < bits)
        wide = np.uint64 if a.dtype.kind == "u" else np.int64
        return np.where(inside, f(a.astype(wide), np.where(inside, b, 0).astype(wide)), far)

    return shift


def _in_double(f: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *args: f(*(np.asarray(a, np.float64) for a in args))


def _stable_sigmoid(x: Array) -> Array:
    z = np.exp(-np.abs(x))
    return np.where(x < 0, z, 1.0) / (1.0 + z)


_COMMON: dict[str, Callable[..., Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum, "neg": np.negative,
    "abs": np.abs, "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "isnan": np.isnan, "isinf": np.isinf, "where": np.where,
}  # fmt: skip
_IN_DOUBLE: dict[str, Callable[..., Array]] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log1p": np.log1p,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "atan2": np.arctan2, "fmod": np.fmod, "pow": np.power,
    "rsqrt": lambda x: 1 / np.sqrt(x), "sigmoid": _stable_sigmoid, "erf": _ERF,
}  # fmt: skip
_FLOAT: dict[str, Callable[..., Array]] = {
    "div": np.divide, "reciprocal": lambda x: 1 / x, "sign": lambda x: np.where(np.isnan(x), 0, np.sign(x)),
    "sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc,
    **{name: _in_double(f) for name, f in _IN_DOUBLE.items()},
}  # fmt: skip
_INT: dict[str, Callable[..., Array]] = {
    "floordiv": _guarded(np.floor_divide), "mod": _guarded(np.mod), "truncdiv": _guarded(_trunc_div),
    "div": _guarded(_trunc_div), "fmod": _guarded(np.fmod), "pow": _int_pow, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.bitwise_not, "shl": _shift(np.left_shift, True),
    "shr": _shift(np.right_shift, False), "sign": np.sign, "floor": np.positive, "ceil": np.positive,
    "round": np.positive, "trunc": np.positive,
}  # fmt: skip
_BOOL: dict[str, Callable[..., Array]] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not, "add": np.logical_or,
    "mul": np.logical_and, "max": np.logical_or, "min": np.logical_and,
}  # fmt: skip
