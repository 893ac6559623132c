"""Loops: the small immutable IR that becomes C++ or Triton text.

A kernel iterates an outer (parallel) space; for each outer point it runs its stages in order, and each stage runs its
own loops over a body of stores, reductions, scans and sorts. Index and value expressions share one type; index
arithmetic has dtype `int64`. Buffers are flat; an index counts elements. Dimensions (`Dim`) are the kernel's run-time
sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

DTYPE_BYTES: dict[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
    "uint64": 8, "uint32": 4, "uint16": 2,
}  # fmt: skip
FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})

# Scalar operators: name -> (arity, result dtype rule). "same" = dtype of the last argument; "bool" = bool; "own" = what
# is declared.
# Integer `floordiv`/`mod` round toward minus infinity (Python's rule) and are only emitted for index arithmetic and
# integer tensors; `div` is for floats. `where` takes (condition, if_true, if_false). `bits` gives
# the bits of a value as another dtype of equal size, none of them bool. half types compute in float32.
OPS: dict[str, tuple[int, str]] = {
    "add": (2, "same"), "sub": (2, "same"), "mul": (2, "same"), "div": (2, "same"), "floordiv": (2, "same"),
    "mod": (2, "same"), "truncdiv": (2, "same"), "fmod": (2, "same"), "pow": (2, "same"), "max": (2, "same"),
    "min": (2, "same"), "atan2": (2, "same"),
    "and": (2, "same"), "or": (2, "same"), "xor": (2, "same"), "shl": (2, "same"), "shr": (2, "same"),
    "eq": (2, "bool"), "ne": (2, "bool"), "lt": (2, "bool"), "le": (2, "bool"), "gt": (2, "bool"), "ge": (2, "bool"),
    "neg": (1, "same"), "abs": (1, "same"), "not": (1, "same"), "sign": (1, "same"), "isnan": (1, "bool"),
    "isinf": (1, "bool"), "exp": (1, "same"), "exp2": (1, "same"), "expm1": (1, "same"), "log": (1, "same"),
    "log2": (1, "same"), "log1p": (1, "same"), "sqrt": (1, "same"), "rsqrt": (1, "same"), "reciprocal": (1, "same"),
    "sin": (1, "same"), "cos": (1, "same"), "tan": (1, "same"), "asin": (1, "same"), "acos": (1, "same"),
    "atan": (1, "same"), "sinh": (1, "same"), "cosh": (1, "same"), "tanh": (1, "same"), "sigmoid": (1, "same"),
    "erf": (1, "same"), "floor": (1, "same"), "ceil": (1, "same"), "round": (1, "same"), "trunc": (1, "same"),
    "where": (3, "same"), "bits": (1, "own"),
}  # fmt: skip

ReduceOp = Literal["sum", "prod", "max", "min", "any", "all", "argmax", "argmin"]
ScanOp = Literal["sum", "prod", "max", "min", "linear"]


@dataclass(frozen=True, slots=True)
class Const:
    """A literal of the given dtype."""

    value: int | float | bool
    dtype: str = "int64"


@dataclass(frozen=True, slots=True)
class Var:
    """A loop variable (int64)."""

    name: str
    dtype: str = "int64"


@dataclass(frozen=True, slots=True)
class Dim:
    """A run-time size of the kernel (int64, ≥ 1)."""

    name: str
    dtype: str = "int64"


@dataclass(frozen=True, slots=True)
class Load:
    """`buffer[index]`; where `mask` is false memory is not touched and the value is `other`."""

    buffer: str
    index: Expr
    dtype: str
    mask: Expr | None = None
    other: int | float | bool = 0


@dataclass(frozen=True, slots=True)
class Apply:
    """A scalar operator of `OPS` applied to arguments of equal dtype (the condition of `where` is bool)."""

    op: str
    args: tuple[Expr, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Cast:
    """Conversion; float → int truncates toward zero, anything → bool is `!= 0`, float → half rounds to nearest even."""

    arg: Expr
    dtype: str


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of an earlier `Reduce` of the same outer point, of a `Scan` in the same stage (in later ones its last
    value, if its stage has one loop), or of a template (`acc`: the accumulator)."""

    name: str
    dtype: str


Expr = Const | Var | Dim | Load | Apply | Cast | Ref


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop from 0 to `extent` (exclusive); `extent` uses only `Const`, `Dim` and index operators."""

    var: str
    extent: Expr


@dataclass(frozen=True, slots=True)
class Store:
    """`buffer[index] = value` (value is converted to the buffer's dtype by an explicit `Cast`, never silently).

    Where `mask` is false memory is not touched. An index that is data may be the same in several iterations: such a
    stage runs in row-major order, so the last one wins, or reads what the earlier ones left (see `scatters`).
    """

    buffer: str
    index: Expr
    value: Expr
    mask: Expr | None = None


@dataclass(frozen=True, slots=True)
class Reduce:
    """Reduce `value` over all loops of the stage; later stages read it as `Ref(name)`.

    float16/bfloat16 values are cast to float32 by the lowering before they are reduced. `argmax`/`argmin` give the
    int64 position (row-major over the stage's loops) of the first extreme; a NaN counts as the extreme, as in torch.
    The order of accumulation is fixed by the emitter's constants and never depends on threads, tasks or budgets.
    """

    name: str
    op: ReduceOp
    value: Expr


@dataclass(frozen=True, slots=True)
class Scan:
    """Running reduction along the last loop of the stage (inclusive); what follows in the body reads `Ref(name)`.

    `linear` is the recurrence `y = factor · y + value`. It starts from `initial`, which is the same all along the last
    loop, or from 0. Other operators have neither. A body may hold several scans: they advance together.
    """

    name: str
    op: ScanOp
    value: Expr
    factor: Expr | None = None
    initial: Expr | None = None


@dataclass(frozen=True, slots=True)
class Sort:
    """The first `count` positions along the stage's only loop in the ascending (or `descending`) order of `value`.

    They are stored to `order`, a local int64 buffer with the elements of `sorting.order_elements`; what is behind them
    is undefined. Equal values (−0 and 0 are equal) keep their order, NaN counts as the greatest, as in torch.
    """

    order: str
    value: Expr
    count: Expr
    descending: bool = False


Statement = Store | Reduce | Scan | Sort


@dataclass(frozen=True, slots=True)
class Stage:
    """Loops over a body; with no loops the body runs once per outer point."""

    loops: tuple[Loop, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Buffer:
    """A flat buffer; `local` ones are scratch of one outer point (`elements` long), placed in thread workspace."""

    name: str
    dtype: str
    access: Literal["r", "w", "rw", "local"]
    elements: Expr | None = None


@dataclass(frozen=True, slots=True)
class LoopKernel:
    """A whole kernel. Outer points are independent of each other and may run in any order on any thread."""

    buffers: tuple[Buffer, ...]
    dims: tuple[str, ...]
    outer: tuple[Loop, ...]
    stages: tuple[Stage, ...]


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct sub-expressions."""
    match expr:
        case Load(_, index, _, mask, _):
            return (index,) if mask is None else (index, mask)
        case Apply(_, args, _):
            return args
        case Cast(arg, _):
            return (arg,)
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and all its sub-expressions, parents first (shared ones once each time they are reached)."""
    yield expr
    for child in children(expr):
        yield from walk(child)
