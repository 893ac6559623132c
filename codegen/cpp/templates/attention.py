"""Attention: the C++ text that describes one attention to the functions of `attention.h`."""

from __future__ import annotations

from dataclasses import replace

from ullage.codegen.cpp.templates.tile_counts import ceil_div, combine, fold, known, to_size
from ullage.codegen.cpp.templates.tile_kernel import Names, finish, indent, scalar, with_numbered_dims
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import Const, Expr
from ullage.codegen.templates import Attention, Strided
from ullage.errors import InputError
from ullage.plan.sizes import Size
from ullage.target import BF16_DOT, Target

HEADERS = ("simd.h", "attention.h")
KEY_BLOCK = 64
"""Keys between two rescalings of the running sums; part of the numerics."""

_STORAGE = {"float32": "ull_float32", "bfloat16": "ull_bfloat16", "float16": "ull_float16"}
_KEEP = {"bool": "ull_keep_mask", "uint8": "ull_keep_mask"}
_MASK_STORAGE = {"none": {"": "ull_keep_mask"}, "add": _STORAGE, "keep": _KEEP}


def emit_attention(spec: Attention, target: Target) -> Kernel:
    """The kernel of an attention for a CPU target; a task is a block of rows of one batch and key-value head.

    Scores and outputs are sums of fused multiply-adds in ascending order, rescaled per `KEY_BLOCK` keys, whatever the
    rows, tasks and threads. If q, k and v are all bfloat16, and the target has an instruction for it, products are of
    pairs, for which the softmax's weights are rounded to bfloat16; else halves are converted to float32.
    Raises InputError for other dtypes or strides than attention has.
    """
    _check(spec)
    numbered = with_numbered_dims(spec)
    rows = combine("mul", fold(numbered.queries), _group(numbered))
    blocks = ceil_div(rows, 3 * target.lanes)
    tasks = combine("mul", combine("mul", fold(numbered.batch), fold(numbered.kv_heads)), blocks)
    kernel = finish(
        functions="",
        body=_body(numbered, Names.of(spec.buffers, spec.dims), in_pairs(spec, target)),
        buffers=spec.buffers,
        dims=spec.dims,
        tasks=to_size(tasks),
        tiled=False,
        thread_bytes=Size((_thread_bytes(spec, target),)),
        features=frozenset({BF16_DOT}) if in_pairs(spec, target) else frozenset(),
    )
    return replace(kernel, headers=HEADERS)


def _group(spec: Attention) -> Expr:
    """Query heads per key-value head."""
    if spec.heads == spec.kv_heads:
        return Const(1)
    return combine("floordiv", fold(spec.heads), fold(spec.kv_heads))


def in_pairs(spec: Attention, target: Target) -> bool:
    """Whether products are of pairs of bfloat16."""
    return target.dots_bf16 and all(operand.dtype == "bfloat16" for operand in (spec.q, spec.k, spec.v))


def _check(spec: Attention) -> None:
    operands = {"q": spec.q, "k": spec.k, "v": spec.v, "out": spec.out}
    wrong = [f"{name} is {o.dtype}" for name, o in operands.items() if o.dtype not in _STORAGE]
    widths = {"q": spec.head_dim, "k": spec.head_dim, "v": spec.value_dim, "out": spec.value_dim}
    wrong += [f"{n} has last stride {o.strides[3]}" for n, o in operands.items() if _gaps(o, widths[n])]
    mask = spec.mask.dtype if spec.mask else ""
    if mask not in _MASK_STORAGE[spec.mask_kind]:
        wrong.append(f"mask of kind {spec.mask_kind} is {mask or 'missing'}")
    if wrong:
        raise InputError(f"attention needs contiguous float32, bfloat16 or float16 rows, found: {'; '.join(wrong)}.")


def _gaps(operand: Strided, width: int) -> bool:
    return width > 1 and known(operand.strides[3]) != 1


def _mask_mode(spec: Attention) -> str:
    """Whether the mask is the same for all rows of a block, so that it is read once per key."""
    if spec.mask is None:
        return "ATT_NO_MASK"
    one_head = known(_group(spec)) == 1 or known(spec.mask.strides[1]) == 0
    return "ATT_KEY_MASK" if one_head and known(spec.mask.strides[2]) == 0 else "ATT_FULL_MASK"


def _thread_bytes(spec: Attention, target: Target) -> int:
    """What `att_task` of attention.h hands out."""
    rows, word = 3 * target.lanes, 2 if in_pairs(spec, target) else 1
    words = -(-spec.head_dim // word)
    padded_head = -(-words // target.lanes) * target.lanes
    floats = rows * (4 + KEY_BLOCK + padded_head + spec.value_dim)
    floats += (word == 1 and spec.k.dtype != "float32") * KEY_BLOCK * spec.head_dim
    floats += (spec.v.dtype != "float32") * KEY_BLOCK // word * spec.value_dim
    floats += {"ATT_NO_MASK": 0, "ATT_KEY_MASK": KEY_BLOCK, "ATT_FULL_MASK": KEY_BLOCK * rows}[_mask_mode(spec)]
    return -(-(2 * rows * 8 + floats * 4) // 64) * 64


def _body(spec: Attention, names: Names, pairs: bool) -> list[str]:
    lines = names.declarations()
    for name in ("heads", "kv_heads", "queries", "keys"):
        lines += scalar(name, getattr(spec, name), names)
    operands = {"q": spec.q, "k": spec.k, "v": spec.v, "out": spec.out}
    if spec.mask is not None:
        operands["mask"] = spec.mask
    for name, operand in operands.items():
        for part, expr in zip(("offset", "b", "h", "s", "d"), (operand.offset, *operand.strides), strict=True):
            lines += scalar(f"{name}_{part}", expr, names)
    fields = [_operand(name, operand, names) for name, operand in operands.items()]
    fields += ["mask_d" if spec.mask else "{0, 0, 0, 0}, 0", "heads, kv_heads, queries, keys", _float(spec.scale)]
    return [
        *lines,
        f"typedef {_shape(spec, pairs)} Shape;",
        "const AttProblem<Shape> problem = {",
        *indent(f"{field}," for field in fields),
        "};",
        "att_tasks(problem, args->thread, begin, end);",
    ]


def _operand(name: str, operand: Strided, names: Names) -> str:
    data = f"({(_STORAGE | _KEEP)[operand.dtype]}::memory *){names.buffers[operand.buffer]} + {name}_offset"
    return f"{{{data}, {name}_b, {name}_h, {name}_s}}"


def _shape(spec: Attention, pairs: bool) -> str:
    mask = _MASK_STORAGE[spec.mask_kind][spec.mask.dtype if spec.mask else ""]
    storage = ", ".join([*(_STORAGE[o.dtype] for o in (spec.q, spec.k, spec.v, spec.out)), mask])
    rows = combine("mul", fold(spec.queries), _group(spec))
    dims = f"{spec.head_dim}, {spec.value_dim}, {_mask_mode(spec)}, {_bool(spec.causal)}"
    return f"AttShape<{dims}, {known(rows) or 0}, {_bool(pairs)}, {storage}>"


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _float(value: float) -> str:
    return f"(float){value!r}"
