"""A slow, obviously right interpreter of schedules: runs the specifications that kernels are generated from in numpy.

It holds the lowering to account without any C++: `interpret(captured, inputs)` runs a whole model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ullage.codegen.loops.ir import (
    Apply,
    Buffer,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    LoopKernel,
    Reduce,
    Ref,
    Scan,
    Sort,
    Store,
    Var,
)
from ullage.codegen.loops.normal import scatters
from ullage.codegen.templates import Attention, Conv2d, Gemm, Strided
from ullage.plan.steps import Gather

_NP = {
    "float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": np.uint16, "int64": np.int64,
    "int32": np.int32, "int16": np.int16, "int8": np.int8, "uint8": np.uint8, "bool": np.bool_,
}  # fmt: skip
Env = dict[str, Any]


def _torch_unary(name: str) -> Any:
    def run(x: Any) -> Any:
        return getattr(torch, name)(torch.as_tensor(np.asarray(x))).numpy()

    return run


_OPS: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "floordiv": np.floor_divide,
    "mod": np.mod, "fmod": np.fmod, "pow": np.power, "max": np.maximum, "min": np.minimum, "atan2": np.arctan2,
    "truncdiv": lambda a, b: np.trunc(a / b).astype(np.asarray(a).dtype),
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "neg": np.negative,
    "shl": np.left_shift, "shr": np.right_shift,
    "where": np.where, "isnan": np.isnan, "isinf": np.isinf, "abs": np.abs, "sign": np.sign, "round": np.rint,
    **{n: _torch_unary(n) for n in (
        "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "asin",
        "acos", "atan", "sinh", "cosh", "tanh", "sigmoid", "erf", "floor", "ceil", "trunc",
    )},
}  # fmt: skip


def evaluate(expr: Expr, env: Env, memory: Mapping[str, np.ndarray]) -> Any:
    """The value of an expression, with variables bound to numbers or broadcastable arrays."""
    match expr:
        case Const(value, dtype):
            return _NP[dtype](value) if dtype != "bfloat16" else np.float32(value)
        case Var(name, _) | Dim(name, _) | Ref(name, _):
            return env[name]
        case Cast(arg, dtype):
            return _cast(evaluate(arg, env, memory), arg.dtype, dtype)
        case Apply(op, args, _):
            return _OPS[op](*(evaluate(a, env, memory) for a in args))
        case Load(buffer, index, dtype, mask, other):
            at = np.asarray(evaluate(index, env, memory))
            if mask is None:
                return _from_storage(memory[buffer][at], dtype)
            keep, at = np.broadcast_arrays(evaluate(mask, env, memory), at)
            value = _from_storage(memory[buffer][np.where(keep, at, 0)], dtype)
            return np.where(keep, value, np.asarray(other, value.dtype))
    raise AssertionError(expr)


def _from_storage(value: np.ndarray, dtype: str) -> np.ndarray:
    return (value.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else value


def _to_storage(value: Any, dtype: str) -> np.ndarray:
    if dtype != "bfloat16":
        return np.asarray(value).astype(_NP[dtype])
    return torch.as_tensor(np.asarray(value, np.float32)).to(torch.bfloat16).view(torch.uint16).numpy()


def _cast(value: Any, source: str, dtype: str) -> Any:
    if dtype == "bfloat16":
        return torch.as_tensor(np.asarray(value, np.float32)).to(torch.bfloat16).float().numpy()
    if dtype == "bool":
        return np.asarray(value) != 0
    return np.asarray(value).astype(_NP[dtype])


def _grid(env: Env, loops: list[tuple[str, int]]) -> Env:
    out = dict(env)
    for axis, (name, size) in enumerate(loops):
        out[name] = np.arange(size).reshape([-1 if a == axis else 1 for a in range(len(loops))])
    return out


_REDUCE = {
    "sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min, "any": np.any, "all": np.all,
    "argmax": np.argmax, "argmin": np.argmin,
}  # fmt: skip


def run_loops(kernel: LoopKernel, memory: dict[str, np.ndarray], dims: Env) -> None:
    """Run a loop kernel over flat arrays by buffer name, outer points one by one."""
    extents = [int(evaluate(loop.extent, dims, {})) for loop in kernel.outer]
    for buffer in kernel.buffers:
        if buffer.access == "local" and buffer.elements is not None:
            memory[buffer.name] = np.zeros(int(evaluate(buffer.elements, dims, {})), _NP[buffer.dtype])
    plain = all(isinstance(s, Store) for stage in kernel.stages for s in stage.body)
    if plain and not any(stage.loops or scatters(stage) for stage in kernel.stages):
        env = _grid(dims, list(zip([loop.var for loop in kernel.outer], extents, strict=True)))
        for stage in kernel.stages:
            for store in stage.body:
                _store(store, env, memory, kernel, tuple(extents))
        return
    for point in np.ndindex(*extents):
        env = {**dims, **{loop.var: i for loop, i in zip(kernel.outer, point, strict=True)}}
        for stage in kernel.stages:
            _run_stage(kernel, stage, env, memory)


def _run_stage(kernel: LoopKernel, stage: Any, env: Env, memory: dict[str, np.ndarray]) -> None:
    sizes = [(loop.var, int(evaluate(loop.extent, env, {}))) for loop in stage.loops]
    shape = tuple(n for _, n in sizes)
    inner = _grid(env, sizes)
    if scatters(stage):
        for at in np.ndindex(*shape):
            here = {**env, **{name: i for (name, _), i in zip(sizes, at, strict=True)}}
            for store in stage.body:
                _store(store, here, memory, kernel, ())
        return
    for statement in stage.body:
        if isinstance(statement, Store):
            _store(statement, inner, memory, kernel, shape)
            continue
        value = np.broadcast_to(evaluate(statement.value, inner, memory), shape)
        if isinstance(statement, Sort):
            order = torch.as_tensor(np.array(value)).sort(stable=True, descending=statement.descending)
            count = int(evaluate(statement.count, env, memory))
            memory[statement.order][:count] = order.indices[:count]
            continue
        if isinstance(statement, Reduce):
            env[statement.name] = inner[statement.name] = _REDUCE[statement.op](value)
        elif isinstance(statement, Scan) and statement.factor is not None:
            factor = np.broadcast_to(evaluate(statement.factor, inner, memory), shape)
            start = 0 if statement.initial is None else evaluate(statement.initial, inner, memory)
            inner[statement.name] = _recurrence(factor, value, np.broadcast_to(start, shape)[..., 0])
        elif isinstance(statement, Scan):
            run = {"sum": np.cumsum, "prod": np.cumprod, "max": np.maximum.accumulate, "min": np.minimum.accumulate}
            inner[statement.name] = run[statement.op](value, axis=-1)
        if isinstance(statement, Scan):
            env[statement.name] = inner[statement.name][..., -1]


def _recurrence(factor: np.ndarray, value: np.ndarray, state: np.ndarray) -> np.ndarray:
    out = np.empty_like(value)
    for i in range(value.shape[-1]):
        out[..., i] = state = factor[..., i] * state + value[..., i]
    return out


def _store(store: Store, env: Env, memory: dict[str, np.ndarray], kernel: Any, shape: tuple[int, ...]) -> None:
    dtype = next(b.dtype for b in kernel.buffers if b.name == store.buffer)
    if store.mask is not None:
        assert shape == (), "stores with masks are run point by point"
        if not evaluate(store.mask, env, memory):
            return
    index = np.broadcast_to(evaluate(store.index, env, memory), shape)
    memory[store.buffer][index] = np.broadcast_to(_to_storage(evaluate(store.value, env, memory), dtype), shape)


def run_gemm(spec: Gemm, memory: dict[str, np.ndarray], dims: Env, weight: np.ndarray | None) -> None:
    """Run a matrix product; `weight` is [n, k] for packed ones."""
    b, m, n, k = (int(evaluate(e, dims, {})) for e in (spec.batch, spec.m, spec.n, spec.k))
    env = _grid(dims, [("b", b), ("m", m), ("n", n)])
    a_dtype = next(x.dtype for x in spec.buffers if x.name == spec.a_buffer)
    rows = np.broadcast_to(evaluate(spec.a_row, env, {}), (b, m, 1))
    left = _from_storage(memory[spec.a_buffer][rows + np.arange(k)], a_dtype).astype(np.float64)
    if weight is not None:
        right = weight.astype(np.float64).T[None]
    else:
        assert spec.b_buffer and spec.b_base and spec.b_stride_k and spec.b_stride_n
        base = (
            np.broadcast_to(evaluate(spec.b_base, env, {}), (b, 1, 1))
            if b > 1
            else evaluate(spec.b_base, {**dims, "b": 0}, {})
        )
        sk, sn = (int(evaluate(e, dims, {})) for e in (spec.b_stride_k, spec.b_stride_n))
        at = base + np.arange(k)[None, :, None] * sk + np.arange(n)[None, None, :] * sn
        right = _from_storage(
            memory[spec.b_buffer][at], next(x.dtype for x in spec.buffers if x.name == spec.b_buffer)
        ).astype(np.float64)
    env["acc"] = (left @ right).astype(np.float32)
    for store in spec.epilogue:
        _store(store, env, memory, spec, (b, m, n))
    _run_later(spec, memory, dims)


def _run_later(spec: Gemm | Conv2d, memory: dict[str, np.ndarray], dims: Env) -> None:
    """Run the row or window epilogue, if there is one."""
    for kernel in spec.later:
        run_loops(kernel, memory, dims)


def run_conv(spec: Conv2d, memory: dict[str, np.ndarray], dims: Env, weight: torch.Tensor) -> None:
    """Run a convolution through torch in float64."""
    b, ih, iw, oh, ow = (int(evaluate(e, dims, {})) for e in (spec.batch, spec.in_h, spec.in_w, spec.out_h, spec.out_w))
    sb, sh, sw = (int(evaluate(e, dims, {})) for e in (spec.x_stride_b, spec.x_stride_h, spec.x_stride_w))
    i, y, x, c = np.ix_(range(b), range(ih), range(iw), range(spec.in_c))
    source = torch.as_tensor(memory[spec.x_buffer][i * sb + y * sh + x * sw + c]).double().permute(0, 3, 1, 2)
    w = weight.double()
    if w.dim() == 3:
        w = w[:, :, None]
    if spec.transposed:
        full = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip((ih, iw), spec.stride, spec.padding, spec.dilation, spec.kernel, strict=True)
        ]
        extra = (oh - full[0], ow - full[1])
        out = torch.nn.functional.conv_transpose2d(
            source, w, None, spec.stride, spec.padding, extra, spec.groups, spec.dilation
        )
    else:
        around = _surrounded(source, spec, (oh, ow))
        out = torch.nn.functional.conv2d(around, w, None, spec.stride, 0, spec.dilation, spec.groups)
    acc = out.permute(0, 2, 3, 1).reshape(b * oh * ow, spec.out_c).float().numpy()
    env = _grid(dims, [("m", b * oh * ow), ("n", spec.out_c)])
    env["acc"] = acc
    for store in spec.epilogue:
        _store(store, env, memory, spec, acc.shape)
    _run_later(spec, memory, dims)


def _surrounded(source: torch.Tensor, spec: Conv2d, size: tuple[int, int]) -> torch.Tensor:
    """The input [b, c, h, w] with the zeros that taps reach before and after it."""
    reach = [
        (n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(size, spec.stride, spec.dilation, spec.kernel, strict=True)
    ]
    top, left = spec.padding
    below, right = (r - n - p for r, n, p in zip(reach, source.shape[2:], spec.padding, strict=True))
    return torch.nn.functional.pad(source, (left, right, top, below))


def run_attention(spec: Attention, memory: dict[str, np.ndarray], dims: Env) -> None:
    """Run attention through torch in float64."""
    b, h, kv, q, k = (
        int(evaluate(e, dims, {})) for e in (spec.batch, spec.heads, spec.kv_heads, spec.queries, spec.keys)
    )

    def at(s: Strided, shape: tuple[int, ...]) -> np.ndarray:
        grids = np.ix_(*(range(n) for n in shape))
        return evaluate(s.offset, dims, {}) + sum(
            g * int(evaluate(e, dims, {})) for g, e in zip(grids, s.strides, strict=True)
        )

    def load(s: Strided, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.as_tensor(_from_storage(memory[s.buffer][at(s, shape)], s.dtype))

    query, key, value = (
        load(spec.q, (b, h, q, spec.head_dim)),
        load(spec.k, (b, kv, k, spec.head_dim)),
        load(spec.v, (b, kv, k, spec.value_dim)),
    )
    mask = None if spec.mask is None else load(spec.mask, (b, h, q, k))
    mask = mask.double() if mask is not None and mask.dtype != torch.bool else mask
    out = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), mask, is_causal=spec.causal, scale=spec.scale, enable_gqa=h != kv
    )
    index = np.broadcast_to(at(spec.out, (b, h, q, spec.value_dim)), out.shape)
    memory[spec.out.buffer][index] = _to_storage(out.float().numpy(), spec.out.dtype)


def run_schedule(scheduled: Any, specs: Mapping[str, Any], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run all steps; `specs` are the specifications by kernel symbol. Returns flat outputs by name."""
    schedule = scheduled.schedule
    dims = {d.name: inputs[d.input_name].shape[d.axis] // d.scale for d in schedule.dimensions}
    raw = {s.name: np.zeros(s.bytes.evaluate(dims), np.uint8) for s in schedule.storages}
    for name, value in inputs.items():
        raw[name] = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8).copy()
    whole = {c.name: c for c in schedule.constants}
    for step in schedule.steps:
        if isinstance(step, Gather):
            _gather(step, scheduled, raw, dims)
            continue
        spec, memory, weight = specs[step.kernel], {}, None
        names = [b for b in spec.buffers if b.access != "local"]
        for buffer, operand in zip(names, step.operands, strict=True):
            if buffer.name == "w":
                weight = scheduled.packers[operand.target]
                continue
            data = raw.get(operand.target)
            if data is None:
                assert operand.target in whole
                data = np.frombuffer(scheduled.packers[operand.target].tile(0), np.uint8).copy()
                raw[operand.target] = data
            memory[buffer.name] = data[operand.offset.evaluate(dims) :].view(_NP[buffer.dtype])
        _run_step(spec, memory, dims, weight)
    return {t.name: raw[t.name] for t in scheduled.outputs}


def _run_step(spec: Any, memory: dict[str, np.ndarray], dims: Env, weight: Any) -> None:
    if isinstance(spec, LoopKernel):
        run_loops(spec, memory, dims)
    elif isinstance(spec, Attention):
        run_attention(spec, memory, dims)
    elif isinstance(spec, Conv2d):
        memory |= {b.name: _local(b, dims) for b in spec.buffers if b.access == "local"}
        run_conv(spec, memory, dims, weight.weight.read(tuple(slice(0, n) for n in weight.weight.shape)))
    else:
        matrix = None
        if weight is not None:
            matrix = weight.weight.read(tuple(slice(0, n) for n in weight.weight.shape)).float().numpy()
            matrix = matrix if weight.outputs == 0 else matrix.T
        run_gemm(spec, memory, dims, matrix)


def _local(buffer: Buffer, dims: Env) -> np.ndarray:
    assert buffer.elements is not None
    return np.zeros(int(evaluate(buffer.elements, dims, {})), _NP[buffer.dtype])


def _gather(step: Gather, scheduled: Any, raw: dict[str, np.ndarray], dims: Env) -> None:
    ids = raw[step.ids.target][step.ids.offset.evaluate(dims) :].view(_NP[step.ids_dtype])[: step.count.evaluate(dims)]
    rows = b"".join(scheduled.packers[step.table].tile(int(i)) for i in ids)
    start = step.out.offset.evaluate(dims)
    raw[step.out.target][start : start + len(rows)] = np.frombuffer(rows, np.uint8)
