"""What GEMM and convolution kernels share: arguments, scalar expressions, the loops of the epilogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import blake2b
from typing import Any, TypeVar

from ullage.codegen.cpp.exprs import Scope
from ullage.codegen.kernel import Kernel
from ullage.codegen.loops.ir import Buffer, Dim, Expr
from ullage.codegen.templates import Attention, Codes, Conv2d, Gemm, PackedPanels
from ullage.errors import InputError
from ullage.plan.sizes import ZERO_SIZE, Size
from ullage.target import Target

Spec = TypeVar("Spec", Gemm, Conv2d, Attention)

HEADERS = ("simd.h", "math.h", "tile.h")
STORAGE_STRUCT = {"float32": "float", "float16": "ull_f16", "bfloat16": "ull_bf16", "uint8": "ull_u8"}
"""C++ types of operand elements; the two half types differ so that `ull_widen_row` can tell them apart."""

_MOST_VECTORS = 4
_FLOATS = frozenset({"float32", "float16", "bfloat16"})
MOST_INTEGERS = 1 << 16
"""Products of uint8 and int8 whose sum fits an int32 whatever they are."""

SYMBOL = "ULLAGE_KERNEL"
"""Stands for the kernel's symbol in its text until the text is complete."""


@dataclass(frozen=True, slots=True)
class Names:
    """C++ names of a kernel's buffers and dimensions (numbered, so that equal kernels have equal text)."""

    buffers: Mapping[str, str]
    dims: Mapping[str, str]

    @staticmethod
    def of(buffers: Sequence[Buffer], dims: Sequence[str]) -> Names:
        """Names in argument order, of dimensions that have been numbered."""
        dim_names = [f"dim{i}" for i in range(len(dims))]
        return Names(
            {b.name: f"buffer{i}" for i, b in enumerate(buffers)}, dict(zip(dim_names, dim_names, strict=True))
        )

    def declarations(self) -> list[str]:
        """Lines that read pointers and dimensions from the arguments."""
        pointers = [f"void *const {name} = args->p[{i}];" for i, name in enumerate(self.buffers.values())]
        return pointers + [f"const ull_i64 {name} = args->n[{i}];" for i, name in enumerate(self.dims.values())]


def check_operands(spec: Gemm | Conv2d, operands: Sequence[str], target: Target) -> None:
    """Raise InputError unless operands and weight are of types that are multiplied and panels are whole vectors."""
    dtypes = {buffer.name: buffer.dtype for buffer in spec.buffers if buffer.name in operands}
    weight = spec.weight
    if isinstance(weight, PackedPanels) and weight.codes is not None:
        _check_codes(weight, weight.codes, dtypes)
    elif isinstance(weight, PackedPanels) and weight.dtype == "int8":
        _check_integers(weight, dtypes)
    else:
        _check_floats(weight, dtypes, target)
    if weight is None:
        return
    assert isinstance(weight, PackedPanels)
    if weight.nr % target.lanes or not 1 <= weight.nr // target.lanes <= _MOST_VECTORS:
        wanted = f"1 to {_MOST_VECTORS} vectors of {target.lanes}"
        raise InputError(f"panels of {weight.nr} outputs do not suit {target}: wanted {wanted}.")


def _check_codes(weight: PackedPanels, codes: Codes, dtypes: Mapping[str, str]) -> None:
    suits = codes.bits in (2, 3, 4, 8) and codes.group in (32, 64, 128, 256) and weight.k % codes.group == 0
    if not suits or weight.word != 4 or set(dtypes.values()) != {"uint8"}:
        raise InputError(
            "codes are of 2, 3, 4 or 8 bits, in groups of 32 to 256 that divide k, times planes of uint8; "
            f"found {codes}, k = {weight.k}, operands {dtypes}."
        )


def _check_integers(weight: PackedPanels, dtypes: Mapping[str, str]) -> None:
    if weight.word != 4 or weight.k % 4 or weight.k > MOST_INTEGERS or set(dtypes.values()) != {"uint8"}:
        raise InputError(
            f"int8 weights are fours of at most {MOST_INTEGERS} values, times uint8; found words of {weight.word}, "
            f"k = {weight.k}, operands {dtypes}."
        )


def _check_floats(weight: object, dtypes: Mapping[str, str], target: Target) -> None:
    wrong = {name: dtype for name, dtype in dtypes.items() if dtype not in _FLOATS}
    if wrong:
        raise InputError(f"operands must be float32, float16 or bfloat16, found {wrong}.")
    if weight is None:
        return
    if not isinstance(weight, PackedPanels) or weight.dtype not in _FLOATS:
        raise InputError(f"the weight must be panels of float32, float16, bfloat16 or int8, found {weight}.")
    if weight.word == 1:
        return
    if weight.word != 2 or set(dtypes.values()) != {"bfloat16"} or weight.k % 2 or not target.dots_bf16:
        raise InputError(f"words of {weight.word} do not suit {target} with operands {dtypes} and k = {weight.k}.")


def with_numbered_dims(spec: Spec) -> Spec:
    """The specification with dimensions called dim0, dim1, ..., so that none is named like a coordinate."""
    renamed: Spec = _renamed(spec, {name: f"dim{i}" for i, name in enumerate(spec.dims)}, {})
    return replace(renamed, dims=tuple(f"dim{i}" for i in range(len(spec.dims))))


def _renamed(value: Any, dims: Mapping[str, str], done: dict[int, Any]) -> Any:
    if isinstance(value, Dim):
        return Dim(dims[value.name])
    if isinstance(value, tuple):
        return tuple(_renamed(item, dims, done) for item in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    if id(value) not in done:
        parts = {field.name: _renamed(getattr(value, field.name), dims, done) for field in fields(value)}
        done[id(value)] = replace(value, **parts)
    return done[id(value)]


def scalar(name: str, expr: Expr, names: Names, coords: Mapping[str, str] | None = None) -> list[str]:
    """Lines that declare the C++ integer `name` with the value of an index expression."""
    scope = Scope({}, prefix=f"{name}_")
    scope.open("")
    for variable, text in {**names.dims, **(coords or {})}.items():
        scope.bind(variable, text)
    scope.line(f"const ull_i64 {name} = {scope.scalar(expr)};")
    return scope.close()


def indent(lines: Iterable[str], spaces: int = 2) -> list[str]:
    """The lines shifted to the right."""
    return [" " * spaces + line for line in lines]


def finish(
    functions: str,
    body: Sequence[str],
    buffers: Sequence[Buffer],
    dims: Sequence[str],
    tasks: Size,
    tiled: bool,
    thread_bytes: Size,
    features: frozenset[str] = frozenset(),
    shared_bytes: Size = ZERO_SIZE,
) -> Kernel:
    """The kernel of a function body, named by the hash of its text; sizes are in numbered dimensions."""
    signature = f'extern "C" void {SYMBOL}(const UllageArgs *args, ull_i64 begin, ull_i64 end) {{'
    text = "\n".join([functions, signature, *indent(body), "}", ""])
    symbol = f"k_{blake2b(text.encode(), digest_size=12).hexdigest()}"
    original = {f"dim{i}": name for i, name in enumerate(dims)}
    return Kernel(
        symbol=symbol,
        source=text.replace(SYMBOL, symbol),
        headers=HEADERS,
        buffers=tuple(buffer.name for buffer in buffers if buffer.access != "local"),
        dims=tuple(dims),
        tasks=_in_terms_of(original, tasks),
        tiled=tiled,
        features=features,
        shared_bytes=_in_terms_of(original, shared_bytes),
        thread_bytes=_in_terms_of(original, thread_bytes),
    )


def _in_terms_of(names: Mapping[str, str], size: Size) -> Size:
    return Size(tuple(names.get(token, token) if isinstance(token, str) else token for token in size.tokens))
